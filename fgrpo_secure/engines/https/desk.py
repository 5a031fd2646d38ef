"""Where the server's round and its network meet: who may speak, what each client is asked, what has arrived.

The round runs in one thread and asks; the network runs in another and hands out and takes in. Memory is bounded by the
roster: one question and one waiting request for each enrolled client.
"""

import asyncio
import hashlib
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

from fgrpo_secure.engines.https.spool import Spool
from fgrpo_secure.storage.run_directory import write_durably
from protocols.identity import Identity

_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Asked:
    """A question as it is handed out. `most` are the bytes that an answer may have."""

    id: bytes
    most: int
    sealed: bytes = field(repr=False)


@dataclass
class Counts:
    """What `/metrics` shows: sums over all clients, and nothing of any one."""

    requests: int = 0
    refused: int = 0
    answers: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Answers(Protocol):
    """Where the round's side finds answers: see `Spool`, and `workers.asking` where other processes listen."""

    def open_session(self, name: str) -> None: ...

    def discard(self, but: Container[bytes] = ()) -> None: ...

    def drop(self, id: bytes) -> None: ...

    def whole(self, id: bytes) -> Path | None: ...

    def close_step(self, name: str, clients: list[int]) -> None: ...

    def closed(self, name: str) -> list[int] | None: ...


class RoundDesk(Protocol):
    """What the round's side needs; each is told at `Desk`."""

    identity: Identity
    run: bytes
    counts: Counts

    @property
    def spool(self) -> Answers: ...

    def enrol(self, keys: Mapping[int, bytes]) -> None: ...

    def offer(self, *offered: bytes) -> list[bytes]: ...

    def ask(self, questions: Mapping[int, Asked]) -> None: ...

    def withdraw(self, clients: list[int]) -> None: ...

    def next_arrival(self, seconds: float) -> tuple[int, bytes] | None: ...

    def close(self) -> None: ...


class NetworkDesk(Protocol):
    """What the network's side needs; each is told at `Desk`."""

    identity: Identity
    run: bytes
    counts: Counts

    async def key(self, client: int) -> bytes | None: ...

    async def wait(self, client: int, seconds: float) -> Asked | None: ...

    async def asked(self, client: int, id: bytes) -> Asked | None: ...

    async def kept(self, id: bytes) -> tuple[int, bool]: ...

    def room(self, id: bytes, offset: int) -> tuple[Path, int]: ...

    async def took(self, client: int, id: bytes, kept: int, size: int) -> int | None: ...

    async def blob(self, name: str) -> Path | None: ...


class Desk:
    """See the module."""

    def __init__(self, identity: Identity, run: bytes, folder: Path) -> None:
        self.identity = identity
        self.run = run
        self.spool = Spool(folder / "spool")
        self.counts = Counts()
        self._blobs = folder / "blobs"
        self._blobs.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._keys: Mapping[int, bytes] = {}
        self._asked: dict[int, Asked] = {}
        self._arrived: SimpleQueue[tuple[int, bytes]] = SimpleQueue()
        self._waiting: dict[int, asyncio.Event] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    # ------------------------------------------------------------------------------------------------ the round's side

    def enrol(self, keys: Mapping[int, bytes]) -> None:
        """From now on these clients may speak, under these keys, and nobody else."""
        self._keys = dict(keys)

    def offer(self, *offered: bytes) -> list[bytes]:
        """Let clients fetch these by their digests, which are returned; earlier ones are gone."""
        digests = [hashlib.sha256(blob).digest() for blob in offered]
        wanted = {digest.hex(): blob for digest, blob in zip(digests, offered, strict=True)}
        for name, blob in wanted.items():
            if not (self._blobs / name).exists():
                write_durably(self._blobs / name, blob, mode=0o600)
        for path in self._blobs.iterdir():
            if path.name not in wanted:
                path.unlink()
        return digests

    def ask(self, questions: Mapping[int, Asked]) -> None:
        """Hand these out, each in place of what its client was asked before."""
        self._asked.update(questions)
        self._wake(list(questions))

    def withdraw(self, clients: list[int]) -> None:
        """They are asked nothing any more."""
        for client in clients:
            self._asked.pop(client, None)

    def next_arrival(self, seconds: float) -> tuple[int, bytes] | None:
        """(client, id) of an answer that has become whole; None if none does in that time."""
        try:
            return self._arrived.get(timeout=max(0.0, seconds))
        except Empty:
            return None

    def close(self) -> None:
        """Nobody is asked anything any more, and who waits is sent away."""
        self._closed = True
        self._wake(list(self._keys))

    # ---------------------------------------------------------------------------------------------- the network's side

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop in which requests wait."""
        self._loop = loop

    async def key(self, client: int) -> bytes | None:
        """The public key under which a client may speak; None for everybody who is not enrolled."""
        return self._keys.get(client)

    def question(self, client: int) -> Asked | None:
        """What a client is asked now."""
        return self._asked.get(client)

    async def wait(self, client: int, seconds: float) -> Asked | None:
        """The client's question, as soon as there is one whose answer is not here. One request waits for each client: a
        second one sends the first away.

        **Why** not the next one after what the client saw: a server that restarts may ask the same thing again."""
        if self._closed:
            return None
        self._release(client)
        event = self._waiting[client] = asyncio.Event()
        try:
            if self._unanswered(client) is None:
                async with asyncio.timeout(seconds):
                    await event.wait()
        except TimeoutError:
            return None
        finally:
            if self._waiting.get(client) is event:
                del self._waiting[client]
        return self._unanswered(client)

    async def asked(self, client: int, id: bytes) -> Asked | None:
        """The question with this id, while its answer is waited for."""
        asked = self.question(client)
        return asked if asked is not None and asked.id == id else None

    async def kept(self, id: bytes) -> tuple[int, bool]:
        """How many bytes of an answer are here, and whether that is all of it."""
        whole = self.spool.whole(id) is not None
        return self.spool.kept(id), whole

    def room(self, id: bytes, offset: int) -> tuple[Path, int]:
        """The file that takes a piece of an answer, and how many bytes must be in it before."""
        return self.spool.part(id), offset

    async def took(self, client: int, id: bytes, kept: int, size: int) -> int | None:
        """A piece up to byte `kept` of `size` came and was right: how many are kept now. None if its question is not
        asked any more."""
        if kept == size:
            if not await asyncio.to_thread(self.spool.finish, id):
                return None
            self.counts.answers += 1
            self._arrived.put((client, id))
        return kept

    async def blob(self, name: str) -> Path | None:
        """The file of what clients may fetch."""
        path = self._blobs / name
        return path if _DIGEST.fullmatch(name) is not None and path.exists() else None

    def _unanswered(self, client: int) -> Asked | None:
        asked = self.question(client)
        return None if asked is None or self.spool.whole(asked.id) is not None else asked

    def _wake(self, clients: list[int]) -> None:
        if self._loop is not None:
            for client in clients:
                self._loop.call_soon_threadsafe(self._release, client)

    def _release(self, client: int) -> None:
        if (event := self._waiting.pop(client, None)) is not None:
            event.set()
