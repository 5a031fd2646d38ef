"""The roster: who may take part, signed by an authority that is not the server.

Clients pin the authority's public key. Versions only grow, and each carries every revocation before it, so that
nobody comes back with an old roster or a forgotten one. Ids, names and keys are unique: one key twice would be one
client counted twice. Days are arguments: whole days since 1970-01-01 (UTC).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import msgspec

from protocols import labels, wire
from protocols.errors import BadSignature, Malformed, Refused
from protocols.identity import Identity, verify_signature

MAX_BYTES = 64 << 20
MAX_HANDOVERS = 64  # in one roster: each costs a reader a signature check

Day = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One enrolled client; it takes part up to and including `last_day`, or without end."""

    id: wire.Id
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    public: wire.Bytes32
    last_day: Day | None = None


class Handover(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="handover"):
    """An authority's own word that `new` follows it."""

    old: wire.Bytes32
    new: wire.Bytes32
    signature: wire.Bytes64


class _RosterBody(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="roster"):
    protocol: int
    version: wire.Count
    authority: wire.Bytes32
    members: tuple[Entry, ...]
    revoked: tuple[wire.Id, ...] = ()
    retired: tuple[wire.Bytes32, ...] = ()
    last_day: Day | None = None


class _SignedRoster(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="signed roster"):
    body: bytes
    signature: wire.Bytes64
    handovers: Annotated[tuple[Handover, ...], msgspec.Meta(max_length=MAX_HANDOVERS)] = ()


@dataclass(frozen=True)
class Roster:
    """Enrolled clients in ascending order of their ids, revoked ids, and keys that no longer count for anybody.

    ValueError if ids, names or keys repeat or are unordered, or if somebody revoked or a retired key is enrolled.
    """

    version: int
    authority: bytes
    members: tuple[Entry, ...]
    revoked: tuple[int, ...] = ()
    retired: tuple[bytes, ...] = ()
    last_day: int | None = None

    def __post_init__(self) -> None:
        ids = [entry.id for entry in self.members]
        if not (wire.ascending(ids) and wire.ascending(self.revoked)):
            raise ValueError("roster ids must be ascending and unique")
        if any(one >= other for one, other in zip(self.retired, self.retired[1:], strict=False)):
            raise ValueError("retired roster keys must be ascending and unique")
        for what in ("name", "public"):
            if len({getattr(entry, what) for entry in self.members}) != len(ids):
                raise ValueError(f"two roster entries have the same {what}")
        # An authority that is a client could vouch for itself, and count among the honest ones that it chose.
        if self.authority in self._keys.values():
            raise ValueError("the authority cannot be one of its own roster's clients")
        if not self._keys.keys().isdisjoint(self.revoked):
            raise ValueError("the roster enrols an id that it revoked")
        if not {self.authority, *self._keys.values()}.isdisjoint(self.retired):
            raise ValueError("the roster enrols a key that it retired")

    @cached_property
    def _keys(self) -> dict[int, bytes]:
        return {entry.id: entry.public for entry in self.members}

    @cached_property
    def _publics(self) -> frozenset[bytes]:
        return frozenset(self._keys.values())

    @cached_property
    def _names(self) -> dict[int, str]:
        return {entry.id: entry.name for entry in self.members}

    @cached_property
    def _encoded(self) -> bytes:
        return wire.encode(
            _RosterBody(
                labels.VERSION, self.version, self.authority, self.members, self.revoked, self.retired, self.last_day
            )
        )

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that name this roster in plans and sessions."""
        return labels.digest(labels.HASH_ROSTER, self._encoded)

    def public(self, client: int) -> bytes:
        """The client's public key. KeyError if it is not enrolled."""
        return self._keys[client]

    def names_key(self, key: bytes) -> bool:
        """Whether the key is the authority's or a client's: then it must not be the server's."""
        return key == self.authority or key in self._publics

    def active(self, today: int) -> tuple[int, ...]:
        """Ascending ids of those who may take part today. Refused if the roster itself has expired."""
        if self.last_day is not None and today > self.last_day:
            raise Refused(f"roster version {self.version} has expired")
        return tuple(entry.id for entry in self.members if entry.last_day is None or today <= entry.last_day)

    def check_succeeds(self, earlier: Roster) -> None:
        """Refused unless this roster may follow `earlier`.

        Its version is higher; what was revoked or retired stays so; every client of before is still enrolled under its
        name or revoked; a key that changed, the authority's included, is retired. Nothing happens silently.
        """
        if self.version <= earlier.version:
            raise Refused(f"roster version {self.version} does not come after {earlier.version}")
        # Somebody revoked comes back by a roster that does not mention it.
        if not set(earlier.revoked) <= set(self.revoked) or not set(earlier.retired) <= set(self.retired):
            raise Refused(f"roster version {self.version} forgets a revocation")
        if self.authority != earlier.authority and earlier.authority not in self.retired:
            raise Refused(f"roster version {self.version} has another authority, and the old key is not retired")
        for entry in earlier.members:
            if entry.id not in self and entry.id not in self.revoked:
                raise Refused(f"roster version {self.version} drops client {entry.id} without revoking it")
            # A replaced key that is not retired still signs what an old roster lets it: two machines would be one
            # client.
            if self._keys.get(entry.id) != entry.public and entry.public not in self.retired:
                raise Refused(f"roster version {self.version} replaces client {entry.id}'s key without retiring it")
            if self._names.get(entry.id, entry.name) != entry.name:
                raise Refused(f"roster version {self.version} gives client {entry.id} another name")

    def __contains__(self, client: object) -> bool:
        return client in self._keys

    def __len__(self) -> int:
        return len(self.members)


def hand_over(old: Identity, new: bytes) -> Handover:
    """The old authority's word that the public key `new` follows it. ValueError if it is the same key."""
    if old.public == new:
        raise ValueError("an authority cannot hand over to itself")
    return Handover(old.public, new, old.sign(labels.SIGN_HANDOVER, old.public + new))


def sign_roster(authority: Identity, roster: Roster, handovers: Sequence[Handover] = ()) -> bytes:
    """The bytes to hand out, with all hand-overs so far, oldest first.

    ValueError if the roster names another authority, or with more hand-overs than a reader takes.
    """
    if len(handovers) > MAX_HANDOVERS:
        raise ValueError(f"a roster carries at most {MAX_HANDOVERS} hand-overs")
    if roster.authority != authority.public:
        raise ValueError("the roster names another authority")
    body = roster._encoded
    return wire.encode(_SignedRoster(body, authority.sign(labels.SIGN_ROSTER, body), tuple(handovers)))


def open_roster(data: bytes, authority: bytes, at_least_version: int) -> Roster:
    """The roster in `data`, if the pinned authority, or whom it handed over to, signed it, and it is no older than the
    version last seen.

    Raises Malformed for bytes that are no roster, BadSignature for another signer, Refused for an old
    version. The result's `authority` is to be pinned from now on.
    """
    signed = wire.decode(_SignedRoster, data, MAX_BYTES)
    signer = _follow(signed.handovers, authority)
    verify_signature(signer, labels.SIGN_ROSTER, signed.body, signed.signature)
    body = wire.decode(_RosterBody, signed.body, MAX_BYTES)
    # Pinned from now on is what the body says: a key that did not sign it would take over.
    if body.authority != signer:
        raise BadSignature("the roster names another authority than the one that signed it")
    if body.protocol != labels.VERSION:
        raise Refused(f"the roster is for protocol version {body.protocol}, not {labels.VERSION}")
    if body.version < at_least_version:
        raise Refused(f"roster version {body.version} is older than {at_least_version}")
    try:
        return Roster(body.version, body.authority, body.members, body.revoked, body.retired, body.last_day)
    except ValueError as error:
        raise Malformed(str(error)) from None


def renew(known: Roster, shown: bytes) -> Roster:
    """The roster in `shown` as the successor of the one that is known, or `known` itself if that is shown.

    Raises what `open_roster` raises for the known authority and version; Refused if it may not succeed.
    """
    later = open_roster(shown, known.authority, known.version)
    if later.digest == known.digest:
        return known
    # Two rosters of one version would let an authority, or who stole its key, show different clients different ones.
    if later.version == known.version:
        raise Refused(f"there are two different rosters of version {later.version}")
    later.check_succeeds(known)
    return later


def enrolment_line(identity: Identity, name: str) -> str:
    """What a client hands to the authority: its name, its public key and the proof that it holds the key."""
    return f"{name} {identity.public.hex()} {identity.sign(labels.SIGN_ENROLMENT, name.encode()).hex()}"


def read_enrolment_line(line: str) -> tuple[str, bytes]:
    """(name, public key) of an enrolment line. Malformed if it is none, BadSignature if the key is somebody else's."""
    try:
        name, public, signature = line.split()
        signed, key, proof = name.encode(), bytes.fromhex(public), bytes.fromhex(signature)
    except ValueError:  # a name that is no Unicode text too: a terminal hands on any bytes
        raise Malformed("an enrolment line is a name, a public key and a signature, with spaces between") from None
    # Proof of possession: without it one client enrols another's public key as its own.
    verify_signature(key, labels.SIGN_ENROLMENT, signed, proof)
    return name, key


def claimed_authority(data: bytes) -> bytes:
    """Whose key a client would have to pin to accept these bytes: unverified, for display. Malformed if no roster."""
    signed = wire.decode(_SignedRoster, data, MAX_BYTES)
    if signed.handovers:
        return signed.handovers[0].old
    return wire.decode(_RosterBody, signed.body, MAX_BYTES).authority


def handovers_of(data: bytes) -> tuple[Handover, ...]:
    """The hand-overs in a signed roster, oldest first; not verified here. Malformed if there is no roster."""
    return wire.decode(_SignedRoster, data, MAX_BYTES).handovers


def _follow(handovers: Sequence[Handover], pinned: bytes) -> bytes:
    """The authority that the pinned one has handed over to, step by step."""
    signer = pinned
    # Only from the key reached so far: a chain that merely ends somewhere would let anybody sign its first link.
    for handover in handovers:
        if handover.old == signer:
            verify_signature(signer, labels.SIGN_HANDOVER, handover.old + handover.new, handover.signature)
            signer = handover.new
    return signer
