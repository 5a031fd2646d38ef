"""The round's side of the network where several workers listen: questions go into the database, answers come out of it.

Stands for `https.desk.Desk` and its spool in the engine of a coordinator or of one session at a worker. Whatever is
written goes through a fence: a worker whose session was counted as lost asks nobody anything any more.
"""

import shutil
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from fgrpo_secure import entropy
from fgrpo_secure.engines.https.desk import Asked, Counts
from fgrpo_secure.engines.workers import blobs
from fgrpo_secure.engines.workers.database import Cursor, Database
from fgrpo_secure.engines.workers.seats import Fenced, Seat, SessionHeld
from protocols.identity import Identity

LOOK = 0.1  # seconds between two looks for answers


class AskingDesk:
    """See the module. `folder` is for answers on their way to whoever reads them, and is this desk's own."""

    def __init__(
        self, database: Database, identity: Identity, run: bytes, fence: Seat | SessionHeld, folder: Path
    ) -> None:
        self.identity, self.run = identity, run
        self.counts = Counts()
        self.spool = AnswersThere(database, run, fence, folder)
        self._database, self._fence = database, fence
        self._session = fence.session if isinstance(fence, SessionHeld) else None
        self._awaited: dict[bytes, int] = {}

    def enrol(self, keys: Mapping[int, bytes]) -> None:
        """From now on these clients may speak, under these keys, and nobody else. Only the coordinator says so."""
        if self._session is None:
            self._fenced(lambda cursor: enrol(cursor, self.run, keys))

    def offer(self, *offered: bytes) -> list[bytes]:
        """Let clients fetch these by their digests, which are returned; earlier ones are gone."""
        digests = [blobs.put(self._database, self.run, self._fence, blob) for blob in offered]
        blobs.keep_only(self._database, self.run, self._fence, digests)
        return digests

    def ask(self, questions: Mapping[int, Asked]) -> None:
        """Hand these out, each in place of what its client was asked before. Fenced if this desk may ask no more."""
        self._awaited = {asked.id: client for client, asked in questions.items()}
        self._fenced(lambda cursor: self._ask(cursor, questions))

    def withdraw(self, clients: list[int]) -> None:
        """They are asked nothing any more by this desk. Once that was replaced, what is asked is another one's."""
        self._awaited = {}
        query = "DELETE FROM fgrpo_question WHERE run = %s AND client = ANY(%s) AND session IS NOT DISTINCT FROM %s"
        with suppress(Fenced):
            self._fenced(lambda cursor: cursor.execute(query, [self.run, clients, self._session]))

    def next_arrival(self, seconds: float) -> tuple[int, bytes] | None:
        """(client, id) of an answer that has become whole; None if none does in that time."""
        ends = entropy.stopwatch() + seconds
        while True:
            found = self._database.transact(self._arrived)
            if found is not None:
                self._awaited.pop(found[1], None)
                return found
            if entropy.stopwatch() >= ends:
                return None
            entropy.sleep(min(LOOK, max(0.0, ends - entropy.stopwatch())))

    def close(self) -> None:
        """Nothing is kept open here."""

    def _arrived(self, cursor: Cursor) -> tuple[int, bytes] | None:
        cursor.execute(
            "SELECT client, id FROM fgrpo_answer WHERE run = %s AND is_whole AND id = ANY(%s) LIMIT 1",
            [self.run, list(self._awaited)],
        )
        found = cursor.fetchone()
        return None if found is None else (int(found[0]), bytes(found[1]))

    def _fenced(self, act: Callable[[Cursor], object]) -> None:
        def fenced(cursor: Cursor) -> None:
            self._fence.hold(cursor)
            act(cursor)

        self._database.transact(fenced)

    def _ask(self, cursor: Cursor, questions: Mapping[int, Asked]) -> None:
        rows = [
            (self.run, client, self.spool.scope, asked.id, asked.most, asked.sealed, self._session)
            for client, asked in questions.items()
        ]
        cursor.executemany(
            "INSERT INTO fgrpo_question VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (run, client) DO UPDATE SET "
            "scope = excluded.scope, id = excluded.id, most = excluded.most, sealed = excluded.sealed, "
            "session = excluded.session",
            rows,
        )
        cursor.execute("UPDATE fgrpo_run SET asked = asked + 1 WHERE run = %s", [self.run])


class AnswersThere:
    """Answers in the database, and a file of each that is read. Of a session that its worker lost nothing is resumed,
    so no step's end is kept."""

    def __init__(self, database: Database, run: bytes, fence: Seat | SessionHeld, folder: Path) -> None:
        self.scope = ""
        self._database, self._run, self._fence, self._folder = database, run, fence, folder

    def open_session(self, name: str) -> None:
        """Keep answers of `name` from now on, and what is there of it; the coordinator forgets any other."""
        self.scope = name
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, mode=0o700)
        if isinstance(self._fence, Seat):
            self._delete(None, name)

    def discard(self, but: Container[bytes] = ()) -> None:
        """Nothing that was answered is needed again but answers `but` these."""

        def ids(cursor: Cursor) -> list[bytes]:
            return [bytes(id) for (id,) in cursor.execute("SELECT id FROM fgrpo_answer WHERE run = %s", [self._run])]

        for id in self._database.transact(ids):
            if id not in but:
                self.drop(id)

    def drop(self, id: bytes) -> None:
        """What lies there as a whole answer is none."""
        (self._folder / id.hex()).unlink(missing_ok=True)
        self._delete(id, None)

    def whole(self, id: bytes) -> Path | None:
        """The file of an answer that is there from end to end."""
        path = self._folder / id.hex()
        if not path.exists():
            if not self._database.transact(lambda cursor: is_whole(cursor, self._run, id)):
                return None
            self._fetch(id, path)
        return path

    def close_step(self, name: str, clients: list[int]) -> None:
        """Nothing: see the class."""

    def closed(self, name: str) -> list[int] | None:  # noqa: ARG002 - has the shape of `Answers`
        """Nobody: see the class."""
        return None

    def _fetch(self, id: bytes, path: Path) -> None:
        part, size = path.with_suffix(".part"), 0
        with part.open("wb") as file:
            while piece := self._database.transact(partial(self._piece, id, size)):
                file.write(piece)
                size += len(piece)
        part.replace(path)

    def _piece(self, id: bytes, start: int, cursor: Cursor) -> bytes:
        cursor.execute("SELECT data FROM fgrpo_piece WHERE run = %s AND id = %s AND start = %s", [self._run, id, start])
        found = cursor.fetchone()
        return b"" if found is None else bytes(found[0])

    def _delete(self, id: bytes | None, scope: str | None) -> None:
        """The answer of this id; or, without one, all but those of `scope`."""

        def act(cursor: Cursor) -> None:
            self._fence.hold(cursor)
            cursor.execute(
                "DELETE FROM fgrpo_answer WHERE run = %s AND (id = %s OR scope <> %s)", [self._run, id, scope]
            )

        self._database.transact(act)


def enrol(cursor: Cursor, run: bytes, keys: Mapping[int, bytes]) -> None:
    """These clients may speak, and nobody else."""
    cursor.execute("DELETE FROM fgrpo_client WHERE run = %s", [run])
    rows = [(run, client, public) for client, public in keys.items()]
    cursor.executemany("INSERT INTO fgrpo_client VALUES (%s, %s, %s)", rows)


def is_whole(cursor: Cursor, run: bytes, id: bytes) -> bool:
    """Whether an answer is there from end to end."""
    found = cursor.execute("SELECT 1 FROM fgrpo_answer WHERE run = %s AND id = %s AND is_whole", [run, id]).fetchone()
    return found is not None
