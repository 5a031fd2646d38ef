import pytest

from protocols import labels, wire
from protocols.errors import BadSignature, Malformed, Refused
from protocols.identity import Identity
from protocols.roster import Entry, Roster, _RosterBody, _SignedRoster, open_roster, sign_roster

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
