"""A database that goes back a moment under a live server: whoever may have paid counts as paid, and the server ends."""

from types import SimpleNamespace

import pytest

pytest.importorskip("psycopg")

from fgrpo_secure import entropy
from fgrpo_secure.engines.workers import handing, seats, working
from fgrpo_secure.engines.workers.asking import AskingDesk
from fgrpo_secure.engines.workers.coordination import Coordination
from fgrpo_secure.engines.workers.going_back import GoingBack, WentBack
from fgrpo_secure.engines.workers.seats import SessionHeld
from fgrpo_secure.server.session import HandedSession, SessionEnd
from tests.fgrpo_secure.engines.conftest import RUN, SERVER
from tests.fgrpo_secure.engines.test_workers import HANDED, SESSION, state, until

pytestmark = pytest.mark.slow  # a database of its own: seconds
OTHER = bytes(31) + b"t"
TABLES = ("fgrpo_run", "fgrpo_session", "fgrpo_seat", "fgrpo_question")


def copied(database):
    """What the tables hold now, as a function that puts it back."""

    def rows(cursor):
        return {table: cursor.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}  # noqa: S608 - our own

    kept = database.transact(rows)

    def put_back(cursor):
        for table, found in kept.items():
            cursor.execute(f"DELETE FROM {table}")  # noqa: S608
            for row in found:
                cursor.execute(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(row))})", row)  # noqa: S608

    return lambda: database.transact(put_back)


@pytest.fixture
def taken(database, leases):
    """(coordinator, worker 1, what it holds) of a session that it has taken."""
    coordinator, worker = leases(seats.COORDINATOR), leases(1)
    handing.hand_out(database, coordinator.seat, {SESSION: HANDED}, {SESSION: 1})
    assert handing.take(database, worker.seat) == HANDED
    return coordinator, worker, SessionHeld(RUN, SESSION, worker.seat.holder)


@pytest.fixture
def coordinating(database, leases, tmp_path):
    """A coordinator without a model, with worker 1 alive; and its round of two sessions, as its federation asks."""
    made, lease = Coordination.__new__(Coordination), leases(seats.COORDINATOR)
    made._directory, made._engine = (
        SimpleNamespace(workers=tmp_path / "workers"),
        SimpleNamespace(invited=HANDED.invited, refusals={}),
    )
    made._database, made._workers, made._say, made._run, made._seat = database, 1, [].append, RUN, lease
    made._going_back, made._restarted, made._waits_until = GoingBack(RUN), False, entropy.stopwatch()
    worker = leases(1)
    return made, worker, made.conduct([HandedSession(name, b"a signed plan", False) for name in (SESSION, OTHER)])


def test_a_worker_says_at_the_end_that_it_asked_whatever_the_database_forgot(database, taken):
    coordinator, _, held = taken
    put_back = copied(database)
    handing.note_asked(database, held)
    put_back()
    assert state(database) == (1, "taken", False)
    handing.end(database, held, SessionEnd(None, problem="too few", asked=True), ())
    [(_, _, stands, asked, outcome)] = database.transact(
        lambda cursor: handing.look(cursor, coordinator.seat, [SESSION])
    )
    assert stands == "ended"
    assert handing.read(database, RUN, outcome, asked)[0].asked


@pytest.mark.parametrize("lost", ["a moment", "everything"])
def test_every_process_ends_and_leaves_each_running_session_as_asked_in(database, taken, tmp_path, lost):
    coordinator, worker, held = taken
    put_back = copied(database)
    handing.note_asked(database, held)
    for lease in (coordinator, worker):
        until(lambda lease=lease: lease._going_back._most == 1)
    put_back()
    if lost == "everything":
        database.transact(lambda cursor: cursor.execute("DELETE FROM fgrpo_run"))
    for lease in (coordinator, worker):
        until(lambda lease=lease: lease._problem)
        with pytest.raises(WentBack, match="the database went back to an earlier state"):
            lease.check()
    assert state(database) == (1, "taken", True)


def test_what_only_grows_is_no_step_back(database, leases, tmp_path):
    lease = leases(seats.COORDINATOR)
    desk = AskingDesk(database, SERVER, RUN, lease.seat, tmp_path / "own")
    seen = GoingBack(RUN)
    for _ in range(3):
        desk.ask({})
        database.transact(seen.look)
        database.transact(seen.look)
        seen.check()
    assert seen._most == 3


def test_a_session_that_the_database_does_not_know_any_more_is_lost_and_paid_and_a_round_ends(coordinating, database):
    coordinator, _, ends = coordinating
    coordinator._database = AfterHandingOut(database, lambda: delete_sessions(database))
    assert {name: (end.asked, end.problem) for name, end in ends} == dict.fromkeys(
        (SESSION, OTHER), (True, "the database does not know the session any more")
    )


def test_a_coordinator_counts_all_sessions_of_its_round_as_paid_before_it_ends(coordinating, database):
    coordinator, worker, ends = coordinating

    def goes_back():
        put_back = copied(database)
        session = handing.take(database, worker.seat).session.name
        handing.note_asked(database, SessionHeld(RUN, session, worker.seat.holder))
        database.transact(coordinator._going_back.look)
        put_back()

    coordinator._database, found = AfterHandingOut(database, goes_back), {}
    with pytest.raises(WentBack):
        found.update((name, end.asked) for name, end in ends)
    assert found == {SESSION: True, OTHER: True}


@pytest.mark.parametrize("restarted", [False, True])
def test_of_a_database_that_was_started_in_mid_round_no_session_is_believed_not_to_have_asked(
    coordinating, database, monkeypatch, restarted
):
    coordinator, worker, ends = coordinating
    starts, look = iter(["one"] if restarted else []), GoingBack.look
    monkeypatch.setattr(GoingBack, "look", lambda self, cursor: next(starts, look(self, cursor)))
    coordinator._database = AfterHandingOut(database, lambda: handing.take(database, worker.seat) and worker.close())
    _, end = next(ends)
    assert (end.asked, "was lost" in end.problem) == (restarted, True)
    assert coordinator._directory.workers.read_text() == (
        "one" if restarted else database.transact(GoingBack(RUN).look)
    )
    coordinator._restarted = restarted
    assert (b"a signed plan" in coordinator.asked_before()) is restarted


def test_a_worker_that_is_given_a_session_again_ends_and_its_clients_count_as_paid(database, taken):
    _, lease, _ = taken
    worker = working.Worker.__new__(working.Worker)
    worker.database, worker.run, worker._begun = database, RUN, set()
    worker._begin(SESSION)
    with pytest.raises(WentBack):
        worker._begin(SESSION)
    lease.close()
    assert state(database) == (1, "lost", True)


class AfterHandingOut:
    """The database, to which something happens once the coordinator has handed its sessions out."""

    def __init__(self, database, happens):
        self._database, self._happens, self._calls = database, happens, 0

    def transact(self, act, *arguments):
        found = self._database.transact(act, *arguments)
        if "hand_out" in act.__qualname__:
            self._happens()
        return found


def delete_sessions(database):
    database.transact(lambda cursor: cursor.execute("DELETE FROM fgrpo_session"))
