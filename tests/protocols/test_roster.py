import pytest

from protocols import labels, wire
from protocols.errors import BadSignature, FaultyServer, Malformed, Refused
from protocols.identity import Identity
from protocols.member import Member, accept_roster
from protocols.roster import (
    Entry,
    Roster,
    _RosterBody,
    _SignedRoster,
    claimed_authority,
    enrolment_line,
    hand_over,
    open_roster,
    read_enrolment_line,
    renew,
    sign_roster,
)

AUTHORITY, OTHER = Identity.from_seed(b"a" * 32), Identity.from_seed(b"o" * 32)
PUBLIC = [Identity.from_seed(bytes([i]) * 32).public for i in range(5)]


def roster(version=3):
    return Roster(version, AUTHORITY.public, tuple(Entry(10 * i, f"c{i}", PUBLIC[i]) for i in range(4)))


def test_a_signed_roster_opens_to_the_same_roster():
    opened = open_roster(sign_roster(AUTHORITY, roster()), AUTHORITY.public, 3)
    assert opened == roster()
    assert opened.digest == roster().digest
    assert opened.public(20) == PUBLIC[2]
    assert 20 in opened
    assert 21 not in opened
    assert len(opened) == 4


def test_an_older_roster_is_refused():
    with pytest.raises(Refused, match="older"):
        open_roster(sign_roster(AUTHORITY, roster(2)), AUTHORITY.public, 3)


def test_another_authority_is_refused():
    with pytest.raises(BadSignature):
        open_roster(sign_roster(AUTHORITY, roster()), OTHER.public, 0)
    with pytest.raises(ValueError, match="another authority"):
        sign_roster(OTHER, roster())


def test_a_roster_that_names_another_authority_than_its_signer_is_refused():
    body = roster()._encoded
    forged = wire.encode(_SignedRoster(body, OTHER.sign(labels.SIGN_ROSTER, body)))
    with pytest.raises(BadSignature, match="another authority"):
        open_roster(forged, OTHER.public, 0)


def test_every_changed_byte_is_refused():
    data = sign_roster(AUTHORITY, roster())
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises((Malformed, BadSignature)):
            open_roster(bytes(changed), AUTHORITY.public, 0)


@pytest.mark.parametrize(
    "members",
    [
        [(1, "a", 0), (1, "b", 1)],
        [(2, "a", 0), (1, "b", 1)],
        [(1, "a", 0), (2, "a", 1)],
        [(1, "a", 0), (2, "b", 0)],
    ],
)
def test_one_client_cannot_stand_on_the_roster_twice(members):
    entries = tuple(Entry(i, name, PUBLIC[key]) for i, name, key in members)
    with pytest.raises(ValueError, match=r"roster|entries"):
        Roster(1, AUTHORITY.public, entries)
    body = wire.encode(_RosterBody(labels.VERSION, 1, AUTHORITY.public, entries))
    signed = wire.encode(_SignedRoster(body, AUTHORITY.sign(labels.SIGN_ROSTER, body)))
    with pytest.raises(Malformed):
        open_roster(signed, AUTHORITY.public, 0)


def test_the_authority_is_not_a_client():
    with pytest.raises(ValueError, match="authority"):
        Roster(1, AUTHORITY.public, (Entry(1, "a", AUTHORITY.public),))


def test_another_protocol_version_is_refused():
    body = wire.encode(_RosterBody(labels.VERSION + 1, 1, AUTHORITY.public, roster().members))
    signed = wire.encode(_SignedRoster(body, AUTHORITY.sign(labels.SIGN_ROSTER, body)))
    with pytest.raises(Refused, match="protocol version"):
        open_roster(signed, AUTHORITY.public, 0)


def test_any_change_of_members_or_version_changes_the_digest():
    digests = {roster().digest, roster(4).digest, Roster(3, AUTHORITY.public, roster().members[:3]).digest}
    assert len(digests) == 3


def later(members=None, version=4, authority=AUTHORITY.public, **fields):
    return Roster(version, authority, roster().members if members is None else members, **fields)


def test_an_entry_and_a_roster_are_good_up_to_and_including_their_last_day():
    mixed = later((Entry(1, "a", PUBLIC[1], 100), Entry(2, "b", PUBLIC[2])), last_day=200)
    assert [mixed.active(day) for day in (0, 100, 101, 200)] == [(1, 2), (1, 2), (2,), (2,)]
    with pytest.raises(Refused, match="expired"):
        mixed.active(201)
    assert open_roster(sign_roster(AUTHORITY, mixed), AUTHORITY.public, 0) == mixed


def test_the_known_roster_shown_again_changes_nothing():
    known = roster()
    assert renew(known, sign_roster(AUTHORITY, roster())) is known


def test_the_bytes_of_an_honest_roster_with_one_entry_swapped_are_the_servers_fault():
    data, swapped = sign_roster(AUTHORITY, later()), OTHER.public
    assert data.count(PUBLIC[2]) == 1
    with pytest.raises(FaultyServer, match="did not sign"):
        accept_roster(roster(), data.replace(PUBLIC[2], swapped), bytes(32))


def test_a_roster_that_the_server_made_is_its_fault_and_garbage_too():
    with pytest.raises(FaultyServer, match="did not sign"):
        accept_roster(roster(), sign_roster(OTHER, later(authority=OTHER.public)), OTHER.public)
    with pytest.raises(FaultyServer, match="no roster"):
        accept_roster(roster(), b"roster", OTHER.public)


def test_a_server_is_neither_authority_nor_client_of_a_roster_in_use():
    enrolled = later((*roster().members, Entry(99, "server", OTHER.public)))
    with pytest.raises(Refused, match="makes the server"):
        accept_roster(roster(), sign_roster(AUTHORITY, enrolled), OTHER.public)
    for key in (AUTHORITY.public, OTHER.public):
        with pytest.raises(ValueError, match="server"):
            Member(0, Identity.from_seed(bytes(32)), enrolled, key, None)


def test_an_authority_hands_over_and_is_not_heard_again():
    known, third = roster(), Identity.from_seed(b"t" * 32)
    moved = later(authority=OTHER.public, retired=(AUTHORITY.public,))
    chain = [hand_over(AUTHORITY, OTHER.public)]
    data = sign_roster(OTHER, moved, chain)
    assert claimed_authority(data) == AUTHORITY.public
    assert renew(known, data) == moved
    with pytest.raises(BadSignature):
        renew(known, sign_roster(OTHER, moved))
    with pytest.raises(BadSignature):
        renew(moved, sign_roster(AUTHORITY, later(version=9)))
    twice = later(version=5, authority=third.public, retired=tuple(sorted((AUTHORITY.public, OTHER.public))))
    both = [*chain, hand_over(OTHER, third.public)]
    for pinned in (known, moved):
        assert renew(pinned, sign_roster(third, twice, both)) == twice
    with pytest.raises(ValueError, match="itself"):
        hand_over(OTHER, OTHER.public)


def test_an_authority_that_comes_back_is_refused():
    with pytest.raises(ValueError, match="retired"):
        later(retired=(AUTHORITY.public,))


@pytest.mark.parametrize(
    "fields",
    [
        {"revoked": (5, 5)},
        {"revoked": (6, 5)},
        {"revoked": (10,)},
        {"retired": (b"z" * 32, b"y" * 32)},
        {"retired": (b"z" * 32, b"z" * 32)},
        {"retired": (PUBLIC[1],)},
    ],
)
def test_a_roster_that_contradicts_itself_is_refused(fields):
    with pytest.raises(ValueError, match="roster"):
        later(**fields)


def test_an_enrolment_line_proves_that_its_maker_holds_the_key():
    line = enrolment_line(OTHER, "clinic-3")
    assert read_enrolment_line(line) == ("clinic-3", OTHER.public)
    with pytest.raises(BadSignature):
        read_enrolment_line(line.replace("clinic-3", "clinic-4"))
    with pytest.raises(BadSignature):
        read_enrolment_line(line.replace(OTHER.public.hex(), AUTHORITY.public.hex()))
    for wrong in ("", "one two", "name zz zz", f"{line} more"):
        with pytest.raises(Malformed, match="enrolment line"):
            read_enrolment_line(wrong)


def test_a_name_that_is_no_text_is_no_enrolment():
    """What a terminal makes of bytes that are no UTF-8."""
    line = enrolment_line(OTHER, "clinic-3")
    with pytest.raises(Malformed, match="an enrolment line is"):
        read_enrolment_line(line.replace("clinic", "clin\udcff"))


def test_a_client_whose_key_is_retired_is_still_dropped_by_revocation_only():
    left = roster().members[1:]
    dropped = later(left, retired=(PUBLIC[0],))
    with pytest.raises(Refused, match="drops client 0 without revoking it"):
        dropped.check_succeeds(roster())
    later(left, retired=(PUBLIC[0],), revoked=(0,)).check_succeeds(roster())
