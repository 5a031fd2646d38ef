"""The daemon between its server and the process that answers."""

import json
import threading
import time

import pytest

from fgrpo_secure import entropy
from fgrpo_secure.engines import messages as frames
from fgrpo_secure.engines.https import engine
from fgrpo_secure.engines.https.client_loop import RunOver, Serving, Stopped
from fgrpo_secure.engines.https.session_process import SessionEnded


class Ends:
    """A session's process that ends over the first step in this way, and answers the next."""

    running = False

    def __init__(self, how):
        self._how = [how]
        self.steps = []

    def ask(self, request):
        if not isinstance(request, frames.Step):
            return []
        self.steps.append(request)
        if self._how:
            raise self._how.pop()
        return [frames.Answer(0, b"a")]


class Killed(BaseException):
    """The daemon's process ends here."""


@pytest.fixture
def daemon(wire, tmp_path):
    folder, lines = tmp_path / "daemon", []
    folder.mkdir()

    def make(session):
        lines.append(wire.dialer())
        return Serving(lines[-1], session, folder, lambda _: None, 1 << 20)

    yield make
    for line in lines:
        line.close()


def test_the_process_that_takes_over_is_told_how_long_ago_its_client_was_asked_first(wire, daemon):
    wire.ask("announce", {0: b"q"}, 30)
    session = Ends(SessionEnded("it ended"))
    serving = daemon(session)
    assert serving._turn() == "it ended"
    time.sleep(0.5)
    assert serving._turn() is None
    wire.ask("share", {0: b"q"}, 30)
    assert serving._turn() is None
    first, again, other = session.steps
    assert again.waited >= 0.5 > max(first.waited, other.waited)
    assert (first.trains, again.trains, other.trains) == (True, False, True)


@pytest.mark.parametrize("ends", [Killed, Stopped])
def test_a_daemon_that_follows_another_knows_when_that_one_was_asked_and_trains_again_only_if_it_was_stopped(
    wire, daemon, ends
):
    """Whatever the data did to the first one, the announcement leaves when it would have."""
    wire.ask("announce", {0: b"q"}, 30)
    session = Ends(ends())
    with pytest.raises(ends):
        daemon(session)._turn()
    time.sleep(0.5)
    assert daemon(session)._turn() is None
    first, again = session.steps
    assert first.waited < 0.5 <= again.waited
    assert (first.trains, again.trains) == (True, ends is Stopped)
    assert (first.again, again.again) == (False, ends is Stopped)


def test_another_session_begins_its_own_time(wire, daemon):
    session = Ends(SessionEnded("it ended"))
    serving = daemon(session)
    wire.ask("announce", {0: b"q"}, 30)
    serving._turn()
    time.sleep(0.5)
    wire.ask("announce", {0: b"another"}, 30)
    assert serving._turn() is None
    assert session.steps[1].waited < 0.5
    assert session.steps[1].trains


@pytest.mark.parametrize("spoiled", [b"", b"[]", b'{"question": "xy"}', bytes(9)])
def test_a_record_that_a_disk_has_spoiled_is_none(wire, daemon, tmp_path, spoiled):
    (tmp_path / "daemon" / "asked.json").write_bytes(spoiled)
    wire.ask("announce", {0: b"q"}, 30)
    session = Ends(SessionEnded("it ended"))
    assert daemon(session)._turn() == "it ended"
    assert json.loads((tmp_path / "daemon" / "asked.json").read_bytes())["question"]
    assert session.steps[0].trains


def test_a_clock_that_was_set_back_meanwhile_takes_no_time_from_anybody(wire, daemon, monkeypatch):
    wire.ask("announce", {0: b"q"}, 30)
    session = Ends(Killed())
    serving = daemon(session)
    with pytest.raises(Killed):
        serving._turn()
    really = entropy.unix_time
    follows = daemon(session)
    follows.dialer._ahead = 86_400.0
    monkeypatch.setattr(entropy, "unix_time", lambda: really() - 86_400)
    assert follows._turn() is None
    assert session.steps[1].waited == 0


def test_a_disk_that_keeps_nothing_lets_no_session_begin(wire, daemon, tmp_path):
    wire.ask("announce", {0: b"q"}, 30)
    session = Ends(Killed())
    serving = daemon(session)
    serving.first.path = tmp_path / "no such folder" / "asked.json"
    assert "cannot be written: No such file" in serving._turn()
    assert session.steps == []


def test_what_a_server_calls_its_step_reaches_no_terminal_as_it_is(wire, daemon):
    wire.ask("\x1b[2J\nstopped", {0: b"q"}, 30)
    serving, told = daemon(Ends(SessionEnded("it ended"))), []
    serving.say = told.append
    serving._turn()
    assert told == ["session 7: \\x1b[2J\\nstopped"]


def test_who_has_the_servers_word_that_the_run_is_over_goes_though_the_server_hears_no_more_of_it(
    wire, daemon, monkeypatch
):
    monkeypatch.setattr(engine, "FAREWELL_SECONDS", 2.0)
    wire.engine.witness(b"", {}, 0, lambda _: True)  # the last signatures of the run
    closing = threading.Thread(target=wire.restart)

    class Slow:
        """Whose answer comes when another server is in the place of the one that asked."""

        running = False

        def ask(self, request):
            assert isinstance(request, frames.Over)
            closing.join()

    closing.start()
    with pytest.raises(RunOver):
        daemon(Slow())._turn()
