"""A spoiled session's transcript as a file: its plan, its roster, and its clients' signed messages.

    head     the server's signed plan, the authority's signed roster
    entry    one message of one client, again and again, in the order in which the server judged them

Each after its length in 4 big-endian bytes, so that neither side holds all uploads in memory. What the file shows of a
client is what that client signed. It contains the sum: only the authority and the session's members are to read it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from fgrpo_secure.errors import UnusableInput
from protocols import transcript, wire
from protocols.envelope import bin_head
from protocols.errors import Malformed
from protocols.transcript import Entry
from protocols.wire import RoundPlan, SignedPlan, Step

LENGTH = 4
MOST_HEAD = wire.MAX_PLAN + (64 << 20)


class UnusableTranscript(UnusableInput):
    """A file that shows nothing; the sentence says why."""


class Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="spoiled session"):
    """What the messages are about."""

    plan: bytes
    roster: bytes


class Writer:
    """Writes a session's transcript beside its final place as its messages come; `keep` or `discard` ends it."""

    def __init__(self, folder: Path, session: bytes, plan: bytes, roster: bytes) -> None:
        folder.mkdir(exist_ok=True, mode=0o700)
        self._path = folder / f"{session.hex()}.transcript"
        self._aside = folder / f".writing-{session.hex()}"
        self._file = self._aside.open("wb")
        self._append(msgspec.msgpack.encode(Head(plan, roster)))

    def __call__(self, step: Step, client: int, message: bytes) -> None:
        """Adds one message: see `protocols.collect.Record`. It may be as large as a model, and is not copied."""
        head = wire.encode(Entry(step, client, b"")).removesuffix(bin_head(0)) + bin_head(len(message))
        self._file.write((len(head) + len(message)).to_bytes(LENGTH, "big") + head)
        self._file.write(message)

    def keep(self) -> None:
        """The session was spoiled."""
        self._file.close()
        self._aside.replace(self._path)

    def discard(self) -> None:
        """The session gave a sum: nothing of it stays."""
        self._file.close()
        self._aside.unlink(missing_ok=True)

    def _append(self, data: bytes) -> None:
        self._file.write(len(data).to_bytes(LENGTH, "big") + data)


class Reader:
    """The transcript in `path`. UnusableTranscript if there is none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._size = path.stat().st_size
            with path.open("rb") as file:
                head = msgspec.msgpack.decode(self._next(file, MOST_HEAD) or b"", type=Head)
            self.roster = head.roster
            self.plan: RoundPlan = wire.decode(SignedPlan, head.plan, wire.MAX_PLAN).plan
        except OSError as problem:
            raise UnusableTranscript(f"{path} cannot be read: {problem.strerror}") from None
        except (msgspec.MsgspecError, Malformed):
            raise UnusableTranscript(f"{path} is no transcript of a session") from None

    def entries(self) -> Iterator[Entry]:
        """Its messages, one at a time. Malformed where one is none, or is longer than any of this plan."""
        most = transcript.limit(self.plan)
        with self._path.open("rb") as file:
            self._next(file, MOST_HEAD)
            while (data := self._next(file, most)) is not None:
                yield wire.decode(Entry, data, most)

    def _next(self, file: BinaryIO, most: int) -> bytes | None:
        prefix = file.read(LENGTH)
        if not prefix:
            return None
        size = int.from_bytes(prefix, "big")
        if size > min(most, self._size):  # before memory: the length is anybody's
            raise Malformed("a message is longer than the session allows")
        data = file.read(size)
        if len(prefix) != LENGTH or len(data) != size:
            raise Malformed("a message is cut short")
        return data
