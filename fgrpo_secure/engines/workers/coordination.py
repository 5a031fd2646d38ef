"""The coordinator: the run's books, its model and its plans. It listens nowhere and conducts no session itself.

coordinator                            database                          worker I of N
open the round, charge it
hand out its sessions  ------------->  open  ------------------------->  conduct, note `asked`, add uploads up
add up the sums of those that ended <-  ended, or lost with its worker <- the shard's sum
apply, settle, show the ledger  ---->  questions, answers  <-----------> clients, at any worker
"""

import json
from collections.abc import Callable, Iterator, Sequence

from fgrpo_secure import entropy
from fgrpo_secure.config.schema import Config
from fgrpo_secure.engines.https.engine import HttpsEngine
from fgrpo_secure.engines.workers import asking, handing, schema
from fgrpo_secure.engines.workers.asking import AskingDesk
from fgrpo_secure.engines.workers.database import Cursor, Database
from fgrpo_secure.engines.workers.going_back import GoingBack, WentBack
from fgrpo_secure.engines.workers.handing import Handed
from fgrpo_secure.engines.workers.seats import COORDINATOR, Lease
from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.server.session import HandedSession, SessionEnd
from fgrpo_secure.storage import opening, rosters
from fgrpo_secure.storage.run_directory import RunDirectory, write_durably
from protocols.drive import Traffic

LOOK = 0.2  # seconds between two looks at sessions
PATIENCE = 60.0  # seconds in which, after a start, a round waits for workers that are not there yet


class Coordination:
    """See the module. Is `server.session.Elsewhere` for the federation, and opens its engine."""

    def __init__(self, directory: RunDirectory, database: Database, workers: int, say: Callable[[str], None]) -> None:
        """NoDatabase if there is none of use. Nothing is taken yet."""
        schema.make(database)
        self._directory, self._database, self._workers, self._say = directory, database, workers, say
        self._run = bytes.fromhex(opening.read(directory).run)
        self._going_back, self._restarted = GoingBack(self._run), False
        self._seat: Lease | None = None
        self._engine: HttpsEngine | None = None
        self._waits_until = entropy.stopwatch() + PATIENCE

    def open_engine(self, directory: RunDirectory, config: Config) -> HttpsEngine:
        """The engine through which the coordinator shows its ledger and asks after a crash, at any worker.

        Takes the coordinator's seat: SeatTaken if another process has it. **Why** only here: the run directory is
        claimed by now, so a process that cannot be this run's server gives up no session of the one that is.
        """
        if config.aggregation.mode == "plain":
            raise UnusableInput("aggregation.mode is 'plain': nothing is aggregated securely, and no worker takes part")
        self._take_seat(directory)
        if not directory.workers.exists():
            write_durably(directory.workers, b"", mode=0o600)
        status = {"since": entropy.utc_now(), "listens": f"at {self._workers} workers"}
        write_durably(directory.status, json.dumps(status).encode(), mode=0o600)
        pins, roster = rosters.pins(directory), rosters.roster(directory)
        folder = directory.private / "coordinator"
        desk = AskingDesk(self._database, rosters.server_identity(directory), self._run, self._lease.seat, folder)
        times = config.training_deadline, config.federation.step_seconds
        self._engine = HttpsEngine(desk, None, pins.authority, times)
        self._engine.enrol(roster)
        return self._engine

    def _take_seat(self, directory: RunDirectory) -> None:
        self._seat = Lease(self._database, self._run, COORDINATOR)
        self._database.transact(self._begin)
        # Under another start of the database's server, it may not know any more what it knew of an open round.
        started = self._database.transact(self._going_back.look)
        self._restarted = directory.workers.exists() and directory.workers.read_text() != started
        self._waits_until = entropy.stopwatch() + PATIENCE

    @property
    def _lease(self) -> Lease:
        if self._seat is None:
            raise ValueError("no engine was opened")
        return self._seat

    def conduct(self, sessions: Sequence[HandedSession]) -> Iterator[tuple[bytes, SessionEnd]]:
        """See Elsewhere. A session whose worker is gone is lost; one that it had not begun goes to another."""
        engine = self._engine
        if engine is None:
            raise ValueError("no engine was opened")
        handed = {each.name: Handed(engine.invited, each) for each in sessions}
        alive, left = self._present(), set(handed)
        chosen = {name: alive[place % len(alive)] for place, name in enumerate(handed)}
        began = self._database.transact(self._going_back.look)
        write_durably(self._directory.workers, began.encode(), mode=0o600)
        handing.hand_out(self._database, self._lease.seat, handed, chosen)
        while left:
            try:
                rows, start = self._look(sorted(left))
            except WentBack as problem:
                for name in sorted(left):
                    yield name, SessionEnd(None, Traffic(), str(problem), asked=True)
                raise
            for name, worker, state, noted, outcome in rows:
                # A database that was started in between may have forgotten that somebody was asked.
                asked = noted or start != began
                if state == "ended" and outcome is not None:
                    end, refused = handing.read(self._database, self._run, outcome, asked)
                    engine.refusals.update(dict.fromkeys(refused, "said to its worker"))
                elif state == "lost":
                    end = SessionEnd(None, Traffic(), self._lost(worker), asked)
                else:
                    continue
                left.discard(name)
                yield name, end
            entropy.sleep(LOOK if left else 0)

    def asked_before(self) -> list[bytes]:
        """See Elsewhere."""
        return [each.signed for each in self._remembered().values() if each.asked or self._restarted]

    def spoiled_before(self) -> list[bytes]:
        """See Elsewhere."""
        return [each.signed for each in self._remembered().values() if each.spoiled]

    def knows(self, session: bytes) -> bool:
        """See Elsewhere."""
        return session in self._remembered()

    def close(self) -> None:
        """Give the seat back; after the end of the run its workers end, too."""
        if self._engine is not None and self._engine.is_over:
            self._database.transact(self._end)
        if self._seat is not None:
            self._seat.close()
        self._database.close()

    def _remembered(self) -> dict[bytes, handing.Remembered]:
        return handing.remembered(self._database, self._run)

    def _look(self, names: list[bytes]) -> tuple[list[handing.Row], str]:
        """How these sessions stand, and under which start of the database. WentBack if it is not what it was."""
        self._lease.check()

        def act(cursor: Cursor) -> tuple[list[handing.Row], str]:
            start = self._going_back.look(cursor)
            return handing.look(cursor, self._lease.seat, names), start

        found = self._database.transact(act)
        self._going_back.check()
        return found

    def _lost(self, worker: int) -> str:
        if worker == handing.UNKNOWN:
            return "the database does not know the session any more"
        return f"worker {worker} of {self._workers} was lost"

    def _present(self) -> list[int]:
        """The workers that live: all of them, or whoever is there when a start's patience is over; at least one."""
        said = False
        while True:
            self._lease.check()
            alive = self._database.transact(lambda cursor: handing.workers(cursor, self._run))
            if len(alive) >= self._workers or (alive and entropy.stopwatch() >= self._waits_until):
                return alive
            if not said:
                missing = sorted(set(range(1, self._workers + 1)) - set(alive))
                self._say(f"waits for workers {', '.join(map(str, missing))} of {self._workers}")
                said = True
            entropy.sleep(LOOK)

    def _begin(self, cursor: Cursor) -> None:
        self._lease.seat.hold(cursor)
        cursor.execute(
            "INSERT INTO fgrpo_run VALUES (%s, %s, false, 0) "
            "ON CONFLICT (run) DO UPDATE SET workers = excluded.workers, is_over = false",
            [self._run, self._workers],
        )
        # Before any worker listens, which waits for that row: a client that is told that it is not enrolled ends.
        members = rosters.roster(self._directory).members
        asking.enrol(cursor, self._run, {entry.id: entry.public for entry in members})

    def _end(self, cursor: Cursor) -> None:
        self._lease.seat.hold(cursor)
        cursor.execute("UPDATE fgrpo_run SET is_over = true WHERE run = %s", [self._run])
