"""A process that is stopped in the middle of a write: the locks that it holds delay all others by seconds."""

import threading
from contextlib import closing

import pytest

psycopg = pytest.importorskip("psycopg")

from fgrpo_secure import entropy  # noqa: E402
from fgrpo_secure.engines.https.desk import Asked  # noqa: E402
from fgrpo_secure.engines.workers import database as databases  # noqa: E402
from fgrpo_secure.engines.workers import handing, seats  # noqa: E402
from fgrpo_secure.engines.workers.asking import AskingDesk  # noqa: E402
from fgrpo_secure.engines.workers.database import Address, Database  # noqa: E402
from fgrpo_secure.engines.workers.seats import Fenced, SessionHeld  # noqa: E402
from tests.fgrpo_secure.engines import postgres  # noqa: E402
from tests.fgrpo_secure.engines.conftest import RUN, SERVER  # noqa: E402
from tests.fgrpo_secure.engines.test_workers import HANDED, SESSION, dies, look, state, until  # noqa: E402

pytestmark = pytest.mark.slow  # a database of its own: seconds
OTHER = bytes(31) + b"t"
IDLE = 1.0  # here; 5 s in earnest
MOST = IDLE + 2  # with what a loaded machine adds


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setitem(databases.SERVERS_SIDE, "idle_in_transaction_session_timeout", f"{IDLE}s")
    monkeypatch.setattr(databases, "PAUSE", 0.1)


class Stopped:
    """A process of its own over `text`, stopped within its transaction once it has done what it does."""

    def __init__(self, folder, text):
        self._database = Database(Address.read(postgres.address_file(folder, text)))
        self._goes_on, self._holds = threading.Event(), threading.Event()
        self._calls, self.problem = 0, None

    def transact(self, act, *arguments):
        def stopped(cursor):
            found = act(cursor)
            self._calls += 1
            if self._calls == 1:
                self._holds.set()
                self._goes_on.wait(60)
            return found

        return self._database.transact(stopped, *arguments)

    def begin(self, act):
        def run():
            try:
                act()
            except Fenced as problem:
                self.problem = problem

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert self._holds.wait(30)

    def go_on(self):
        self._goes_on.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def close(self):
        self._goes_on.set()
        self._database.close()


@pytest.fixture
def stopped(short, postgres_text, tmp_path):
    with closing(Stopped(tmp_path, postgres_text)) as made:
        yield made


@pytest.fixture
def others(short, database, leases):
    """(coordinator, workers 1 and 2), each with a session that it has taken."""
    database.close()  # its connection is of before `short`
    coordinator, one, two = leases(seats.COORDINATOR), leases(1), leases(2)
    handed = {SESSION: HANDED, OTHER: HANDED}
    handing.hand_out(database, coordinator.seat, handed, {SESSION: 1, OTHER: 2})
    for lease in (one, two):
        assert handing.take(database, lease.seat) is not None
    return coordinator, one, two


def desk(database, lease, session, folder):
    return AskingDesk(database, SERVER, RUN, SessionHeld(RUN, session, lease.seat.holder), folder)


def within(seconds, act):
    began = entropy.stopwatch()
    act()
    assert entropy.stopwatch() - began < seconds


def test_a_worker_stopped_while_it_asks_delays_the_others_by_seconds(database, others, stopped, tmp_path):
    coordinator, one, two = others
    stopped.begin(lambda: desk(stopped, one, SESSION, tmp_path / "one").ask({0: Asked(b"a" * 32, 10, b"sealed")}))
    within(MOST, lambda: desk(database, two, OTHER, tmp_path / "two").ask({1: Asked(b"b" * 32, 10, b"sealed")}))
    dies(one)
    until(lambda: look(database, coordinator)[0][2] == "lost")
    stopped.go_on()  # it tries again, and is told that it lost its session
    assert isinstance(stopped.problem, Fenced)
    assert state(database)[1:] == ("lost", False)


def test_a_worker_stopped_within_a_fenced_write_is_counted_as_lost_in_time(database, others, stopped):
    coordinator, one, _ = others
    held = SessionHeld(RUN, SESSION, one.seat.holder)
    stopped.begin(lambda: handing.note_asked(stopped, held))
    dies(one)
    within(seats.LEASE + MOST, lambda: until(lambda: look(database, coordinator)[0][2] == "lost"))
    stopped.go_on()
    assert isinstance(stopped.problem, Fenced)
    assert state(database)[1:] == ("lost", False)


def test_a_piece_whose_taker_was_stopped_does_not_keep_a_step_from_its_end(database, others, stopped, tmp_path):
    _, _, two = others
    asking = desk(database, two, OTHER, tmp_path / "two")
    asking.ask({1: Asked(b"b" * 32, 10, b"sealed")})
    held = "SELECT scope FROM fgrpo_question WHERE run = %s AND client = 1 FOR SHARE"
    stopped.begin(lambda: stopped.transact(lambda cursor: cursor.execute(held, [RUN]).fetchone()))
    within(MOST, lambda: asking.withdraw([1]))
    stopped.go_on()


@pytest.mark.parametrize("default", ["read committed", "repeatable read", "serializable"])
def test_every_connection_has_the_timeouts_and_the_isolation_that_fences_need(
    database, postgres_text, tmp_path, default
):
    with psycopg.connect(postgres_text, autocommit=True) as owner:
        owner.execute(f"ALTER ROLE fgrpo SET default_transaction_isolation = '{default}'".encode())
        try:
            with closing(Database(Address.read(postgres.address_file(tmp_path, postgres_text)))) as made:

                def shown(cursor, name):
                    return cursor.execute("SELECT current_setting(%s)", [name]).fetchone()[0]

                assert made.transact(lambda cursor: shown(cursor, "transaction_isolation")) == "read committed"
                for name in ("idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout"):
                    found = made.transact(lambda cursor, name=name: shown(cursor, name))
                    assert found == databases.SERVERS_SIDE[name].replace("60s", "1min")
        finally:
            owner.execute("ALTER ROLE fgrpo RESET default_transaction_isolation")


def test_what_a_stopped_process_holds_ends_before_its_lease_and_within_the_patience_of_all_others():
    names = ("idle_in_transaction_session_timeout", "lock_timeout")
    idle, lock = (float(databases.SERVERS_SIDE[name].removesuffix("s")) for name in names)
    assert idle + lock + databases.PAUSE < seats.LEASE < databases.PATIENCE
