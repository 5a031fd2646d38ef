"""The roster: who may take part, signed by an authority that is not the server.

Clients pin the authority's public key. Versions only grow, so that a revoked client cannot come back
with an old roster. Ids, names and keys are unique: one key twice would be one client counted twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import msgspec

from protocols import labels, wire
from protocols.errors import BadSignature, Malformed, Refused
from protocols.identity import Identity, verify_signature

MAX_BYTES = 64 << 20


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One enrolled client."""

    id: wire.Id
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    public: wire.Bytes32


class _RosterBody(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="roster"):
    protocol: int
    version: wire.Count
    authority: wire.Bytes32
    members: tuple[Entry, ...]


class _SignedRoster(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="signed roster"):
    body: bytes
    signature: wire.Bytes64


@dataclass(frozen=True)
class Roster:
    """Enrolled clients in ascending order of their ids. ValueError if ids, names or keys repeat or are
    unordered.
    """

    version: int
    authority: bytes
    members: tuple[Entry, ...]

    def __post_init__(self) -> None:
        ids = [entry.id for entry in self.members]
        if not wire.ascending(ids):
            raise ValueError("roster ids must be ascending and unique")
        for what in ("name", "public"):
            if len({getattr(entry, what) for entry in self.members}) != len(ids):
                raise ValueError(f"two roster entries have the same {what}")
        if self.authority in self._keys.values():
            raise ValueError("the authority cannot be one of its own roster's clients")

    @cached_property
    def _keys(self) -> dict[int, bytes]:
        return {entry.id: entry.public for entry in self.members}

    @cached_property
    def _encoded(self) -> bytes:
        return wire.encode(_RosterBody(labels.VERSION, self.version, self.authority, self.members))

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that name this roster in plans and sessions."""
        return labels.digest(labels.HASH_ROSTER, self._encoded)

    def public(self, client: int) -> bytes:
        """The client's public key. KeyError if it is not enrolled."""
        return self._keys[client]

    def __contains__(self, client: object) -> bool:
        return client in self._keys

    def __len__(self) -> int:
        return len(self.members)


def sign_roster(authority: Identity, roster: Roster) -> bytes:
    """The bytes to hand out. ValueError if the roster names another authority."""
    if roster.authority != authority.public:
        raise ValueError("the roster names another authority")
    body = roster._encoded
    return wire.encode(_SignedRoster(body, authority.sign(labels.SIGN_ROSTER, body)))


def open_roster(data: bytes, authority: bytes, at_least_version: int) -> Roster:
    """The roster in `data`, if the pinned authority signed it and it is no older than the version last
    seen.

    Raises Malformed for bytes that are no roster, BadSignature for another signer, Refused for an old
    version.
    """
    signed = wire.decode(_SignedRoster, data, MAX_BYTES)
    verify_signature(authority, labels.SIGN_ROSTER, signed.body, signed.signature)
    body = wire.decode(_RosterBody, signed.body, MAX_BYTES)
    if body.authority != authority:
        raise BadSignature("the roster names another authority than the one that signed it")
    if body.protocol != labels.VERSION:
        raise Refused(f"the roster is for protocol version {body.protocol}, not {labels.VERSION}")
    if body.version < at_least_version:
        raise Refused(f"roster version {body.version} is older than {at_least_version}")
    try:
        return Roster(body.version, body.authority, body.members)
    except ValueError as error:
        raise Malformed(str(error)) from None
