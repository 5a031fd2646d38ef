"""What the server asks one client, and what the client answers: one byte form each.

A question carries the protocol's message as opaque bytes, and names by digest the model and the roster that it is
asked under: a client fetches what it does not hold. Its id follows from what is asked, so that a server that was
restarted asks the same thing under the same id and finds the answer that it was given before.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from fgrpo_secure.ledger.witnessed import Witnessed
from protocols import labels

ID = "transport question"
ID_BYTES = 32
LARGEST_QUESTION = 64 << 20  # bytes
LARGEST_REFUSAL = 4096

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Name = Annotated[str, msgspec.Meta(max_length=16)]


class Kind(StrEnum):
    """What a client is asked for; a step's name is in `Question.step`."""

    STEP = "step"
    WITNESS = "witness"
    RECOVER = "recover"
    OVER = "over"  # the run is: its clients may go


class Question(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """`number` is the session's, which only grows; `announce_at` the training deadline in the server's milliseconds,
    where the answer waits for it, else 0. `sessions` are those to witness (one) or to recover."""

    version: Literal[1]
    run: Annotated[bytes, msgspec.Meta(max_length=16)]
    kind: Kind
    number: Annotated[int, msgspec.Meta(ge=0)]
    step: Name
    client: Annotated[int, msgspec.Meta(ge=0)]
    adapter: Digest | None
    roster: Digest | None
    announce_at: Annotated[int, msgspec.Meta(ge=0)]
    sessions: tuple[Digest, ...]
    payload: bytes = b""

    @property
    def id(self) -> bytes:
        """Of what is asked, not of when: a deadline that is set again changes nothing."""
        asked = hashlib.sha256(b"".join(self.sessions) + self.payload).digest()
        return labels.digest(ID, self.run, self.kind.value, self.number, self.step, self.client, asked)

    def encode(self) -> bytes:
        """The one byte form."""
        return msgspec.msgpack.encode(self)


_decoder = msgspec.msgpack.Decoder(Question)


def decode(data: bytes) -> Question:
    """A question; ValueError for bytes that are none, or not in the one form."""
    question = _decoder.decode(data)
    if question.encode() != data:
        raise ValueError("a question that is not in the one byte form")
    return question


@dataclass(frozen=True)
class Answered:
    """A protocol step's answer."""

    payload: bytes


@dataclass(frozen=True)
class Said:
    """The public reason for which a client takes no part in the session."""

    refusal: str


@dataclass(frozen=True)
class Silent:
    """The client keeps silent: somebody cheated. Said, so that nobody waits for it until the deadline."""


@dataclass(frozen=True)
class Left:
    """Whether a masked vector may have left in one of the sessions that were asked about."""

    masked: bool


Answer = Answered | Said | Silent | Left | Witnessed
_STEP, _REFUSED, _SILENT, _LEFT, _WITNESSED = b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"


def write_answer(answer: Answer) -> bytes:
    """One byte that says what it is, then the answer."""
    match answer:
        case Answered(payload):
            return _STEP + payload
        case Said(refusal):
            return _REFUSED + refusal.encode()[:LARGEST_REFUSAL]
        case Silent():
            return _SILENT
        case Left(masked):
            return _LEFT + bytes([masked])
        case Witnessed():
            return _WITNESSED + msgspec.msgpack.encode(answer)


def may_be_answer(path: Path) -> bool:
    """Whether a file can be an answer. Of a step's, which may be large, its first byte is looked at."""
    with path.open("rb") as file:
        kind = file.read(1)
        try:
            read_answer(kind, b"" if kind == _STEP else file.read())
        except ValueError:
            return False
    return True


def read_answer(kind: bytes, rest: bytes) -> Answer:
    """An answer from its first byte and the others, which may be many; ValueError for bytes that are none."""
    if kind == _STEP:
        return Answered(rest)
    if kind == _REFUSED and len(rest) <= LARGEST_REFUSAL:
        return Said(rest.decode())
    if kind == _SILENT and not rest:
        return Silent()
    if kind == _LEFT and rest in (b"\x00", b"\x01"):
        return Left(rest == b"\x01")
    if kind == _WITNESSED:
        return msgspec.msgpack.decode(rest, type=Witnessed)
    raise ValueError("no answer")
