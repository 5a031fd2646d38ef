"""Sessions on their way from the coordinator to workers, and their ends on the way back.

    open ---taken by its worker---> taken ---its sum, or why there is none---> ended
      |                               |
      +---------- lost: its worker, or the coordinator, is gone -------------> lost

Each step is one transaction that changes a session only where it stands as it should. `asked` is set before anybody
is asked for a masked vector, while the session is taken: so of a session that is lost it is known for good whether its
clients may have paid. Unless the database itself goes back (`going_back`): so a worker says it again at the end.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np

from fgrpo_secure.engines.https.engine import Invited
from fgrpo_secure.engines.workers import blobs
from fgrpo_secure.engines.workers.database import Cursor, Database
from fgrpo_secure.engines.workers.seats import COORDINATOR, Fenced, Seat, SessionHeld
from fgrpo_secure.server.session import HandedSession, SessionEnd
from protocols.drive import Traffic
from protocols.server import Recovered
from protocols.wire import Step


class Handed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a worker needs of a session, beside its own copy of the run. Models and rosters are named by digests."""

    invited: Invited
    session: HandedSession


class Sum(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A session's sum, its vectors as little-endian bytes."""

    totals: dict[str, bytes]
    survivors: tuple[int, ...]
    dropped: tuple[int, ...]
    blamed: dict[int, str]
    disputes: tuple[tuple[int, int], ...]


class Outcome(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A session's end. `sum` is the digest of a `Sum` among the blobs; `refused` are clients that said no."""

    sum: bytes | None
    traffic: dict[str, dict[str, int]]
    problem: str
    liar: bool
    refused: tuple[int, ...]


Row = tuple[bytes, int, str, bool, bytes | None]  # session, worker, state, asked, outcome
UNKNOWN = -1  # the worker of a session that the database does not know any more
COUNTS = ("down", "up", "asked", "answered")


def workers(cursor: Cursor, run: bytes) -> list[int]:
    """The workers that live now."""
    cursor.execute(
        "SELECT seat FROM fgrpo_seat WHERE run = %s AND seat > %s AND until > clock_timestamp() ORDER BY seat",
        [run, COORDINATOR],
    )
    return [int(seat) for (seat,) in cursor.fetchall()]


def hand_out(
    database: Database, coordinator: Seat, handed: Mapping[bytes, Handed], chosen: Mapping[bytes, int]
) -> None:
    """Put a round's sessions up for their workers, in the place of those of the round before."""

    def act(cursor: Cursor) -> None:
        coordinator.hold(cursor)
        cursor.execute(
            "DELETE FROM fgrpo_session WHERE run = %s AND NOT session = ANY(%s)", [coordinator.run, list(handed)]
        )
        cursor.executemany(
            "INSERT INTO fgrpo_session VALUES (%s, %s, %s, NULL, 'open', false, %s) ON CONFLICT DO NOTHING",
            [(coordinator.run, name, chosen[name], msgspec.msgpack.encode(each)) for name, each in handed.items()],
        )

    database.transact(act)


def take(database: Database, worker: Seat) -> Handed | None:
    """The next session that is this worker's to conduct; None if there is none now."""

    def act(cursor: Cursor) -> Any:
        worker.hold(cursor)
        cursor.execute(
            "UPDATE fgrpo_session SET state = 'taken', holder = %(holder)s WHERE run = %(run)s AND session = ("
            "SELECT session FROM fgrpo_session WHERE run = %(run)s AND worker = %(seat)s AND "
            "(state = 'open' OR state = 'taken' AND holder = %(holder)s) ORDER BY session LIMIT 1 FOR UPDATE) "
            "RETURNING handed",
            {"run": worker.run, "seat": worker.number, "holder": worker.holder},
        )
        return cursor.fetchone()

    found = database.transact(act)
    return None if found is None else msgspec.msgpack.decode(found[0], type=Handed)


def note_asked(database: Database, held: SessionHeld) -> None:
    """Before anybody is asked for a masked vector: on the database's disk when this returns. Else Fenced."""

    def act(cursor: Cursor) -> None:
        held.hold(cursor)
        cursor.execute(
            "UPDATE fgrpo_session SET asked = true WHERE run = %s AND session = %s", [held.run, held.session]
        )
        cursor.execute("UPDATE fgrpo_run SET asked = asked + 1 WHERE run = %s", [held.run])

    database.transact(act)


def end(database: Database, held: SessionHeld, found: SessionEnd, refused: tuple[int, ...]) -> None:
    """Hand a session's end back, with the clients that said no. Fenced if it was counted as lost.

    Whether clients may have paid, its worker knows itself; the row may have forgotten it, if the database went back.
    """
    outcome = msgspec.msgpack.encode(_outcome(database, held, found, refused))

    def act(cursor: Cursor) -> None:
        cursor.execute(
            "UPDATE fgrpo_session SET state = 'ended', outcome = %s, asked = asked OR %s WHERE run = %s "
            "AND session = %s AND holder = %s AND state IN ('taken', 'ended') RETURNING 1",
            [outcome, found.asked, held.run, held.session, held.holder],
        )
        if cursor.fetchone() is None:
            raise Fenced("the session was counted as lost meanwhile; its sum is given up")

    database.transact(act)


def look(cursor: Cursor, coordinator: Seat, names: list[bytes]) -> list[Row]:
    """(session, worker, state, asked, outcome) of these, after those of workers that are gone were counted as lost, and
    those that a lost worker had not begun were given to one that lives. What is not there is lost, and counts as asked:
    it was there, and nobody may delete it but this coordinator."""
    run, alive = coordinator.run, workers(cursor, coordinator.run)
    coordinator.hold(cursor)
    cursor.execute(
        "UPDATE fgrpo_session SET state = 'lost' WHERE run = %s AND session = ANY(%s) AND state = 'taken' AND "
        "NOT worker = ANY(%s) RETURNING session",
        [run, names, alive],
    )
    lost = [session for (session,) in cursor.fetchall()]
    cursor.execute("DELETE FROM fgrpo_question WHERE run = %s AND session = ANY(%s)", [run, lost])
    if alive:
        cursor.execute(
            "UPDATE fgrpo_session SET worker = %s WHERE run = %s AND session = ANY(%s) AND state = 'open' AND "
            "NOT worker = ANY(%s)",
            [alive[0], run, names, alive],
        )
    cursor.execute(
        "SELECT session, worker, state, asked, outcome FROM fgrpo_session WHERE run = %s AND session = ANY(%s)",
        [run, names],
    )
    found = {bytes(name): (worker, state, asked, outcome) for name, worker, state, asked, outcome in cursor.fetchall()}
    return [(name, *found.get(name, (UNKNOWN, "lost", True, None))) for name in names]


class Remembered(NamedTuple):
    """What the database knows of a session: whether its clients may have been asked to pay, whether a liar ended it."""

    asked: bool
    spoiled: bool
    signed: bytes  # its plan


def remembered(database: Database, run: bytes) -> dict[bytes, Remembered]:
    """The newest round's sessions by name."""

    def act(cursor: Cursor) -> list[tuple[Any, ...]]:
        query = "SELECT session, asked, handed, outcome FROM fgrpo_session WHERE run = %s"
        return cursor.execute(query, [run]).fetchall()

    found = {}
    for name, asked, handed, outcome in database.transact(act):
        spoiled = outcome is not None and msgspec.msgpack.decode(outcome, type=Outcome).liar
        found[bytes(name)] = Remembered(asked, spoiled, msgspec.msgpack.decode(handed, type=Handed).session.signed)
    return found


def read(database: Database, run: bytes, data: bytes, asked: bool) -> tuple[SessionEnd, tuple[int, ...]]:
    """A session's end from its outcome, and who refused."""
    outcome = msgspec.msgpack.decode(data, type=Outcome)
    recovered = None
    if outcome.sum is not None:
        found = msgspec.msgpack.decode(blobs.need(database, run, outcome.sum), type=Sum)
        totals = {name: np.frombuffer(total, np.dtype("<i8")).astype(np.int64) for name, total in found.totals.items()}
        recovered = Recovered(totals, found.survivors, found.dropped, found.blamed, found.disputes)
    counts = [{Step(step): count for step, count in outcome.traffic[name].items()} for name in COUNTS]
    return SessionEnd(recovered, Traffic(*counts), outcome.problem, asked, outcome.liar), outcome.refused


def _outcome(database: Database, held: SessionHeld, found: SessionEnd, refused: tuple[int, ...]) -> Outcome:
    digest, recovered = None, found.recovered
    if recovered is not None:
        totals = {name: total.astype("<i8").tobytes() for name, total in recovered.totals.items()}
        rest = recovered.survivors, recovered.dropped, recovered.blamed, recovered.disputes
        digest = blobs.put(database, held.run, held, msgspec.msgpack.encode(Sum(totals, *rest)))
    traffic = {name: {step.value: count for step, count in getattr(found.traffic, name).items()} for name in COUNTS}
    return Outcome(digest, traffic, found.problem, found.liar, refused)
