"""The one durable record of a session at a client. Everything that a session is, is in its row, and nowhere else.

        accept            mask              unmask
    -> accepted ------> masked ----------> settled
           |               |
           +-- refunded ---+-- charge stays --> closed       (a newer plan of the same run, a crash, the end of a run)

The status moves forward only, by compare-and-swap in the transaction that stores the bytes which are about to leave.
A refund needs a row that proves that no masked vector left: `left` is set with the upload and never taken back.

Secrets live in `state`, which each step replaces, and in `history`: the reward history that holds once the session
settles. Replies are kept until the next session begins, so that a message which comes twice gets the same bytes; they
hold nothing that did not leave already.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import msgspec

from protocols import wire
from protocols.drive import AFTER, BEFORE, Status
from protocols.wire import Plan, RoundPlan, Step

SCHEMA = """
CREATE TABLE IF NOT EXISTS session (
    identity BLOB NOT NULL, session BLOB NOT NULL,
    server BLOB NOT NULL, run BLOB NOT NULL, number INTEGER NOT NULL,
    training_round INTEGER NOT NULL, adapter BLOB NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('accepted', 'masked', 'settled', 'closed')),
    left INTEGER NOT NULL CHECK (left IN (0, 1)),
    fixed_charge TEXT, plan BLOB, state BLOB, history TEXT,
    PRIMARY KEY (identity, session)
) STRICT;
CREATE TABLE IF NOT EXISTS answer (
    identity BLOB NOT NULL, session BLOB NOT NULL, step TEXT NOT NULL,
    request_digest BLOB NOT NULL, reply BLOB NOT NULL,
    PRIMARY KEY (identity, session, step)
) STRICT;
CREATE TABLE IF NOT EXISTS survivors (
    identity BLOB NOT NULL, session BLOB NOT NULL, ids TEXT NOT NULL,
    PRIMARY KEY (identity, session)
) STRICT;
CREATE TABLE IF NOT EXISTS ended (identity BLOB NOT NULL, run BLOB NOT NULL, PRIMARY KEY (identity, run)) STRICT;
"""


_plans: msgspec.msgpack.Decoder[Plan] = msgspec.msgpack.Decoder(Plan)


class RecordConflict(ValueError):
    """What was asked would move a session backwards, or answer a step twice."""


@dataclass(frozen=True)
class SessionRecord:
    """A session's row, without its secrets. `plan` is None once a later session of the run began."""

    session: bytes
    number: int
    training_round: int
    status: Status
    left: bool
    fixed_charge: Fraction | None
    plan: RoundPlan | None


class SessionRecords:
    """The records of all identities in one file. A `protocols.drive.Store`; commits are the caller's."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database

    def last_session(self, identity: bytes, server: bytes, run: bytes) -> int:
        """See Store. Plans that were refused have no row, and move nothing."""
        query = "SELECT MAX(number) FROM session WHERE identity = ? AND server = ? AND run = ?"
        (last,) = self._db.execute(query, (identity, server, run)).fetchone()
        return -1 if last is None else int(last)

    def accept(
        self,
        identity: bytes,
        server: bytes,
        plan: RoundPlan,
        training_round: int = 0,
        fixed_charge: Fraction | None = None,
    ) -> None:
        """See Store. `fixed_charge` is what the session settles at where rounds are charged together.

        RecordConflict if a session of this run is open: the caller closes it first, and pays for what left.
        """
        adapter = dict(plan.context).get("adapter", b"")
        charge = None if fixed_charge is None else str(fixed_charge)
        with self._atomic():
            # Only accepted plans have rows: a refused one with the number 2^48 uses none up (`numbers-used-up`).
            if plan.session_number <= self.last_session(identity, server, plan.run):
                raise RecordConflict(
                    f"session {plan.session_number} is not newer than the last one that this client accepted"
                )
            # Two open ones would be one round's data in two sums that a charge was made for once.
            if self.open_sessions(identity, server, plan.run):
                raise RecordConflict("a session of this run is open")
            facts = (wire.session_of(plan), server, plan.run, plan.session_number, training_round, adapter)
            self._db.execute(
                "INSERT INTO session VALUES (?, ?, ?, ?, ?, ?, ?, 'accepted', 0, ?, ?, NULL, NULL)",
                (identity, *facts, charge, wire.encode(plan)),
            )

    def status(self, identity: bytes, session: bytes) -> Status | None:
        """See Store."""
        row = self._row("status", identity, session)
        return None if row is None else Status(row[0])

    def reply(self, identity: bytes, session: bytes, step: Step) -> tuple[bytes, bytes] | None:
        """See Store."""
        row = self._db.execute(
            "SELECT request_digest, reply FROM answer WHERE identity = ? AND session = ? AND step = ?",
            (identity, session, step.value),
        ).fetchone()
        return None if row is None else (bytes(row[0]), bytes(row[1]))

    def state(self, identity: bytes, session: bytes) -> bytes | None:
        """See Store."""
        row = self._row("state", identity, session)
        return None if row is None or row[0] is None else bytes(row[0])

    def put(
        self, identity: bytes, session: bytes, step: Step, request_digest: bytes, state: bytes, reply: bytes
    ) -> None:
        """See Store. With the upload, the row says that a masked vector may have left."""
        row = (identity, session, step.value, request_digest, reply)
        with self._atomic():
            # `left` is never taken back: whatever follows, a vector that may have left is paid for
            # (`refund-before-the-mask`).
            moved = self._db.execute(
                "UPDATE session SET status = ?, state = ?, left = left OR ? "
                "WHERE identity = ? AND session = ? AND status = ?",
                (AFTER[step], state, step is Step.MASK, identity, session, BEFORE[step]),
            ).rowcount
            if moved != 1:
                raise RecordConflict(f"the session does not stand where step {step.value!r} may be answered")
            try:
                self._db.execute("INSERT INTO answer VALUES (?, ?, ?, ?, ?)", row)
            except sqlite3.IntegrityError:
                raise RecordConflict(f"step {step.value!r} of this session was answered before") from None

    def settle_in_the_clear(self, identity: bytes, session: bytes) -> None:
        """The vector of a plain session leaves without mask or quorum: it has left, and that is the end."""
        moved = self._db.execute(
            "UPDATE session SET status = 'settled', left = 1 "
            "WHERE identity = ? AND session = ? AND status = 'accepted'",
            (identity, session),
        ).rowcount
        if moved != 1:
            raise RecordConflict("the session is not one whose vector may leave")

    def close(self, identity: bytes, session: bytes) -> bool:
        """No step of an open session is answered from now on. Returns whether a masked vector may have left."""
        self._db.execute(
            "UPDATE session SET status = 'closed', state = NULL, history = NULL "
            "WHERE identity = ? AND session = ? AND status IN ('accepted', 'masked')",
            (identity, session),
        )
        # A repeated request would otherwise get the old answer of a session that was refunded.
        self._db.execute("DELETE FROM answer WHERE identity = ? AND session = ?", (identity, session))
        return self.left(identity, session)

    def left(self, identity: bytes, session: bytes) -> bool:
        """Whether a masked vector of the session may have left; False only where a row proves that none did."""
        row = self._row("left", identity, session)
        # No row, no proof: then it may have left, and is paid for.
        return row is None or bool(row[0])

    def record(self, identity: bytes, session: bytes) -> SessionRecord | None:
        """The session's row; None if the identity never accepted it."""
        columns = "session, number, training_round, status, left, fixed_charge, plan"
        row = self._row(columns, identity, session)
        if row is None:
            return None
        number, training_round, status, left, charge, plan = row[1:]
        return SessionRecord(
            session,
            int(number),
            int(training_round),
            Status(status),
            bool(left),
            None if charge is None else Fraction(charge),
            None if plan is None else _plans.decode(bytes(plan)),
        )

    def put_history(self, identity: bytes, session: bytes, history: str) -> None:
        """Keep what the reward history is if this session settles; before its vector leaves."""
        # Only before the mask: afterwards the vector that may have left belongs to the history that is there.
        query = "UPDATE session SET history = ? WHERE identity = ? AND session = ? AND status = 'accepted'"
        if self._db.execute(query, (history, identity, session)).rowcount != 1:
            raise RecordConflict("the session is not one whose vector may leave")

    def take_history(self, identity: bytes, session: bytes) -> str | None:
        """That history, once, of a session that settled."""
        if self.status(identity, session) is not Status.SETTLED:
            return None
        row = self._row("history", identity, session)
        self._db.execute("UPDATE session SET history = NULL WHERE identity = ? AND session = ?", (identity, session))
        return None if row is None or row[0] is None else str(row[0])

    def open_sessions(self, identity: bytes, server: bytes, run: bytes) -> Sequence[bytes]:
        """The sessions of a run that have a further step; at most one unless the caller forgot to close."""
        query = (
            "SELECT session FROM session WHERE identity = ? AND server = ? AND run = ? "
            "AND status IN ('accepted', 'masked') ORDER BY number"
        )
        return [bytes(session) for (session,) in self._db.execute(query, (identity, server, run))]

    def of_run(self, identity: bytes, server: bytes, run: bytes) -> list[tuple[bytes, int, int, bool]]:
        """(session, number, training round, whether a masked vector may have left) of a run's sessions, in order."""
        query = (
            "SELECT session, number, training_round, left FROM session "
            "WHERE identity = ? AND server = ? AND run = ? ORDER BY number"
        )
        rows = self._db.execute(query, (identity, server, run))
        return [(bytes(session), int(number), int(which), bool(left)) for session, number, which, left in rows]

    def keep_survivors(self, identity: bytes, session: bytes, ids: Sequence[int]) -> None:
        """Who survived in a session that settled, public to its cohort: needed until the ledger was signed for it."""
        # The first list stands: a second one for a settled session could only be another outcome.
        self._db.execute(
            "INSERT OR IGNORE INTO survivors VALUES (?, ?, ?)", (identity, session, " ".join(map(str, sorted(ids))))
        )

    def survivors(self, identity: bytes, session: bytes) -> tuple[int, ...] | None:
        """See `keep_survivors`; None if that is not kept (any more)."""
        query = "SELECT ids FROM survivors WHERE identity = ? AND session = ?"
        row = self._db.execute(query, (identity, session)).fetchone()
        return None if row is None else tuple(map(int, row[0].split()))

    def forget_survivors(self, identity: bytes, run: bytes) -> None:
        """The identity signed for every session that it was charged for in a run."""
        self._db.execute(
            "DELETE FROM survivors WHERE identity = ? AND session IN "
            "(SELECT session FROM session WHERE identity = ? AND run = ?)",
            (identity, identity, run),
        )

    def end(self, identity: bytes, run: bytes) -> None:
        """The identity signs a run's end: it takes part in no later session of it, now or after a restart."""
        self._db.execute("INSERT OR IGNORE INTO ended VALUES (?, ?)", (identity, run))

    def ended(self, identity: bytes, run: bytes) -> bool:
        """Whether the identity signed the run's end."""
        query = "SELECT 1 FROM ended WHERE identity = ? AND run = ?"
        return self._db.execute(query, (identity, run)).fetchone() is not None

    def vectors_for(self, identity: bytes, adapter: bytes) -> int:
        """How many vectors of this identity may have left for one adapter, in whatever runs."""
        query = "SELECT COUNT(*) FROM session WHERE identity = ? AND adapter = ? AND left"
        (count,) = self._db.execute(query, (identity, adapter)).fetchone()
        return int(count)

    def round_left(self, identity: bytes, run: bytes, training_round: int) -> bool:
        """Whether a vector of this training round may have left already."""
        query = "SELECT 1 FROM session WHERE identity = ? AND run = ? AND training_round = ? AND left"
        return self._db.execute(query, (identity, run, training_round)).fetchone() is not None

    def repeated(self, identity: bytes, run: bytes) -> int:
        """How many vectors left in a run beyond one for each training round: what sessions without a sum cost."""
        query = "SELECT COUNT(*) - COUNT(DISTINCT training_round) FROM session WHERE identity = ? AND run = ? AND left"
        (count,) = self._db.execute(query, (identity, run)).fetchone()
        return int(count)

    def unmasked(self, identity: bytes, run: bytes, training_round: int) -> int:
        """How many sessions of a training round were accepted in which no vector left, the open one included."""
        query = "SELECT COUNT(*) FROM session WHERE identity = ? AND run = ? AND training_round = ? AND NOT left"
        (count,) = self._db.execute(query, (identity, run, training_round)).fetchone()
        return int(count)

    def left_elsewhere(self, identity: bytes, run: bytes, sampled_only: bool) -> Iterator[bytes]:
        """Sessions of other runs in which a vector may have left; those of sampled rounds, or all."""
        query = (
            "SELECT session FROM session WHERE identity = ? AND run <> ? AND left AND (NOT ? OR fixed_charge NOT NULL)"
        )
        return (bytes(session) for (session,) in self._db.execute(query, (identity, run, sampled_only)))

    def hand_over(self, old: bytes, new: bytes) -> None:
        """An identity got another key: its numbers and its costs go on, its open sessions end."""
        for server, run in self._db.execute(
            "SELECT DISTINCT server, run FROM session WHERE identity = ? AND status IN ('accepted', 'masked')", (old,)
        ).fetchall():
            for session in self.open_sessions(old, server, run):
                self.close(old, session)
        self.forget_closed(old)
        for table in ("session", "survivors", "ended"):
            # Numbers, costs and ends go on under the new key: with a fresh start a rotated key would have a budget of
            # repeats again.
            self._db.execute(f"UPDATE OR REPLACE {table} SET identity = ? WHERE identity = ?", (new, old))  # noqa: S608

    def forget_closed(self, identity: bytes) -> None:
        """Drop plans, states and replies of all sessions that have no further step; what they cost stays written."""
        self._db.execute(
            "UPDATE session SET plan = NULL, state = NULL, history = NULL "
            "WHERE identity = ? AND status NOT IN ('accepted', 'masked')",
            (identity,),
        )
        self._db.execute(
            "DELETE FROM answer WHERE identity = ? AND NOT EXISTS (SELECT 1 FROM session WHERE "
            "session.identity = answer.identity AND session.session = answer.session "
            "AND status IN ('accepted', 'masked'))",
            (identity,),
        )

    @contextmanager
    def _atomic(self) -> Iterator[None]:
        """All or nothing, also where the caller opened no transaction: several processes may race for a step."""
        outermost = not self._db.in_transaction
        self._db.execute("BEGIN IMMEDIATE" if outermost else "SAVEPOINT step")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK" if outermost else "ROLLBACK TO step")
            raise
        finally:
            if self._db.in_transaction:
                self._db.execute("COMMIT" if outermost else "RELEASE step")

    def _row(self, columns: str, identity: bytes, session: bytes) -> tuple[Any, ...] | None:
        query = f"SELECT {columns} FROM session WHERE identity = ? AND session = ?"  # noqa: S608  # columns of our own
        found: tuple[Any, ...] | None = self._db.execute(query, (identity, session)).fetchone()
        return found
