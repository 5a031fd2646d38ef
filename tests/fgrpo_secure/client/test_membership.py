"""What a client trusts grows only by what its authority signed, and outlives the process."""

import contextlib

import pytest

from fgrpo_secure.client.membership import Trust
from fgrpo_secure.client.store import AnswerConflict, ClientStore
from fgrpo_secure.storage import identity_file
from protocols.errors import BadSignature, FaultyServer, Refused
from protocols.identity import Identity
from protocols.roster import MAX_HANDOVERS, Entry, Roster, hand_over, sign_roster

AUTHORITY, NEXT, SERVER = (Identity.from_seed(letter * 32) for letter in (b"a", b"n", b"s"))
SEEDS = [bytes([i + 1]) * 32 for i in range(4)]
KEYS = [Identity.from_seed(seed).public for seed in SEEDS]


def signed(version=1, keys=(0, 1, 2), by=AUTHORITY, chain=(), **fields):
    members = tuple(
        Entry(id, f"c{id}", KEYS[key]) for id, key in enumerate(keys) if id not in fields.get("revoked", ())
    )
    return sign_roster(by, Roster(version, by.public, members, **fields), chain)


FIRST = signed()
REVOKED = signed(2, revoked=(2,), retired=(KEYS[2],))
ROTATED = signed(3, keys=(0, 3, 2), revoked=(2,), retired=tuple(sorted((KEYS[1], KEYS[2]))))
MOVED = signed(
    4,
    keys=(0, 3, 2),
    by=NEXT,
    chain=[hand_over(AUTHORITY, NEXT.public)],
    revoked=(2,),
    retired=tuple(sorted((KEYS[1], KEYS[2], AUTHORITY.public))),
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "owners" / "state.sqlite"


def trust(path, first=FIRST):
    return Trust(ClientStore(path), AUTHORITY.public, SERVER.public, first)


def test_the_newest_roster_outlives_the_process_and_an_older_one_is_refused(path):
    assert trust(path).see(REVOKED).version == 2
    again = trust(path, first=FIRST)
    assert again.roster.version == 2
    with pytest.raises(Refused, match="older"):
        again.see(FIRST)
    assert 2 not in again.roster
    assert again.see(REVOKED) is again.roster


def test_versions_may_be_skipped_because_each_carries_all_revocations(path):
    assert trust(path).see(MOVED).authority == NEXT.public


def test_an_authority_that_handed_over_is_no_longer_heard_not_even_after_a_restart(path):
    trust(path).see(MOVED)
    for late in (trust(path), trust(path)):
        with pytest.raises(FaultyServer, match="did not sign"):
            late.see(signed(9, keys=(0, 3, 2), revoked=(2,), retired=tuple(sorted((KEYS[1], KEYS[2])))))
        assert late.roster.version == 4


@pytest.mark.parametrize("shown", [signed(5, by=SERVER), b"", FIRST[:-1], FIRST.replace(KEYS[1], KEYS[3])])
def test_what_the_authority_did_not_sign_blames_the_server_and_changes_nothing(path, shown):
    known = trust(path)
    with pytest.raises(FaultyServer):
        known.see(shown)
    assert known.roster == trust(path).roster
    assert known.roster.version == 1


def test_a_client_begins_with_no_roster_of_the_servers_own(path):
    with pytest.raises(BadSignature):
        trust(path, first=signed(by=SERVER))


def test_a_roster_that_brings_a_revoked_client_back_is_refused(path):
    known = trust(path)
    known.see(REVOKED)
    with pytest.raises(Refused, match="forgets a revocation"):
        known.see(signed(3))


def test_a_new_key_is_taken_up_when_the_roster_names_it_and_sessions_go_on_counting(path, tmp_path, make_plan):
    known, store = trust(path), ClientStore(path)
    store.enrol(1, SEEDS[1])
    plan = make_plan(41)
    store.sessions.accept(KEYS[1], b"server", plan)
    file = tmp_path / "c1.identity"
    identity_file.write(file, "c1", SEEDS[3])
    assert known.identity(1, file).public == KEYS[1], "not before the roster says so"
    known.see(ROTATED)
    assert known.identity(1, tmp_path / "absent") is None
    assert known.identity(1, file).public == KEYS[3]
    assert store.sessions.last_session(KEYS[3], b"server", plan.run) == plan.session_number
    assert store.sessions.open_sessions(KEYS[3], b"server", plan.run) == []
    file.unlink()
    assert trust(path).identity(1, file).public == KEYS[3]


def test_neither_a_revoked_client_nor_one_with_another_key_has_an_identity(path, tmp_path):
    known, store = trust(path), ClientStore(path)
    store.enrol(2, SEEDS[2])
    store.enrol(1, SEEDS[1])
    known.see(ROTATED)
    assert known.identity(2, tmp_path / "c2.identity") is None
    for content in (SEEDS[0], b"no identity"):
        (tmp_path / "c1.identity").write_bytes(content)
        assert known.identity(1, tmp_path / "c1.identity") is None


def test_the_store_never_goes_back_to_an_older_roster(path):
    store = ClientStore(path)
    store.put_roster(3, b"three")
    for version in (2, 3):
        with pytest.raises(AnswerConflict):
            store.put_roster(version, b"other")
    assert store.roster() == b"three"


def test_a_roster_goes_back_to_whoever_signed_it_or_handed_over_to_that(path):
    known = trust(path)
    assert known.goes_back_to(AUTHORITY.public)
    assert not known.goes_back_to(NEXT.public)
    known.see(MOVED)
    assert known.goes_back_to(AUTHORITY.public), "it handed over"
    assert known.goes_back_to(NEXT.public), "looked at again with the new roster"
    assert not known.goes_back_to(SERVER.public)


LATER = {"keys": (0, 3, 2), "revoked": (2,), "retired": tuple(sorted((KEYS[1], KEYS[2], AUTHORITY.public)))}
CHAIN = (hand_over(AUTHORITY, NEXT.public),)
AFTER = signed(5, by=NEXT, chain=CHAIN, **LATER)
STRIPPED = signed(5, by=NEXT, **LATER)  # the same body and signature; the list is outside of both


@pytest.mark.parametrize("seen", [(), (REVOKED,), (MOVED,), (AFTER,), (MOVED, AFTER)])
@pytest.mark.parametrize("shown", [MOVED, AFTER, STRIPPED, signed(4, by=NEXT, **LATER), signed(6, by=NEXT, **LATER)])
def test_a_roster_without_its_hand_overs_is_never_kept_and_shuts_nobody_out(path, seen, shown):
    known = trust(path)
    for each in seen:
        known.see(each)
    with contextlib.suppress(FaultyServer, Refused):
        known.see(shown)
    assert known.goes_back_to(AUTHORITY.public)
    assert trust(path).goes_back_to(AUTHORITY.public)
    assert trust(path).goes_back_to(AUTHORITY.public)


def test_who_kept_a_roster_without_its_hand_overs_admits_nobody_until_it_is_shown_whole(path):
    trust(path).see(MOVED)
    ClientStore(path).put_roster(5, STRIPPED)
    known = trust(path)
    assert known.roster.version == 5, "its revocations stand"
    assert not known.goes_back_to(AUTHORITY.public)
    with pytest.raises(Refused, match="older"):
        known.see(MOVED)
    with pytest.raises(FaultyServer, match="without the hand-overs"):
        known.see(signed(6, by=NEXT, **LATER))
    known.see(AFTER)
    assert known.goes_back_to(AUTHORITY.public)
    assert ClientStore(path).roster() == AFTER
    assert trust(path).goes_back_to(AUTHORITY.public)


def test_a_roster_takes_its_reader_a_bounded_number_of_signature_checks():
    signed(5, by=NEXT, chain=CHAIN * MAX_HANDOVERS, **LATER)
    with pytest.raises(ValueError, match="at most"):
        signed(5, by=NEXT, chain=CHAIN * (MAX_HANDOVERS + 1), **LATER)
