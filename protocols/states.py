"""A client's memory between steps. The type says what may happen next; each state is used once.

States hold secrets: they go to the client's own store only, never onto the wire, and their text form
shows the session's name alone.
"""

from __future__ import annotations

import msgspec

from protocols.errors import Malformed
from protocols.wire import Announcement, OpenedShare, Plan, SignedRoot, UploadDigest

MAX_BYTES = 64 << 20


class Peer(msgspec.Struct, frozen=True, array_like=True):
    """A neighbour that announced: its mask key, and the raw X25519 secret that sealing keys come from."""

    id: int
    mask_key: bytes
    sealing: bytes

    def __repr__(self) -> str:
        return f"Peer(id={self.id})"

    def __rich_repr__(self) -> list[tuple[str, int]]:
        return [("id", self.id)]


class Held(msgspec.Struct, frozen=True, array_like=True):
    """The two shares held of one dealer; both empty if its leaf did not open. At most one is ever shown."""

    dealer: int
    seed_share: bytes
    key_share: bytes

    def __repr__(self) -> str:
        return f"Held(dealer={self.dealer})"

    def __rich_repr__(self) -> list[tuple[str, int]]:
        return [("dealer", self.dealer)]


class Announced(msgspec.Struct, frozen=True, array_like=True, tag="announced"):
    """Keys are out; waits for everybody's announcements."""

    plan: Plan
    session: bytes
    mask_secret: bytes
    seal_secret: bytes
    own: Announcement

    def __repr__(self) -> str:
        return _shown(self)

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("session", self.session.hex())]


class Shared(msgspec.Struct, frozen=True, array_like=True, tag="shared"):
    """The deal is out; waits for its own leaves and everybody's roots."""

    plan: Plan
    session: bytes
    s1: bytes
    announcers: tuple[int, ...]
    peers: tuple[Peer, ...]
    mask_secret: bytes
    seed: bytes
    own: SignedRoot
    seal_secret: bytes = b""  # hybrid sessions only: opens what was encapsulated to this client

    def __repr__(self) -> str:
        return _shown(self)

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("session", self.session.hex())]


class Masked(msgspec.Struct, frozen=True, array_like=True, tag="masked"):
    """The upload is out and its keys are forgotten; waits for the list of uploads."""

    plan: Plan
    session: bytes
    s2: bytes
    sharers: tuple[int, ...]
    held: tuple[Held, ...]
    own: UploadDigest

    def __repr__(self) -> str:
        return _shown(self)

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("session", self.session.hex())]


class Stopped(msgspec.Struct, frozen=True, array_like=True, tag="stopped"):
    """The end without an upload: a dealer's pad did not open, and its holder said so. Nothing is secret, and no masked
    vector left.
    """

    session: bytes
    dealer: int


class Agreed(msgspec.Struct, frozen=True, array_like=True, tag="agreed"):
    """One outcome is signed; only the shares that it calls for are kept. Waits for the quorum."""

    plan: Plan
    session: bytes
    outcome: bytes
    survivors: tuple[int, ...]
    dropped: tuple[int, ...]
    openings: tuple[OpenedShare, ...]

    def __repr__(self) -> str:
        return _shown(self)

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("session", self.session.hex())]


class Settled(msgspec.Struct, frozen=True, array_like=True, tag="settled"):
    """The end: a quorum signed that these survived and these dropped after dealing. Nothing is secret."""

    session: bytes
    survivors: tuple[int, ...]
    dropped: tuple[int, ...]


State = Announced | Shared | Masked | Stopped | Agreed | Settled

_decoder: msgspec.msgpack.Decoder[State] = msgspec.msgpack.Decoder(State)


def encode_state(state: State) -> bytes:
    """The state as bytes, secrets included."""
    return msgspec.msgpack.encode(state)


def decode_state(data: bytes) -> State:
    """The inverse. Malformed if the bytes are no state."""
    if len(data) > MAX_BYTES:
        raise Malformed("too large for a client's state")
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise Malformed("not a client's state") from None


def _shown(state: Announced | Shared | Masked | Agreed) -> str:
    return f"{type(state).__name__}(session={state.session.hex()[:16]})"
