"""The network's side where several workers listen: any of them serves any client, whoever conducts its session.

Every question of a client's is looked up in the database when it is handed out, and every piece of an answer is kept
there only while its question is asked: which worker a proxy chose makes no difference. A thread looks whether
anything new is asked, so that a request that waits costs no query.
"""

import asyncio
import re
import threading
from functools import partial
from pathlib import Path

from fgrpo_secure import entropy
from fgrpo_secure.engines.https.desk import Asked, Counts
from fgrpo_secure.engines.workers import blobs
from fgrpo_secure.engines.workers.asking import is_whole
from fgrpo_secure.engines.workers.database import Cursor, Database, NoDatabase
from protocols.identity import Identity

LOOK = 0.2  # seconds between two looks for questions
_DIGEST = re.compile("[0-9a-f]{64}")


class ListeningDesk:
    """See the module. `folder` is for what is on its way, and is this desk's own."""

    def __init__(self, database: Database, identity: Identity, run: bytes, folder: Path) -> None:
        self.identity, self.run = identity, run
        self.counts = Counts()
        self._database = database
        self._pieces, self._blobs = folder / "pieces", folder / "blobs"
        for each in (self._pieces, self._blobs):
            each.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._waiting: dict[int, asyncio.Event] = {}
        self._fetching = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="questions", daemon=True)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop in which requests wait."""
        self._loop = loop
        self._thread.start()

    def close(self) -> None:
        """Who waits is sent away."""
        self._ended.set()
        self._thread.join()
        self._wake()

    async def key(self, client: int) -> bytes | None:
        """The public key under which a client may speak; None for everybody who is not enrolled."""
        return await asyncio.to_thread(self._database.transact, partial(self._key, client))

    async def wait(self, client: int, seconds: float) -> Asked | None:
        """The client's question, as soon as there is one whose answer is not here. One request waits for each client at
        this worker: a second one sends the first away."""
        ends = entropy.stopwatch() + seconds
        event = asyncio.Event()
        if (other := self._waiting.pop(client, None)) is not None:
            other.set()
        self._waiting[client] = event
        try:
            while True:
                event.clear()
                asked = await asyncio.to_thread(self._database.transact, partial(self._unanswered, client))
                left = ends - entropy.stopwatch()
                if asked is not None or left <= 0 or self._ended.is_set():
                    return asked
                try:
                    async with asyncio.timeout(left):
                        await event.wait()
                except TimeoutError:
                    return None
                if self._waiting.get(client) is not event:
                    return None
        finally:
            if self._waiting.get(client) is event:
                del self._waiting[client]

    async def asked(self, client: int, id: bytes) -> Asked | None:
        """The question with this id, while its answer is waited for."""
        asked = await asyncio.to_thread(self._database.transact, partial(self._question, client))
        return asked if asked is not None and asked.id == id else None

    async def kept(self, id: bytes) -> tuple[int, bool]:
        """How many bytes of an answer are here, and whether that is all of it."""
        return await asyncio.to_thread(self._database.transact, partial(self._kept, id))

    def room(self, id: bytes, offset: int) -> tuple[Path, int]:  # noqa: ARG002 - has the shape of `NetworkDesk`
        """The file that takes a piece of an answer, and how many bytes must be in it before."""
        path = self._pieces / id.hex()
        path.unlink(missing_ok=True)
        return path, 0

    async def took(self, client: int, id: bytes, kept: int, size: int) -> int | None:
        """A piece up to byte `kept` of `size` came and was right: how many are kept now. None if its question is not
        asked any more."""
        path = self._pieces / id.hex()
        data = path.read_bytes()
        path.unlink()
        keep = partial(self._keep, client, id, kept - len(data), size, data)
        now, whole = await asyncio.to_thread(self._database.transact, keep)
        self.counts.answers += whole
        return now

    async def blob(self, name: str) -> Path | None:
        """The file of what clients may fetch."""
        if _DIGEST.fullmatch(name) is None:
            return None
        async with self._fetching:
            return await asyncio.to_thread(blobs.file_of, self._database, self.run, name, self._blobs)

    def _key(self, client: int, cursor: Cursor) -> bytes | None:
        cursor.execute("SELECT public FROM fgrpo_client WHERE run = %s AND client = %s", [self.run, client])
        found = cursor.fetchone()
        return None if found is None else bytes(found[0])

    def _question(self, client: int, cursor: Cursor) -> Asked | None:
        cursor.execute("SELECT id, most, sealed FROM fgrpo_question WHERE run = %s AND client = %s", [self.run, client])
        found = cursor.fetchone()
        return None if found is None else Asked(bytes(found[0]), int(found[1]), bytes(found[2]))

    def _unanswered(self, client: int, cursor: Cursor) -> Asked | None:
        asked = self._question(client, cursor)
        return None if asked is None or is_whole(cursor, self.run, asked.id) else asked

    def _kept(self, id: bytes, cursor: Cursor) -> tuple[int, bool]:
        cursor.execute("SELECT kept, is_whole FROM fgrpo_answer WHERE run = %s AND id = %s", [self.run, id])
        found = cursor.fetchone()
        return (0, False) if found is None else (int(found[0]), bool(found[1]))

    def _keep(
        self, client: int, id: bytes, offset: int, size: int, data: bytes, cursor: Cursor
    ) -> tuple[int | None, bool]:
        """(how much is kept, whether this piece made the answer whole). The question's row is held meanwhile: whoever
        withdraws it waits, so nothing comes after a step has ended."""
        cursor.execute(
            "SELECT scope FROM fgrpo_question WHERE run = %s AND client = %s AND id = %s FOR SHARE",
            [self.run, client, id],
        )
        if (asked := cursor.fetchone()) is None:
            return None, False
        cursor.execute(
            "INSERT INTO fgrpo_answer VALUES (%s, %s, %s, %s, 0, false) ON CONFLICT DO NOTHING",
            [self.run, id, asked[0], client],
        )
        kept = offset + len(data)
        cursor.execute(
            "UPDATE fgrpo_answer SET kept = %s, is_whole = %s WHERE run = %s AND id = %s AND kept = %s "
            "AND NOT is_whole RETURNING 1",
            [kept, kept == size, self.run, id, offset],
        )
        if cursor.fetchone() is None:  # another worker has this piece, or this one has and did not hear of it
            return self._kept(id, cursor)[0], False
        cursor.execute("INSERT INTO fgrpo_piece VALUES (%s, %s, %s, %s)", [self.run, id, offset, data])
        return kept, kept == size

    def _look(self) -> None:
        seen = -1
        while not self._ended.wait(LOOK):
            try:
                found = self._database.transact(self._count, LOOK)
            except NoDatabase:
                continue  # who conducts says so; what waits here goes on waiting
            if found != seen:
                seen = found
                self._wake()

    def _count(self, cursor: Cursor) -> int:
        found = cursor.execute("SELECT asked FROM fgrpo_run WHERE run = %s", [self.run]).fetchone()
        return -1 if found is None else int(found[0])

    def _wake(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        for event in self._waiting.values():
            event.set()
