import inspect
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import envelope, roster, wire
from protocols.errors import Malformed
from protocols.wire import Step

MESSAGES = [
    kind
    for _, kind in inspect.getmembers(wire, inspect.isclass)
    if issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct
]


@pytest.fixture(scope="module")
def recorded(vectors):
    """Every message of one session, as bytes with their kind."""
    up = dict(zip(Step, (wire.Announcement, wire.Deal, wire.Upload, wire.Agreement, wire.Opening), strict=True))
    down = dict(
        zip(
            Step,
            (wire.SignedPlan, wire.Announcements, wire.Deliveries, wire.Uploads, wire.Quorum),
            strict=True,
        )
    )
    session = vectors["session"]
    found = [(down[s], bytes.fromhex(m)) for s in Step for m in session["requests"][s.value].values()]
    sent = [(up[s], bytes.fromhex(m)) for s in Step for m in session["answers"][s.value].values()]
    return found + [(kind, wire.encode(envelope.unverified(kind, data))) for kind, data in sent]


@given(st.sampled_from(MESSAGES), st.binary(max_size=300))
def test_any_bytes_are_a_canonical_message_or_malformed(kind, data):
    try:
        message = wire.decode(kind, data, 1 << 16)
    except Malformed:
        return
    assert wire.encode(message) == data


@settings(max_examples=300)
@given(st.data())
def test_changed_messages_are_canonical_or_malformed(recorded, data):
    kind, right = data.draw(st.sampled_from(recorded))
    assert wire.encode(wire.decode(kind, right, 1 << 20)) == right
    place = data.draw(st.integers(0, len(right) - 1))
    cut, insert = data.draw(st.integers(0, 2)), data.draw(st.binary(max_size=3))
    changed = right[:place] + insert + right[place + cut :]
    try:
        message = wire.decode(kind, changed, 1 << 20)
    except Malformed:
        return
    assert wire.encode(message) == changed
    assert changed == right or message != wire.decode(kind, right, 1 << 20)


def test_no_message_is_taken_for_another(recorded):
    one_each = dict(recorded)
    for kind, data in one_each.items():
        for other in MESSAGES:
            if other is not kind:
                with pytest.raises(Malformed):
                    wire.decode(other, data, 1 << 20)


def test_real_messages_stay_within_their_limits(make_world):
    seen = []
    world = make_world(vectors=(("update", 1000), ("scores", 1)), ring_bits=62)

    class Listening:
        def exchange(self, step, outgoing):
            for client in outgoing:
                answer = world.ask(client, step, outgoing[client])
                seen.append((step, outgoing[client], answer))
                yield client, answer

    world.run(Listening())
    up = dict(zip(Step, (wire.Announcement, wire.Deal, wire.Upload, wire.Agreement, wire.Opening), strict=True))
    down = dict(zip(list(Step)[1:], (wire.Announcements, wire.Deliveries, wire.Uploads, wire.Quorum), strict=True))
    for step, request, answer in seen:
        assert len(answer) <= wire.limit(up[step], world.plan) + envelope.OVERHEAD
        if step in down:
            assert len(request) <= wire.limit(down[step], world.plan)


@pytest.mark.parametrize("n", [6, 300, 1000])
def test_limits_leave_room_for_the_largest_ids(n, make_world):
    """The worst case by construction: full cohort, 5-byte ids, longest paths."""
    plan = make_world().change_plan(
        cohort=tuple(range(2**32 - n, 2**32)), neighbours=n - 1, vectors=(("u" * 64, 1),), ring_bits=62
    )
    b32, b64, ids = bytes(32), bytes(64), plan.cohort
    leaf = wire.encode(wire.Leaf(ids[-1], b32, bytes(49), b32, bytes(49)))
    roots = wire.encode(wire.Roots(b32, tuple(wire.SignedRoot(i, b32, b32, b64) for i in ids)))
    path = (b32,) * (n - 1).bit_length()
    largest = [
        wire.Announcement(ids[-1], b32, b32, b64),
        wire.Announcements(b32, tuple(wire.Announcement(i, b32, b32, b64) for i in ids)),
        wire.Leaf(ids[-1], b32, bytes(49), b32, bytes(49)),
        wire.Deal(ids[-1], b32, (leaf,) * n, b64),
        wire.Roots(b32, tuple(wire.SignedRoot(i, b32, b32, b64) for i in ids)),
        wire.Deliveries(b32, roots, tuple(wire.Delivery(i, leaf, path) for i in ids)),
        wire.Upload(ids[-1], (bytes(plan.upload_size),), b64),
        wire.Uploads(b32, tuple(wire.UploadDigest(i, b32, b64) for i in ids)),
        wire.Agreement(ids[-1], b64),
        wire.Quorum(b32, tuple(wire.Agreement(i, b64) for i in ids)),
        wire.Opening(ids[-1], tuple(wire.OpenedShare(i, bytes(33)) for i in ids), b64),
    ]
    for message in largest:
        assert len(wire.encode(message)) <= wire.limit(type(message), plan)


@pytest.mark.parametrize("post_quantum", [False, True])
@pytest.mark.parametrize("n", [5, 9, 300])
def test_the_sizes_that_the_specification_states_are_those_of_the_code(n, post_quantum, make_world):
    """A client written from the text alone must refuse the same bytes."""
    plan = make_world(clients=9, post_quantum=post_quantum).change_plan(cohort=tuple(range(n)), neighbours=n - 1)
    text = (Path(wire.__file__).parent / "SPEC.md").read_text()
    stated = text[text.index("**5.1 Sizes.**") : text.index("An envelope may add")].replace("\n", " ")
    names = {"n": n, "h": n, "K": plan.key_bytes, "g": 2490 if post_quantum else 190, "b": n.bit_length()}
    kinds = {kind.__struct_config__.tag: kind for kind in MESSAGES}
    seen = set()
    for part in stated.split(";"):
        tags = re.findall(r"`([a-z ]+)`", part)
        formula = part.rpartition("`")[2].strip(" .").replace("^", "**")
        formula = re.sub(r"(?<=[\dnhb])(?: )?(?=[Knhb(])", "*", formula.replace(" (", "("))
        size = eval(formula.replace(" b ", "*b "), {}, names)  # noqa: S307  # our own document's arithmetic
        for tag in tags:
            assert size == known_limit(kinds.get(tag), plan), (tag, formula)
            seen.add(tag)
    assert len(seen) == 14


def known_limit(kind, plan):
    fixed = {wire.SignedPlan: wire.MAX_PLAN, None: roster.MAX_BYTES}
    return fixed[kind] if kind in fixed else wire.limit(kind, plan)


def test_a_message_above_its_limit_is_refused_before_it_is_read():
    with pytest.raises(Malformed, match="at most 10"):
        wire.decode(wire.Agreement, bytes(11), 10)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        b"\x93\xa9agreement\x01" + b"\xc4\x40" + bytes(64) + b"\0",
        b"\x93\xa9agreement\xcd\x00\x01" + b"\xc4\x40" + bytes(64),
        b"\x94\xa9agreement\x01" + b"\xc4\x40" + bytes(64) + b"\x01",
        b"\x93\xa9agreement\xff" + b"\xc4\x40" + bytes(64),
        b"\x93\xa9agreement\xce\xff\xff\xff\xff" + b"\xc4\x3f" + bytes(63),
        b"\x92\xa9agreement\x01",
        b"\xdc\x00\x03\xa9agreement\x01" + b"\xc4\x40" + bytes(64),
        b"\xdd\xff\xff\xff\xff",
    ],
)
def test_other_forms_of_a_message_are_refused(data):
    with pytest.raises(Malformed):
        wire.decode(wire.Agreement, data, 1000)
    right = b"\x93\xa9agreement\x01" + b"\xc4\x40" + bytes(64)
    assert wire.decode(wire.Agreement, right, 1000) == wire.Agreement(1, bytes(64))


def test_the_session_of_a_message_is_read_from_its_beginning(recorded):
    for kind, data in recorded:
        if "session" in kind.__struct_fields__:
            assert wire.session_in(kind, data) == wire.decode(kind, data, 1 << 20).session
            with pytest.raises(Malformed):
                wire.session_in(kind, data[:20])
        else:
            with pytest.raises(Malformed):
                wire.session_in(wire.Quorum, data)


def test_the_session_changes_with_every_field_of_the_plan(make_world):
    world = make_world()
    plan, seen = world.plan, {wire.session_of(world.plan)}
    changes = {
        "version": 3,
        "run": bytes(16),
        "session_number": 2,
        "roster_digest": bytes(32),
        "roster_version": 2,
        "cohort": plan.cohort[:-1],
        "context": plan.context[:1],
        "settings": b"{ }",
        "vectors": (("update", 6), ("scores", 2)),
        "ring_bits": 21,
        "adversary": "honest_but_curious",
        "colluders": 2,
        "quorum": 5,
        "threshold": 5,
        "floor": 5,
        "neighbours": 4,
    }
    assert set(changes) == set(wire.RoundPlan.__struct_fields__)
    for name, value in changes.items():
        seen.add(wire.session_of(msgspec.structs.replace(plan, **{name: value})))
    assert len(seen) == len(changes) + 1


def test_outcomes_differ_in_every_part():
    entries = tuple(wire.UploadDigest(i, bytes([i]) * 32, bytes(64)) for i in (1, 2))
    made = {
        wire.list_digest(bytes(32), entries, (3,)),
        wire.list_digest(b"x" * 32, entries, (3,)),
        wire.list_digest(bytes(32), entries[:1], (3,)),
        wire.list_digest(bytes(32), entries, (4,)),
        wire.list_digest(bytes(32), entries, ()),
        wire.list_digest(bytes(32), (entries[0], wire.UploadDigest(2, bytes(32), bytes(64))), (3,)),
    }
    assert len(made) == 6


def test_ids_that_repeat_or_fall_do_not_ascend():
    assert wire.ascending([])
    assert wire.ascending([1, 2, 5])
    assert not wire.ascending([1, 1])
    assert not wire.ascending([2, 1])


@pytest.mark.parametrize("kind", [*MESSAGES, roster.Handover], ids=lambda kind: kind.__name__)
def test_no_message_has_room_for_more_fields_or_can_be_changed(kind):
    config = kind.__struct_config__
    assert (config.frozen, config.array_like, config.forbid_unknown_fields) == (True, True, True)
