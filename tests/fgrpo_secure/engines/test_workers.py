"""Workers over one database: any of them serves any client, none conducts another's session, nobody is asked twice."""

import threading
from contextlib import closing
from types import SimpleNamespace

import pytest

psycopg = pytest.importorskip("psycopg")


from fgrpo_secure.engines.https import dialer, signing  # noqa: E402
from fgrpo_secure.engines.https import question as questions  # noqa: E402
from fgrpo_secure.engines.https.application import application  # noqa: E402
from fgrpo_secure.engines.https.desk import Asked  # noqa: E402
from fgrpo_secure.engines.https.dialer import Dialer, Gone, Place  # noqa: E402
from fgrpo_secure.engines.https.engine import HttpsEngine, Invited  # noqa: E402
from fgrpo_secure.engines.https.listening import Listening, server_context  # noqa: E402
from fgrpo_secure.engines.https.question import Answered  # noqa: E402
from fgrpo_secure.engines.workers import coordination, handing, seats, working  # noqa: E402
from fgrpo_secure.engines.workers.asking import AskingDesk  # noqa: E402
from fgrpo_secure.engines.workers.coordination import Coordination  # noqa: E402
from fgrpo_secure.engines.workers.handing import Handed  # noqa: E402
from fgrpo_secure.engines.workers.listening import ListeningDesk  # noqa: E402
from fgrpo_secure.engines.workers.seats import Fenced, SeatTaken, SessionHeld  # noqa: E402
from fgrpo_secure.server.session import HandedSession, SessionEnd  # noqa: E402
from protocols import labels, wire  # noqa: E402
from protocols.params import Adversary  # noqa: E402
from tests.fgrpo_secure.engines.conftest import AUTHORITY, CLIENTS, ROSTER, RUN, SERVER, SIGNED  # noqa: E402

pytestmark = pytest.mark.slow  # a database of its own: seconds
SESSION = bytes(31) + b"s"
HANDED = Handed(Invited(7, 4, bytes(32), bytes(32)), HandedSession(SESSION, b"a signed plan", False))


def dies(lease):
    """Its process says nothing any more."""
    lease._ended.set()
    lease._thread.join()


def state(database):
    rows = "SELECT worker, state, asked FROM fgrpo_session WHERE run = %s"
    return database.transact(lambda cursor: cursor.execute(rows, [RUN]).fetchone())


def asked_clients(database):
    rows = "SELECT client FROM fgrpo_question WHERE run = %s ORDER BY client"
    return [client for (client,) in database.transact(lambda cursor: cursor.execute(rows, [RUN]).fetchall())]


@pytest.fixture
def conducted(database, leases, tmp_path):
    """(coordinator, worker 1, its desk) with a session that the worker has taken, and asks client 0 in."""
    coordinator, worker = leases(seats.COORDINATOR), leases(1)
    handing.hand_out(database, coordinator.seat, {SESSION: HANDED}, {SESSION: 1})
    assert handing.take(database, worker.seat) == HANDED
    held = SessionHeld(RUN, SESSION, worker.seat.holder)
    desk = AskingDesk(database, SERVER, RUN, held, tmp_path / "desk")
    desk.spool.open_session("7")
    desk.ask({0: Asked(b"i" * 32, 10, b"sealed")})
    return coordinator, worker, desk, held


# ------------------------------------------------------------------------------------------------ whose a session is


def test_two_processes_are_never_one_worker_and_the_second_says_so_in_one_sentence(leases):
    leases(1)
    with pytest.raises(SeatTaken, match="another process is worker 1 of this run"):
        leases(1)


def test_a_worker_that_was_killed_is_started_again_when_its_lease_is_over(database, leases):
    first = leases(1)
    dies(first)
    second = leases(1)
    assert second.seat.holder != first.seat.holder
    with pytest.raises(Fenced):
        database.transact(first.seat.hold)


def test_of_many_takers_one_gets_the_session(database, leases):
    coordinator, worker = leases(seats.COORDINATOR), leases(1)
    handing.hand_out(database, coordinator.seat, {SESSION: HANDED}, {SESSION: 1})
    other = seats.Seat(RUN, 1, b"another holder..")
    got = []

    def take(seat):
        try:
            got.append((seat, handing.take(database, seat)))
        except Fenced:
            got.append((seat, None))

    threads = [threading.Thread(target=take, args=[seat]) for seat in (worker.seat, other) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {seat for seat, found in got if found is not None} == {worker.seat}


def test_a_stopped_worker_that_comes_back_asks_nobody_writes_nothing_and_hands_no_sum_back(database, conducted):
    coordinator, worker, desk, held = conducted
    assert asked_clients(database) == [0]
    dies(worker)
    wait_for_lost(database, coordinator)
    assert state(database) == (1, "lost", False)
    assert asked_clients(database) == [], "a client is still asked in a session that was lost"
    for write in (
        lambda: desk.ask({1: Asked(b"j" * 32, 10, b"sealed")}),
        lambda: handing.note_asked(database, held),
        lambda: handing.end(database, held, SessionEnd(None), ()),
    ):
        with pytest.raises(Fenced):
            write()
    assert state(database) == (1, "lost", False), "whoever was counted as not asked must never be asked to pay"
    assert asked_clients(database) == []


def test_a_session_whose_worker_was_lost_after_it_asked_for_vectors_counts_as_paid(database, conducted):
    coordinator, worker, _, held = conducted
    handing.note_asked(database, held)
    dies(worker)
    wait_for_lost(database, coordinator)
    assert state(database) == (1, "lost", True)
    assert handing.remembered(database, RUN) == {SESSION: (True, False, HANDED.session.signed)}


def test_a_session_that_its_lost_worker_had_not_begun_goes_to_one_that_lives(database, leases):
    coordinator, lost, alive = leases(seats.COORDINATOR), leases(1), leases(2)
    handing.hand_out(database, coordinator.seat, {SESSION: HANDED}, {SESSION: 1})
    dies(lost)
    until(lambda: look(database, coordinator)[0][:2] == (SESSION, 2))
    assert handing.take(database, alive.seat) == HANDED


def test_a_worker_or_coordinator_that_starts_again_gives_up_what_the_one_before_conducted(database, conducted, leases):
    coordinator, worker, _, _ = conducted
    worker.close()
    assert state(database)[1] == "lost"
    assert asked_clients(database) == []
    database.transact(lambda cursor: cursor.execute("UPDATE fgrpo_session SET state = 'taken', asked = true"))
    coordinator.close()
    leases(seats.COORDINATOR)
    assert state(database) == (1, "lost", True)


def test_a_coordinator_that_was_replaced_hands_out_nothing(database, leases):
    first = leases(seats.COORDINATOR)
    dies(first)
    leases(seats.COORDINATOR)
    with pytest.raises(Fenced, match="the coordinator"):
        handing.hand_out(database, first.seat, {SESSION: HANDED}, {SESSION: 1})


def test_what_a_replaced_coordinator_withdraws_is_nothing_of_the_one_in_its_place(database, leases, tmp_path):
    first = leases(seats.COORDINATOR)
    old = AskingDesk(database, SERVER, RUN, first.seat, tmp_path / "old")
    dies(first)
    new = AskingDesk(database, SERVER, RUN, leases(seats.COORDINATOR).seat, tmp_path / "new")
    new.ask({0: Asked(b"r" * 32, 10, b"sealed")})
    old.withdraw([0])
    assert asked_clients(database) == [0]
    new.withdraw([0])
    assert asked_clients(database) == []


def test_a_process_that_could_not_claim_the_run_directory_takes_no_seat(database, leases, tmp_path, monkeypatch):
    alive, worker = leases(seats.COORDINATOR), leases(1)
    handing.hand_out(database, alive.seat, {SESSION: HANDED}, {SESSION: 1})
    handing.take(database, worker.seat)
    dies(alive)  # it says nothing for longer than its lease, and is this run's server all the same
    threading.Event().wait(1.5)
    monkeypatch.setattr(coordination.opening, "read", lambda directory: SimpleNamespace(run=RUN.hex()))
    Coordination(None, database, 1, [].append).close()  # as `server start` does, whose claim was refused
    assert state(database) == (1, "taken", False)


def test_a_worker_that_was_replaced_removes_no_file_of_the_one_in_its_place(database, leases, tmp_path, monkeypatch):
    monkeypatch.setattr(working.rosters, "server_identity", lambda directory: SERVER)
    monkeypatch.setattr(working.rosters, "pins", lambda directory: SimpleNamespace(authority=AUTHORITY.public))
    directory, config, made = SimpleNamespace(private=tmp_path), SimpleNamespace(clients_total=5), []
    for _ in range(2):
        lease = leases(1)
        made.append(working.Worker(directory, config, database, lease, [].append))
        made[-1].folder.mkdir(parents=True)
        dies(lease)
    old, new = made
    assert old.folder != new.folder
    assert not old.folder.exists()
    assert new.folder.exists()


@pytest.mark.parametrize("forged", ["another's signature", "another name", "another run"])
def test_a_worker_conducts_no_session_that_its_server_did_not_sign_for_this_run(forged):
    run = bytes(16) if forged == "another run" else RUN
    plan = wire.RoundPlan(
        1, run, 7, bytes(32), 1, (0, 1, 2, 3, 4), (), b"", (("update", 4),), 32, Adversary.LYING_SERVER, 1, 4, 4, 4, 0
    )
    signer = AUTHORITY if forged == "another's signature" else SERVER
    signed = wire.encode(wire.SignedPlan(plan, signer.sign(labels.SIGN_PLAN, wire.encode(plan))))
    name = bytes(32) if forged == "another name" else wire.session_of(plan)
    worker = working.Worker.__new__(working.Worker)
    worker.identity, worker.run = SERVER, RUN
    with pytest.raises(Fenced, match="did not sign" if signer is AUTHORITY else "another one's name"):
        worker._plan(Handed(HANDED.invited, HandedSession(name, signed, False)))


def look(database, coordinator):
    return database.transact(lambda cursor: handing.look(cursor, coordinator.seat, [SESSION]))


def wait_for_lost(database, coordinator):
    until(lambda: look(database, coordinator)[0][2] == "lost")


def until(happened):
    for _ in range(100):
        if happened():
            return
        threading.Event().wait(0.1)
    pytest.fail("it did not happen")


# ------------------------------------------------------------------------------------------- any worker, any client


class TwoWorkers:
    """A coordinator's engine, and two workers' sockets."""

    def __init__(self, database, lease, pem, folder):
        self.engine = HttpsEngine(
            AskingDesk(database, SERVER, RUN, lease.seat, folder / "own"), None, AUTHORITY.public, (None, 5)
        )
        self.pem, self.desks, self.listening = pem, [], []
        for number in (1, 2):
            desk = ListeningDesk(database, SERVER, RUN, folder / f"worker-{number}")
            listening = Listening(application(desk, [].append), ("127.0.0.1", 0), server_context(*pem), 64, [].append)
            desk.attach(listening.loop)
            listening.start()
            self.desks.append(desk)
            self.listening.append(listening)

    def dialer(self, worker, client=0, who=None):
        url, ca = f"https://127.0.0.1:{self.listening[worker].address[1]}", self.pem[0].read_text()
        return Dialer(Place(url, SERVER.public, RUN, client, who or CLIENTS[client], ca))

    def close(self):
        for desk, listening in zip(self.desks, self.listening, strict=True):
            desk.close()
            listening.close()


@pytest.fixture
def two(database, leases, pem, tmp_path):
    made = TwoWorkers(database, leases(seats.COORDINATOR), pem, tmp_path)
    made.engine.invite(7, b"a model", SIGNED)
    yield made
    made.close()


def test_pieces_of_one_answer_come_through_either_worker_and_make_one_answer(two, monkeypatch, tmp_path):
    monkeypatch.setattr(signing, "PIECE", 1000)
    monkeypatch.setattr(dialer, "PIECE", 1000)
    answers, payload = [], bytes(range(256)) * 10
    step = threading.Thread(target=lambda: answers.extend(two.engine.exchange("mask", {0: b"asked"}, 30)))
    step.start()
    with closing(two.dialer(0)) as one, closing(two.dialer(1)) as other:
        question = one.next()
        answer = questions.write_answer(Answered(payload))
        for start in range(0, len(answer), 1000):
            line = (one, other)[start // 1000 % 2]
            assert line._kept(question.id, start, len(answer), answer[start : start + 1000]) > start
            if start == 1000:  # it comes again, through the other one: nothing changes
                kept = one._kept(question.id, start, len(answer), answer[start : start + 1000])
                assert kept == start + 1000
        step.join()
        assert answers == [(0, payload)]
        with pytest.raises(Gone):
            other.put(question.id, answer)
        other.fetch(two.engine.invited.adapter, tmp_path / "model", 100)
        assert (tmp_path / "model").read_bytes() == b"a model"


def test_a_newer_roster_is_in_force_at_every_worker_at_once_and_strangers_are_heard_nowhere(two):
    for worker in (0, 1):
        with (
            closing(two.dialer(worker, who=AUTHORITY)) as line,
            pytest.raises(dialer.Dismissed, match="not signed by a"),
        ):
            line.next()
    two.engine._desk.enrol({entry.id: entry.public for entry in ROSTER.members if entry.id})
    for worker in (0, 1):
        with closing(two.dialer(worker)) as line, pytest.raises(dialer.Dismissed, match="not signed by a client"):
            line.next()
