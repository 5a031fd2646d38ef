"""The pipes of `examples/pipes`: the commands over the plain one, as processes; the door that Flower's visits use."""

import subprocess
import sys
import threading
from multiprocessing.connection import Pipe
from pathlib import Path

import pytest

from tests.fgrpo_secure.engines.pipes import needs_root

PIPES = Path(__file__).parents[1] / "examples" / "pipes"


@pytest.fixture
def make_door(monkeypatch):
    """What makes doors; their patience is that of a test."""
    monkeypatch.syspath_prepend(str(PIPES))
    monkeypatch.syspath_prepend(str(PIPES / "flower"))
    import door
    import http_messages

    monkeypatch.setattr(http_messages, "SILENCE", 10.0)
    monkeypatch.setattr(door, "GATHERS", 0.2)
    yield door.Door
    for name in ("door", "http_messages"):
        del sys.modules[name]


def visit(door, replies=(), stays=5.0):
    """What a visitor takes from there, as a table by name."""
    ours, theirs = Pipe()
    attending = threading.Thread(target=door.attend, args=(theirs, 2))
    attending.start()
    ours.send_bytes(str(stays).encode())
    for name, reply in replies:
        ours.send_bytes(name + b" " + reply)
    ours.send_bytes(b"")
    taken = dict(iter(lambda: ours.recv_bytes().partition(b" ")[::2], (b"", b"")))
    attending.join()
    assert taken.pop(b"doors") == b"2"
    return taken


def asking(door, request):
    """An owner's connection that asks; gives a list that fills with the reply, and the thread."""
    came = []
    thread = threading.Thread(target=lambda: came.append(door.carry(request)))
    thread.start()
    return came, thread


def test_replies_find_the_requests_that_they_answer_in_any_order_of_bytes(make_door):
    door = make_door()
    requests = [b"one", b"a line\r\n\r\nwith  spaces \x00 and more"]
    waiting = [asking(door, request) for request in requests]
    taken = {}
    while len(taken) < len(requests):
        taken |= visit(door)
    assert sorted(taken.values()) == sorted(requests)
    visit(door, [(name, b"to " + request) for name, request in reversed(taken.items())], stays=0.0)
    for (came, thread), request in zip(waiting, requests, strict=True):
        thread.join()
        assert came == [b"to " + request]


def test_a_reply_that_comes_late_or_twice_is_given_to_nobody(make_door, monkeypatch):
    door = make_door()
    monkeypatch.setattr(sys.modules["http_messages"], "SILENCE", 0.3)
    came, thread = asking(door, b"given up")
    (old,) = visit(door)
    thread.join()
    assert came == [b""], "the connection ends, and the owner's client tries again"
    monkeypatch.setattr(sys.modules["http_messages"], "SILENCE", 10.0)
    came, thread = asking(door, b"again")
    late = [(old, b"late"), (b"never-asked", b"invented")]
    taken = visit(door, late)
    assert list(taken.values()) == [b"again"]
    (new,) = taken
    visit(door, [*late, (new, b"right"), (new, b"twice")], stays=0.0)
    thread.join()
    assert came == [b"right"]


def test_a_request_whose_owner_is_gone_is_not_carried(make_door, monkeypatch):
    door = make_door()
    monkeypatch.setattr(sys.modules["http_messages"], "SILENCE", 0.1)
    _, thread = asking(door, b"given up before anybody came")
    thread.join()
    assert visit(door, stays=0.5) == {}


@needs_root
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_over_a_plain_pipe_give_the_adapter_of_the_embedded_engine(tmp_path):
    """`fgrpo server start --pipe` and five `fgrpo client start --pipe`, with another user's processes in between."""
    command = [sys.executable, str(PIPES / "trial.py"), "plain", "--rounds", "1", "--training", "150"]
    done = subprocess.run([*command, "--out", str(tmp_path / "trial")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert done.stdout.rstrip().endswith("the same")
    digests = {line.split()[1] for line in done.stdout.splitlines() if line.startswith(("embedded ", "plain "))}
    assert len(digests) == 1
