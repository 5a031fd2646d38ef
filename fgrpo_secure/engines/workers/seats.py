"""Who is the coordinator, who is worker I: leases in the database, by its clock, and the fences that follow from them.

    seat      held by one process at a time. It is renewed while the process lives; a dead one's runs out
    fence     what is written is written only if the writer still holds its seat, or its session, in that transaction

**Why** fences and not the lease alone: a process that was stopped for a minute comes back and believes that it still
holds its seat. Whatever it then writes is refused, so no client is asked by two workers, and nobody pays after a
session was counted as lost.
"""

import threading
from dataclasses import dataclass
from typing import Protocol

from fgrpo_secure import entropy
from fgrpo_secure.engines.workers.database import Cursor, Database, NoDatabase
from fgrpo_secure.engines.workers.going_back import GoingBack, WentBack
from fgrpo_secure.errors import CheckFailed, UnusableInput

LEASE = 12.0  # seconds after which a process that says nothing counts as lost
BEATS = 4  # renewals within one lease
COORDINATOR = 0
HOLDER_BYTES = 16


class SeatTaken(UnusableInput):
    """Another process is the coordinator, or the worker of this number."""


class Fenced(CheckFailed):
    """What this process held was counted as lost, and another has its place or will have it: nothing was written."""


class Fence(Protocol):
    """What must still hold where something is written."""

    def hold(self, cursor: Cursor) -> None:
        """Returns if it holds, and keeps it so until the transaction ends; else Fenced."""
        ...


@dataclass(frozen=True)
class Seat:
    """Seat `number` of a run, as held by `holder`: a random name that each process draws for itself."""

    run: bytes
    number: int
    holder: bytes

    def hold(self, cursor: Cursor) -> None:
        """See Fence."""
        cursor.execute(
            "SELECT 1 FROM fgrpo_seat WHERE run = %s AND seat = %s AND holder = %s FOR SHARE",
            [self.run, self.number, self.holder],
        )
        if cursor.fetchone() is None:
            raise Fenced(f"another process has taken the place of {name(self.number)}; this one ends")


@dataclass(frozen=True)
class SessionHeld:
    """A session that the worker `holder` conducts."""

    run: bytes
    session: bytes
    holder: bytes

    def hold(self, cursor: Cursor) -> None:
        """See Fence."""
        cursor.execute(
            "SELECT 1 FROM fgrpo_session WHERE run = %s AND session = %s AND holder = %s AND state = 'taken' FOR SHARE",
            [self.run, self.session, self.holder],
        )
        if cursor.fetchone() is None:
            raise Fenced("the session was counted as lost meanwhile; it is given up here")


def name(number: int) -> str:
    """A seat in words."""
    return "the coordinator" if number == COORDINATOR else f"worker {number}"


class Lease:
    """Takes a seat and renews it from a thread, until it is closed or lost."""

    def __init__(self, database: Database, run: bytes, number: int) -> None:
        """Takes the seat when its holder's lease has run out, or SeatTaken. Sessions that the holder before conducted
        are lost, in the same transaction."""
        self.seat = Seat(run, number, entropy.OsEntropy().bytes(HOLDER_BYTES))
        self._database, self._going_back = database, GoingBack(run)
        self._ended, self._problem = threading.Event(), ""
        # A process that was killed a moment ago still has its lease: whoever starts it again waits for its end.
        ends = entropy.stopwatch() + 1.5 * LEASE
        while not database.transact(self._take):
            if entropy.stopwatch() >= ends:
                raise SeatTaken(
                    f"another process is {name(number)} of this run; end that one first, or give this one another "
                    "number"
                )
            entropy.sleep(LEASE / BEATS)
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Returns while the seat is held; else Fenced, or WentBack if the database is not what it was."""
        self._going_back.check()
        if self._problem:
            raise Fenced(self._problem)

    def close(self) -> None:
        """Give the seat back. What is still conducted from it is lost."""
        self._ended.set()
        self._thread.join()
        if not self._problem:
            self._database.transact(self._leave)

    def _take(self, cursor: Cursor) -> bool:
        seat = self.seat
        cursor.execute(
            "INSERT INTO fgrpo_seat VALUES (%s, %s, %s, clock_timestamp() + make_interval(secs => %s)) "
            "ON CONFLICT (run, seat) DO UPDATE SET holder = excluded.holder, until = excluded.until "
            "WHERE fgrpo_seat.until < clock_timestamp() OR fgrpo_seat.holder = excluded.holder RETURNING 1",
            [seat.run, seat.number, seat.holder, LEASE],
        )
        if cursor.fetchone() is None:
            return False
        lose(cursor, seat.run, seat.number)
        return True

    def _leave(self, cursor: Cursor) -> None:
        seat = self.seat
        cursor.execute(
            "UPDATE fgrpo_seat SET until = clock_timestamp() WHERE run = %s AND seat = %s AND holder = %s RETURNING 1",
            [seat.run, seat.number, seat.holder],
        )
        if cursor.fetchone() is not None and seat.number != COORDINATOR:
            lose(cursor, seat.run, seat.number)

    def _renew(self) -> None:
        seat = self.seat

        def beat(cursor: Cursor) -> bool:
            cursor.execute(
                "UPDATE fgrpo_seat SET until = clock_timestamp() + make_interval(secs => %s) "
                "WHERE run = %s AND seat = %s AND holder = %s RETURNING 1",
                [LEASE, seat.run, seat.number, seat.holder],
            )
            held = cursor.fetchone() is not None
            self._going_back.look(cursor)
            return held

        while not self._ended.wait(LEASE / BEATS):
            try:
                if not self._database.transact(beat):
                    self._problem = f"another process has taken the place of {name(seat.number)}; this one ends"
            except NoDatabase as problem:
                self._problem = str(problem)
            try:
                self._going_back.check()
            except WentBack as problem:
                self._problem = str(problem)
            if self._problem:
                return


def lose(cursor: Cursor, run: bytes, number: int) -> None:
    """Sessions that a worker conducts are lost; after a coordinator all that had not ended, and nothing else is asked
    any more either."""
    cursor.execute(
        "UPDATE fgrpo_session SET state = 'lost' WHERE run = %(run)s AND "
        "(state = 'taken' AND worker = %(seat)s OR state IN ('open', 'taken') AND %(seat)s = 0) RETURNING session",
        {"run": run, "seat": number},
    )
    withdraw(cursor, run, [session for (session,) in cursor.fetchall()])
    if number == COORDINATOR:
        cursor.execute("DELETE FROM fgrpo_question WHERE run = %s", [run])


def withdraw(cursor: Cursor, run: bytes, sessions: list[bytes]) -> None:
    """What is asked in these sessions is not asked any more."""
    cursor.execute("DELETE FROM fgrpo_question WHERE run = %s AND session = ANY(%s)", [run, sessions])
