"""What fails around a client and its server, one row each: certificates, disks, networks, copies of a client."""

import threading
import time
from contextlib import closing, suppress
from dataclasses import replace

import pytest

from fgrpo_secure.engines.https import application, client_loop
from fgrpo_secure.engines.https import question as questions
from fgrpo_secure.engines.https.client_loop import Serving
from fgrpo_secure.engines.https.dialer import Dialer, Dismissed, Gone, NotReached
from fgrpo_secure.engines.https.question import Answered
from fgrpo_secure.engines.messages import Answer, Step
from tests.fgrpo_secure.engines.conftest import SIGNED, Wire
from tests.fgrpo_secure.engines.federations import certificate
from tests.soak.proxy import Proxy
from tests.soak.relay import Relay

OUT = {0: b"to nought"}


def write(payload):
    return questions.write_answer(Answered(payload))


class Echo:
    """In place of a session's process: answers a step with what it was asked, and counts."""

    running = False

    def __init__(self):
        self.asked = 0

    def ask(self, request):
        if not isinstance(request, Step):
            return []
        self.asked += 1
        ((client, message),) = request.messages.items()
        return [Answer(client, b"answer to " + message)]

    def end(self):
        pass


class Daemon:
    """The daemon's loop in a thread, until it is closed."""

    def __init__(self, dialer, folder):
        folder.mkdir()
        self.session, self.lines, self._dialer = Echo(), [], dialer
        serving = Serving(dialer, self.session, folder, self.lines.append, 1 << 20)
        original, self._ends = dialer.next, False

        def until_closed():
            if self._ends:
                raise Dismissed("closed")
            return original()

        dialer.next = until_closed
        self._thread = threading.Thread(target=self._serve, args=(serving,), daemon=True)
        self._thread.start()

    def _serve(self, serving):
        try:
            serving.serve()
        except Dismissed:
            self._dialer.close()

    def end(self):
        self._ends = True

    def join(self):
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def quick_back_off(monkeypatch):
    monkeypatch.setattr(client_loop, "LONGEST_WAIT", 0.5)


def test_an_expired_certificate_is_said_and_a_new_one_is_taken_without_more(tmp_path, pem):
    old = certificate(tmp_path, days=(-3, -1), name="old")
    wire = Wire(tmp_path / "server", old)
    try:
        with closing(wire.dialer()) as line, pytest.raises(NotReached, match="certificate has expired"):
            line.next()
    finally:
        wire.engine.close()
    wire.pem = pem
    wire.engine = wire._open(wire.port)
    try:
        wire.engine.invite(7, b"a model", SIGNED)
        answers, step = wire.ask("share", OUT, 10)
        assert wire.answer(0, b"x").payload == OUT[0]
        step.join()
        assert answers == [(0, b"x")]
    finally:
        wire.engine.close()


def test_a_server_whose_disk_is_full_takes_the_answer_when_there_is_room_again(wire):
    answers, step = wire.ask("share", OUT, 20)
    with closing(wire.dialer(0)) as line:
        question = line.next()
        part = wire.engine._desk.spool.part(question.id)
        part.symlink_to("/dev/full")
        with pytest.raises(NotReached, match="cannot keep this now"):
            line.put(question.id, write(b"x"))
        part.unlink()
        line.put(question.id, write(b"x"), again=True)
    step.join()
    assert answers == [(0, b"x")]


def test_a_client_whose_disk_is_full_takes_the_model_when_there_is_room_again(wire, tmp_path):
    digest = wire.engine.invited.adapter
    (tmp_path / "model.part").symlink_to("/dev/full")
    with closing(wire.dialer(0)) as line:
        with pytest.raises(NotReached, match="cannot be kept: No space left"):
            line.fetch(digest, tmp_path / "model", 1 << 20)
        (tmp_path / "model.part").unlink()
        line.fetch(digest, tmp_path / "model", 1 << 20)
    assert (tmp_path / "model").read_bytes() == b"a model"


def test_every_request_may_be_delivered_twice(wire, tmp_path):
    answers, step = wire.ask("mask", {0: b"a", 1: b"b"}, 20)
    for client in (0, 1):
        with closing(wire.dialer(client)) as line:
            original = line._send

            def twice(*request, original=original):
                original(*request)
                return original(*request)

            line._send = twice
            question = line.next()
            line.fetch(question.adapter, tmp_path / f"model-{client}", 1 << 20)
            with suppress(Gone):  # the first delivery may have ended the step
                line.put(question.id, write(question.payload * 2))
    step.join()
    assert sorted(answers) == [(0, b"aa"), (1, b"bb")]


def test_two_machines_with_one_identity_give_one_answer_and_do_not_run_hot(wire, tmp_path, quick_back_off):
    """Both hold the client's key. Whoever is asked answers from its own records; neither asks without end."""
    daemons = [Daemon(wire.dialer(0), tmp_path / f"machine-{number}") for number in range(2)]
    try:
        time.sleep(3)
        before = wire.counts.requests
        time.sleep(3)
        assert wire.counts.requests - before < 60, "they send each other away as fast as they can"
        for number in range(3):
            answers, step = wire.ask(f"step-{number}", {0: b"q"}, 20)
            step.join()
            assert answers == [(0, b"answer to q")]
        assert any(client_loop.SENT_AWAY in each.lines for each in daemons)
    finally:
        for each in daemons:
            each.end()
        wire.engine._desk.close()
        for each in daemons:
            each.join()


@pytest.mark.parametrize("moment", ["while it waits", "before it answers", "while it is away"])
def test_a_line_that_is_cut_loses_nothing(wire, tmp_path, quick_back_off, moment):
    relay = Relay(wire.port)
    where = replace(wire.dialer(0)._place, url=f"https://127.0.0.1:{relay.port}")
    daemon = Daemon(Dialer(where), tmp_path / "machine")
    try:
        time.sleep(1)
        if moment == "before it answers":
            original = daemon.session.ask

            def cut_first(request):
                relay.cut()
                relay.mend()
                return original(request)

            daemon.session.ask = cut_first
        else:
            relay.cut()
        if moment == "while it waits":
            relay.mend()
        answers, step = wire.ask("share", OUT, 30)
        if moment == "while it is away":
            time.sleep(2)
            relay.mend()
        step.join()
        assert answers == [(0, b"answer to to nought")]
        assert daemon.session.asked == 1, "a cut line is no reason to compute an answer again"
    finally:
        daemon.end()
        wire.engine._desk.close()
        daemon.join()


def by_proxy(wire, proxy):
    return Dialer(replace(wire.dialer(0)._place, proxy=proxy.url))


def test_a_connection_that_ends_within_its_handshake_behind_a_proxy_keeps_no_client_away(wire):
    proxy = Proxy(30.0)
    wire.ask("share", OUT, 60)
    with closing(by_proxy(wire, proxy)) as line:
        proxy.ending = 2
        for _ in range(2):
            with pytest.raises(NotReached, match="ConnectError"):
                line.next()
        assert line.next().payload == OUT[0]


@pytest.mark.parametrize(("idle", "is_cut"), [(8.0, False), (1.0, True)], ids=["after a poll", "within a poll"])
def test_a_proxy_that_cuts_what_is_silent_costs_a_client_at_most_another_call(
    wire, tmp_path, quick_back_off, monkeypatch, idle, is_cut
):
    """Scaled, with room for a busy machine: polls end after 25 seconds, proxies cut after 30."""
    monkeypatch.setattr(application, "POLL", 2.0)
    monkeypatch.setattr(client_loop, "SHORTEST_POLL", 0.5)
    proxy = Proxy(idle)
    daemon = Daemon(by_proxy(wire, proxy), tmp_path / "machine")
    try:
        ends = time.monotonic() + (60 if is_cut else 10)
        while time.monotonic() < ends and not (is_cut and proxy.cut > 1):
            time.sleep(0.1)
        assert (proxy.cut > 1, proxy.opened > 1) == (is_cut, is_cut)
        answers, step = wire.ask("share", OUT, 60)
        step.join()
        assert answers == [(0, b"answer to to nought")]
    finally:
        daemon.end()
        wire.engine._desk.close()
        daemon.join()
