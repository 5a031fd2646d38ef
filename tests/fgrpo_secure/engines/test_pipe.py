"""Who may be at the other end of a pipe: the kernel is asked at every connection, before a byte is sent."""

import gc
import os
import socket
import sys
import threading
import warnings
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from fgrpo_secure.client import own_view
from fgrpo_secure.engines.https import client_loop, dialer, unix_pipe
from fgrpo_secure.engines.https.dialer import Dialer, NotReached, Place
from fgrpo_secure.engines.https.engine import HttpsEngine
from fgrpo_secure.engines.https.unix_pipe import Pipe, path_of
from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.storage.client_folder import ClientFolder
from fgrpo_secure.storage.kept import Kept
from tests.fgrpo_secure.engines.conftest import AUTHORITY, CLIENTS, ROSTER, RUN, SERVER, SIGNED
from tests.fgrpo_secure.engines.pipes import STRANGER, meeting_place, needs_root, piped, said_by

NOTHING = Kept((), ())


@pytest.fixture
def place():
    with meeting_place() as folder:
        yield folder


@contextmanager
def own(path):
    """A pipe that this very process serves; gives what it was sent."""
    came = []
    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind(str(path))
        path.chmod(0o666)
        listens.listen()

        def accept():
            with suppress(OSError):
                while True:
                    line, _ = listens.accept()
                    with line:
                        came.append(line.recv(65_536))

        threading.Thread(target=accept, daemon=True).start()
        yield came
        listens.shutdown(socket.SHUT_RDWR)
    path.unlink()


def dialing(path, kept=NOTHING):
    return Dialer(Place("pipe:", SERVER.public, RUN, 0, CLIENTS[0], pipe=Pipe(path, lambda: kept)))


def refused(path, kept=NOTHING):
    with closing(dialing(path, kept)) as line, pytest.raises(NotReached) as problem:
        line.next()
    return str(problem.value)


def test_a_pipe_that_runs_as_the_owner_is_sent_nothing(place):
    with own(place / "pipe") as came:
        assert "is this client's own, and reads all that it has; run the engine's client as a user" in refused(
            place / "pipe"
        )
        with pytest.raises(UnusableInput, match="is this client's own"):
            Pipe(place / "pipe", lambda: NOTHING).probe()
    assert b"".join(came) == b""


def test_what_was_sent_is_seen_where_nobody_asks_the_kernel(place, monkeypatch):
    """Positive control of the test above."""
    monkeypatch.setattr(Pipe, "check", lambda *_: None)
    with own(place / "pipe") as came:
        refused(place / "pipe")
        assert b"authorization: fgrpo 0." in came[0].lower()


@needs_root
def test_a_pipe_that_runs_as_root_is_refused_by_everybody(place):
    with own(place / "pipe"):
        assert "reads all of this machine" in said_by(STRANGER, place / "pipe")


@needs_root
def test_an_owner_who_is_no_root_takes_a_pipe_of_another_user_and_not_its_own(place):
    with piped([place / "pipe"], place / "server"):
        assert said_by(STRANGER + 1, place / "pipe") == "taken"
        assert "is this client's own" in said_by(STRANGER, place / "pipe")


@pytest.fixture
def engine(tmp_path, place):
    """A server of five clients at a pipe's socket, which asks client 0 something."""
    known, log, path = (AUTHORITY.public, ROSTER), [].append, place / "server"
    made = HttpsEngine.open(tmp_path / "server", SERVER, RUN, known, path, None, (None, 5), log)
    made.invite(7, b"a model", SIGNED)
    thread = threading.Thread(target=lambda: list(made.exchange("share", {0: b"q"}, 60)), daemon=True)
    thread.start()
    yield made
    made.close()
    assert not path.exists()


@needs_root
def test_a_pipe_of_another_user_carries_a_question(place, engine):
    with piped([place / "pipe"], place / "server"), closing(dialing(place / "pipe")) as line:
        assert line.next().payload == b"q"
    assert engine.place == f"unix:{place}/server"


@needs_root
@pytest.mark.parametrize(
    ("mode", "groups", "kind"),
    [(0o604, (), "could read"), (0o602, (), "could change"), (0o640, (os.getegid(),), "could read")],
)
def test_a_pipe_whose_user_could_read_or_change_the_data_is_sent_nothing(place, engine, mode, groups, kind):
    rows = place / "rows.jsonl"
    rows.write_text("the owner's")
    rows.chmod(0o600)
    kept = Kept((rows,), ())
    with piped([place / "pipe"], place / "server", groups=groups):
        with closing(dialing(place / "pipe", kept)) as line:
            assert line.next().payload == b"q"
        before = engine._desk.counts.requests
        rows.chmod(mode)
        assert f"the pipe {place}/pipe is refused: its user {STRANGER} {kind} {rows}; take that right away" in refused(
            place / "pipe", kept
        )
        assert engine._desk.counts.requests == before


@needs_root
def test_code_that_the_client_runs_may_be_read_and_not_changed(place, engine):
    reward = place / "reward.py"
    reward.write_text("")
    kept = Kept((), (reward,))
    with piped([place / "pipe"], place / "server"):
        reward.chmod(0o644)
        with closing(dialing(place / "pipe", kept)) as line:
            assert line.next().payload == b"q"
        reward.chmod(0o646)
        assert f"could change {reward}" in refused(place / "pipe", kept)


@needs_root
def test_whoever_takes_the_place_of_a_pipe_is_asked_anew(place, engine):
    with closing(dialing(place / "pipe")) as line:
        with piped([place / "pipe"], place / "server"):
            assert line.next().payload == b"q"
        with own(place / "pipe") as came:
            for _ in range(2):  # the connection that was, and a new one
                with pytest.raises(NotReached) as problem:
                    line.next()
            assert "is this client's own" in str(problem.value)
        assert b"".join(came) == b""


def test_a_pipe_may_come_and_go_without_ending_anybody(place):
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ResourceWarning
        )  # the library leaves a socket that nobody took to the collector
        assert "ConnectError" in refused(place / "pipe")
        gc.collect()
    Pipe(place / "pipe", lambda: NOTHING).probe()


def test_a_client_gives_a_pipe_the_time_of_a_poll_and_of_two_ways():
    assert dialer.SILENCE < dialer.PIPE_SILENCE < dialer.WHOLE


def test_a_user_whom_the_kernel_cannot_name_is_refused(monkeypatch):
    monkeypatch.setattr(unix_pipe, "EVERYBODYS_IDS", "0 100000 65536")  # as in a namespace of its own
    nobody = unix_pipe.User(65_534, frozenset())
    assert "is of another user namespace" in (unix_pipe._why_not(nobody, NOTHING) or "")


def test_a_server_takes_the_place_of_a_socket_that_nobody_serves_and_of_no_other_file(place, engine):
    with pytest.raises(UnusableInput, match="Address already in use"):
        unix_pipe.listen(place / "server")
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(place / "left"))
    left.close()
    unix_pipe.listen(place / "left").close()
    (place / "file").write_text("kept")
    with pytest.raises(UnusableInput, match=f"cannot listen on unix:{place}/file"):
        unix_pipe.listen(place / "file")
    assert (place / "file").read_text() == "kept"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(place / "server"))) as anybody:
        assert anybody.get("http://pipe/healthz").text == "ok\n"


@pytest.mark.parametrize("text", ["", "unix:", "/run/pipe", "tcp:1", f"unix:/{'x' * 107}"])
def test_what_names_no_socket_is_one_sentence(text):
    with pytest.raises(UnusableInput, match="is no pipe; write unix:PATH"):
        path_of(text)


def test_an_owners_folder_names_all_that_is_kept(tmp_path):
    folder = ClientFolder.make(tmp_path / "owner")
    (folder.root / "reward.py").write_text("")
    folder.own_file.write_text(
        '[data]\ndata = "/srv/rows.jsonl"\nreward = ["reward:f", "partial", "package.module:g"]\ntrainer = "trl"\n'
    )
    kept = folder.kept()
    assert {folder.root, folder.state, folder.ledgers, folder.identity, folder.own_file} < set(kept.secrets)
    assert str(kept.secrets[-1]) == "/srv/rows.jsonl"
    assert {folder.tensorboard, folder.rounds, folder.status, folder.pid, folder.root / "spool"} < set(kept.secrets)
    assert folder.rounds == own_view.path_beside(folder.log)
    assert {folder.root / "reward.py", folder.root, Path(sys.executable), *map(Path, sys.path)} <= set(kept.code)


def test_a_daemon_whose_pipe_is_refused_at_its_start_ends_with_that_sentence(tmp_path, place, monkeypatch):
    lines = []
    folder = ClientFolder.make(tmp_path / "owner")
    monkeypatch.setattr(ClientFolder, "invitation", lambda *_: type("Invitation", (), {"url": "pipe:"}))
    with own(place / "pipe"), pytest.raises(UnusableInput, match="is this client's own"):
        client_loop.run(folder, "00" * 16, lines.append, Pipe(place / "pipe", lambda: NOTHING))
    with pytest.raises(UnusableInput, match="name yours with --pipe unix:PATH"):
        client_loop.run(folder, "00" * 16, lines.append)
    assert lines == []
