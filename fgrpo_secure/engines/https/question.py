"""What the server asks one client, and what the client answers: one byte form each.

A question carries the protocol's message as opaque bytes, and names by digest the model and the roster that it is
asked under: a client fetches what it does not hold. Its id follows from what is asked, so that a server that was
restarted asks the same thing under the same id and finds the answer that it was given before.
"""

import hashlib
import mmap
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Literal

import msgspec

from fgrpo_secure.ledger.witnessed import Witnessed
from protocols import labels

ID = "transport question"
ID_BYTES = 32
LARGEST_QUESTION = 64 << 20  # bytes
LARGEST_REFUSAL = 4096
LARGE = 4 << 20  # bytes

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
    """The answer, then one byte that says what it is: the last one, so that a file's beginning is the answer itself."""
    match answer:
        case Answered(payload):
            return payload + _STEP
        case Said(refusal):
            return refusal.encode()[:LARGEST_REFUSAL] + _REFUSED
        case Silent():
            return _SILENT
        case Left(masked):
            return bytes([masked]) + _LEFT
        case Witnessed():
            return msgspec.msgpack.encode(answer) + _WITNESSED


def may_be_answer(path: Path) -> bool:
    """Whether a file can be an answer. Of a step's, which may be large, its last byte is looked at."""
    with path.open("rb") as file:
        try:
            size = _size_of_step(file)
            if size is None:
                read_answer(file.read())
        except ValueError:
            return False
    return True


def read_file(path: Path, mapped: bool) -> Answer:
    """The answer in a file; ValueError if it is none. A large one of a step is `mapped` where that is asked for: its
    bytes are the system's, which reads them as they are looked at and takes the memory back as it needs it.

    **Why** Uploads are as large as the model is, and one that was read whole was the most memory that a server took.
    """
    with path.open("rb", buffering=0) as file:
        size = _size_of_step(file)
        if size is None:
            return read_answer(file.read())
        if mapped and size > LARGE:
            # A map is no `bytes`, but has all that an upload's reader asks of them: length, slices, a buffer.
            return Answered(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))  # type: ignore[arg-type]
        return Answered(file.read(size))


def _size_of_step(file: IO[bytes]) -> int | None:
    """The bytes of a step's answer in this file, or None if it is another; the file is at its beginning again."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    kind = file.read(1)
    file.seek(0)
    return size - 1 if kind == _STEP else None


def read_answer(data: bytes) -> Answer:
    """An answer from its bytes; ValueError for bytes that are none."""
    kind, rest = data[-1:], data[:-1]
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
