"""What travels between the embedded engine and a worker process: length-prefixed msgpack on a pipe.

This is the engine's own plumbing inside one machine. The protocol's messages are opaque bytes in it, in the same
form in which they would cross a network.
"""

from typing import IO, Annotated

import msgspec

from fgrpo_secure.ledger.witnessed import Witnessed

MAX_FRAME = 1 << 31


class Begin(msgspec.Struct, tag="begin", array_like=True, frozen=True):
    """Session `number` starts: the adapter to train from, as safetensors bytes, and the signed roster."""

    adapter: bytes
    number: int
    roster: bytes


class Step(msgspec.Struct, tag="step", array_like=True, frozen=True):
    """One protocol step's messages to the owners of this host. `seconds` are left to the training deadline, at which an
    owner on its own machine announces itself; None in a simulation, where training takes as long as it takes. Who does
    not train (its process ended over it before) waits until then all the same; `again` says that it was its owner who
    ended that. `waited` are the seconds since it was asked first."""

    step: str
    messages: dict[int, bytes]
    seconds: float | None = None
    trains: bool = True
    again: bool = False
    waited: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    watched: bool = False  # by the operator of a simulation, who is told of each owner that has trained


class Recover(msgspec.Struct, tag="recover", array_like=True, frozen=True):
    """Close what a crash left open; `sessions` are those that the server has open."""

    sessions: list[bytes]


class Witness(msgspec.Struct, tag="witness", array_like=True, frozen=True):
    """The server's ledger after `session`, as each owner is shown it."""

    session: bytes
    exhibits: dict[int, bytes]


class Finish(msgspec.Struct, tag="finish", array_like=True, frozen=True):
    """The round is over: say what it cost."""


class Over(msgspec.Struct, tag="over", array_like=True, frozen=True):
    """The run is over: nothing secret of its sessions is needed again."""


class Answer(msgspec.Struct, tag="answer", array_like=True, frozen=True):
    """One owner's reply; or, with no payload, the public reason why it refuses to take part."""

    client: int
    payload: bytes | None
    refusal: str | None = None


class Trained(msgspec.Struct, tag="trained", array_like=True, frozen=True):
    """An owner has trained, its answer not yet made. For a bar on a terminal of the machine that trains."""

    client: int


class Recovered(msgspec.Struct, tag="recovered", array_like=True, frozen=True):
    """How many owners may have sent a masked vector in one of the server's open sessions."""

    masked: int


class Costs(msgspec.Struct, tag="costs", array_like=True, frozen=True):
    """Processor seconds of a round, which only clients on one machine can be asked for: sums and maxima over this
    host's owners. Training includes rollouts; `privacy` is everything else. `privacy_slowest` is what the slowest owner
    would have spent on a machine of its own: the signature checks that the owners of a process share are counted for
    each of them."""

    rollouts_total: float = 0.0
    training_total: float = 0.0
    training_slowest: float = 0.0
    privacy_total: float = 0.0
    privacy_slowest: float = 0.0


class Done(msgspec.Struct, tag="done", array_like=True, frozen=True):
    """The request is answered in full."""


class Failed(msgspec.Struct, tag="failed", array_like=True, frozen=True):
    """The host cannot go on; one sentence, from public state only."""

    reason: str


Request = Begin | Step | Recover | Witness | Finish | Over
Reply = Answer | Trained | Recovered | Witnessed | Costs | Done | Failed

_requests = msgspec.msgpack.Decoder(Request)
_replies = msgspec.msgpack.Decoder(Reply)
_encoder = msgspec.msgpack.Encoder()


def encode(frame: Request | Reply) -> bytes:
    """The bytes of one frame."""
    return _encoder.encode(frame)


def decode_request(data: bytes) -> Request:
    """The request that `encode` gave these bytes for."""
    request: Request = _requests.decode(data)
    return request


def decode_reply(data: bytes) -> Reply:
    """The reply that `encode` gave these bytes for."""
    reply: Reply = _replies.decode(data)
    return reply


def write(stream: IO[bytes], frame: Request | Reply) -> None:
    """Send one frame."""
    data = encode(frame)
    stream.write(len(data).to_bytes(8, "little"))
    stream.write(data)  # by itself: joined, an adapter or an upload would be in memory once more
    stream.flush()


def read_request(stream: IO[bytes]) -> Request | None:
    """The next request; None when the other side has closed the pipe."""
    data = _read(stream)
    return None if data is None else decode_request(data)


def read_reply(stream: IO[bytes]) -> Reply | None:
    """The next reply; None when the other side has closed the pipe."""
    data = _read(stream)
    return None if data is None else decode_reply(data)


def _read(stream: IO[bytes]) -> bytes | None:
    header = stream.read(8)
    if len(header) < 8:
        return None
    length = int.from_bytes(header, "little")
    if length > MAX_FRAME:
        raise ValueError(f"a frame of {length} bytes is longer than {MAX_FRAME}")
    data = stream.read(length)
    return data if len(data) == length else None
