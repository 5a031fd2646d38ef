"""A server signs what it likes: whatever the entries that it shows say, a client signs or says why not, at once."""

import json
import tracemalloc
from fractions import Fraction

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fgrpo_secure import entropy
from fgrpo_secure.ledger import checkpoint_note, cosigning
from fgrpo_secure.ledger.checkpoint_note import Checkpoint
from fgrpo_secure.ledger.cosigning import Exhibit, Own, Shown, Unwitnessed
from fgrpo_secure.ledger.entries import count_ids, ids_text, read_ids
from fgrpo_secure.ledger.testimony import Charged
from protocols import merkle
from protocols.identity import Identity

SERVER = Identity.from_seed(b"s" * 32)
ORIGIN = cosigning.origin(SERVER.public, bytes(16))
SESSION = b"\1" * 32
OPENED = {"kind": "intent", "position": 0, "session": SESSION.hex(), "charge": "1/2", "facts": {}}
SETTLED = {
    "kind": "settled",
    "position": 1,
    "session": SESSION.hex(),
    "charge": "1/3",
    "facts": {"survivors": f"{SESSION.hex()}:0-8", "training_round": 4},
}
BOMB = "0-1048574"  # a few characters that name a million clients
BOMBS = [f"{SESSION.hex()}:0-8 " + " ".join(f"{part:x}:{BOMB}" for part in range(count)) for count in (3, 50_000)]
NASTY = [
    f"{SESSION.hex()}:{BOMB}",
    f"{SESSION.hex()}:0-{'9' * 19}",
    "1e300000000",
    "9" * 5000,
    "1/0",
    "0-99999999999",
    "\ud800",
    -1,
    2**70,
    1e308,
    None,
    [],
    {},
    True,
    "1/3/5",
    "",
]
VALUES = st.sampled_from(NASTY) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


def show(*entries):
    """An exhibit that proves itself: the server made the tree, and signed its root."""
    data = [entry if isinstance(entry, bytes) else canonical(entry) for entry in entries]
    leaves = [merkle.leaf_hash(entry) for entry in data]
    checkpoint = Checkpoint(ORIGIN, len(data), merkle.root(leaves))
    note = checkpoint_note.sign(checkpoint, cosigning.signer(SERVER, cosigning.SERVER))
    paths = merkle.inclusion_paths(leaves)
    shown = tuple(Shown(place, entry, path) for place, (entry, path) in enumerate(zip(data, paths, strict=True)))
    return msgspec.msgpack.encode(Exhibit(note, 0, (), shown))


def canonical(entry):
    """The form that an entry has, also of what no entry may hold."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()


def judged(*entries):
    """Whether a client signs; it takes part of a second of processor time and little memory at most."""
    own = [Own(Charged(0, SESSION.hex(), Fraction(1, 3), 9), 4, 1, full=Fraction(1, 2))]
    shown = show(*entries)
    tracemalloc.start()
    started = entropy.processor_time()
    try:
        cosigning.examine(shown, SERVER.public, ORIGIN, None, own)
    except Unwitnessed:
        return False
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert entropy.processor_time() - started < 2
        assert peak < (1 << 20) + 32 * len(shown)
    return True


def test_the_entries_that_are_changed_below_are_ones_that_a_client_signs():
    assert judged(OPENED, SETTLED)


@given(
    st.integers(0, 1),
    st.sampled_from(["kind", "position", "session", "charge", "facts", "survivors", "training_round", "shards"]),
    VALUES,
)
@example(1, "charge", "1e300000000")
@example(1, "charge", "-1e300000000")
def test_a_changed_entry_is_judged_and_never_paid_for_with_less(which, key, value):
    entries = [{**each, "facts": dict(each["facts"])} for each in (OPENED, SETTLED)]
    place = entries[which]["facts"] if key in ("survivors", "training_round", "shards") else entries[which]
    place[key] = value
    try:
        json.dumps(entries).encode()
    except (UnicodeEncodeError, ValueError):
        return
    if judged(*entries) and (which, key) == (1, "charge"):
        assert Fraction(value) >= Fraction(1, 3)


@pytest.mark.parametrize("survivors", BOMBS)
def test_a_million_survivors_of_each_of_many_other_sessions_are_none_of_a_clients_business(survivors):
    assert judged(OPENED, {**SETTLED, "facts": {**SETTLED["facts"], "survivors": survivors}})


def test_a_client_of_many_sessions_reads_entries_that_name_many_only_once():
    names = [f"{number:064x}" for number in range(20_000)]
    own = [Own(Charged(n, names[n], Fraction(1, 3), 9), 4, 1, full=Fraction(1, 2)) for n in range(400)]
    opened = {**OPENED, "facts": {"shards": " ".join(names)}}
    settled = {**SETTLED, "charge": "1/1", "facts": {"survivors": " ".join(f"{n:x}:0" for n in range(50_000))}}
    shown, started = show(opened, settled), entropy.processor_time()
    with pytest.raises(Unwitnessed, match="charges two sessions"):
        cosigning.examine(shown, SERVER.public, ORIGIN, None, own)
    assert entropy.processor_time() - started < 2


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(0, 12))
def test_ids_are_read_in_their_one_form_and_never_more_than_there_can_be(ids, most):
    written = ids_text(ids)
    assert count_ids(written) == len(set(ids))
    if len(set(ids)) <= most:
        assert read_ids(written, most) == tuple(sorted(set(ids)))
    else:
        with pytest.raises(ValueError, match="ids where there can be"):
            read_ids(written, most)


@pytest.mark.parametrize(
    "ranges", ["1,0", "0,1", "3-3", "3-2", "01", "0-", "-1", "1,", ",", "x", "\u0661", "0 ", "1_0"]
)
def test_any_other_form_of_a_list_of_ids_is_refused(ranges):
    with pytest.raises(ValueError, match="list of ids"):
        read_ids(ranges, 100)


def test_one_bound_is_over_the_survivors_of_all_sessions_of_an_entry():
    settled = {"facts": {"survivors": "aa:0-4 bb:5-9"}}
    assert cosigning.survivors_of(settled, 10) == {"aa": (0, 1, 2, 3, 4), "bb": (5, 6, 7, 8, 9)}
    for survivors, most in (("aa:0-4 bb:5-9", 9), (" ".join(f"{part:x}:{BOMB}" for part in range(9)), 100)):
        with pytest.raises(ValueError, match="there can be"):
            cosigning.survivors_of({"facts": {"survivors": survivors}}, most)


def in_a_tree_of(size, entry):
    """An exhibit of the last of `size` entries, whose path the server chose and whose root follows from it."""
    path = tuple(bytes([level]) * 32 for level in range((size - 1).bit_count()))
    data = canonical({**entry, "position": size - 1})
    root = merkle.root_from_path(merkle.leaf_hash(data), size - 1, size, path)
    note = checkpoint_note.sign(Checkpoint(ORIGIN, size, root), cosigning.signer(SERVER, cosigning.SERVER))
    return msgspec.msgpack.encode(Exhibit(note, 0, (), (Shown(size - 1, data, path),)))


CLOSED = {"kind": "closed", "facts": {"adapter": "aa" * 32}}


@pytest.mark.parametrize("power", [0, 1, 20, 52, 53])
def test_a_tree_of_any_size_that_can_be_stored_is_judged(power):
    shown = in_a_tree_of(1 << power, CLOSED)
    found = cosigning.examine(shown, SERVER.public, ORIGIN, None, [], released=b"\xaa" * 32)
    assert found.checkpoint.size == 1 << power


@pytest.mark.parametrize("size", [(1 << 53) + 1, 1 << 63, (1 << 64) - 1])
def test_a_tree_larger_than_any_store_keeps_is_not_signed(size):
    with pytest.raises(Unwitnessed):
        cosigning.examine(in_a_tree_of(size, CLOSED), SERVER.public, ORIGIN, None, [], released=b"\xaa" * 32)


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [(0, "position", 0.0), (0, "position", False), (1, "position", True), (1, "position", 1.0), (1, "training", 4.0)],
)
def test_a_number_that_only_looks_like_one_is_no_number(place, key, value):
    entries = [{**each, "facts": dict(each["facts"])} for each in (OPENED, SETTLED)]
    if key == "training":
        entries[place]["facts"]["training_round"] = value
    else:
        entries[place][key] = value
    assert not judged(*entries)


def test_an_entry_with_a_name_twice_or_in_another_form_is_refused():
    data = canonical(SETTLED)
    assert judged(OPENED, data)
    for other in (data.replace(b'"kind"', b'"kind":"x","kind"'), data.replace(b":", b": "), data + b"\n"):
        assert not judged(OPENED, other)


@given(VALUES | st.binary(max_size=60))
def test_what_is_no_entry_is_refused(value):
    assert not judged(value if isinstance(value, bytes) else {"0": value}, SETTLED)


@pytest.mark.parametrize("depth", [1_000, 30_000])
def test_nesting_a_thousand_deep_is_refused(depth):
    assert not judged(OPENED, b"[" * depth + b"]" * depth)
