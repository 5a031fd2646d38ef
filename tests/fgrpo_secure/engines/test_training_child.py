"""Training in a child: whatever becomes of it, the parent goes on at the deadline, and it never outlives the parent."""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from fgrpo_secure import entropy
from fgrpo_secure.client import trained
from fgrpo_secure.client.participant import Participant
from fgrpo_secure.client.round import Contribution, Learned
from fgrpo_secure.engines import training_child
from fgrpo_secure.engines.messages import Step as StepRequest
from fgrpo_secure.gain import Baseline, Observation
from fgrpo_secure.privacy import clip, discrete_gaussian, encode
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.privacy.noise import NoisedVector
from fgrpo_secure.server import round as server_round

SOON = 0.4


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def raising():
    raise MemoryError


def hanging():
    entropy.sleep(600)


def half():
    os.write(1 << 10, b"")  # no such file


FATES = {"result": lambda: b"found", "killed": killed, "raising": raising, "hanging": hanging, "lost": half}


def run_until(ends, work):
    """What was taken."""
    found = []
    training_child.run_until(ends, work, found.append)
    (taken,) = found
    return taken


@pytest.fixture(params=[signal.SIG_DFL, signal.SIG_IGN], ids=["reaped here", "reaped by the system"])
def reaping(request):
    before = signal.signal(signal.SIGCHLD, request.param)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("fate", FATES)
def test_the_parent_goes_on_at_the_deadline_whatever_became_of_the_child(fate, reaping):
    before = {each.pid for each in psutil.Process().children()}
    ends = entropy.stopwatch() + SOON
    found = run_until(ends, FATES[fate])
    assert entropy.stopwatch() >= ends
    assert found == (b"found" if fate == "result" else None)
    left = [each for each in psutil.Process().children() if each.pid not in before]
    psutil.wait_procs(left, 20)
    assert not [each for each in left if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    run_until(ends, FATES["result"])
    assert not {each.pid for each in left} & {each.pid for each in psutil.Process().children()}, "taken up"


def test_the_parent_does_not_wait_for_a_child_that_takes_long_to_die(monkeypatch):
    """As one with much memory does, or one that waits for a disk: here one that holds the interpreter."""
    asked = []
    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", lambda child, number: asked.append((child, number)))
        found = run_until(entropy.stopwatch() + SOON, lambda: ctypes.PyDLL(None).sleep(60))
    ((child, number),) = asked
    process = psutil.Process(child)
    try:
        assert found is None
        assert number == signal.SIGKILL
        assert process.status() != psutil.STATUS_ZOMBIE
    finally:
        process.kill()
        process.wait(20)


@pytest.mark.parametrize("fate", FATES)
def test_what_a_child_leaves_to_be_done_is_done_before_the_last_wait_and_not_at_the_announcement(monkeypatch, fate):
    """The system would free its memory, or a large result would be read, while the announcement leaves."""
    order, kill, sleep = [], os.kill, entropy.sleep
    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", lambda *given: (order.append("killed"), kill(*given)))
        patched.setattr(entropy, "sleep", lambda seconds: (order.append("waited"), sleep(seconds)))
        ends = entropy.stopwatch() + 4.0
        training_child.run_until(
            ends, (lambda: sleep(60)) if fate == "hanging" else FATES[fate], lambda _: order.append("taken")
        )
    assert [each for each in order if each != "killed"] == ["taken", "waited"]
    assert order[-1] == "waited"
    assert "killed" in order or fate != "hanging"


def test_memory_that_runs_out_ends_the_child_before_the_process_that_must_announce():
    score = Path("/proc/self/oom_score_adj")
    found = run_until(entropy.stopwatch() + SOON, score.read_bytes)
    assert int(found) == 1000 > int(score.read_text())


PARENT = """
import signal
import sys
from fgrpo_secure import entropy
from fgrpo_secure.engines import training_child
def work():
    sys.stdout.write("training\\n")
    sys.stdout.flush()
    entropy.sleep(600)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
training_child.run_until(entropy.stopwatch() + 600, work, lambda _: None)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_child_ends_with_its_parent_however_that_ends(end):
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout.readline() == b"training\n"
    (child,) = psutil.Process(parent.pid).children()
    parent.send_signal(end)
    parent.wait(30)
    gone, _ = psutil.wait_procs([child], 20)
    for left in {child} - set(gone):
        left.kill()
    assert gone == [child]
    assert parent.stdout.read() == b"", "whoever reads from the parent sees its end only when the child has ended"
    parent.stdout.close()


DEADLINE, UNITS_DEADLINE = 5, 900
UNITS_RESULT = Contribution(NoisedVector(np.zeros(258, np.int64), 1, 16), Baseline(), 1.0)


@pytest.fixture
def host(trial, monkeypatch):
    return asked_of_a_host(trial, monkeypatch, DEADLINE)


@pytest.fixture
def unit_host(trial, small, monkeypatch):
    """The same, where the units are prompt groups within each client."""
    text = (
        small[0].replace("[[client]]", "[[client]]\nrows = 8").replace("prompts_per_step = 2", "prompts_per_step = 1")
    )
    text = text.replace("[privacy]", '[privacy]\nunit = "prompt_group"\nunits_per_client = 8')
    return asked_of_a_host(trial, monkeypatch, UNITS_DEADLINE, text=text)


def asked_of_a_host(trial, monkeypatch, seconds, **more):
    """A host, a request to announce, and the seconds until which each client waited for its training."""
    trial.sessions.append(SimpleNamespace(learned={}, encoded={}, noised={}))
    federation = trial.federation(f"federation.training_seconds={seconds}", **more)
    session = federation.open_round(0).sessions[0]
    signed, waited, given = server_round.signed_plan(federation.identity, session.plan), [], []
    monkeypatch.setattr(entropy, "sleep", lambda seconds: waited.append(seconds))

    def run_until(ends, _, take):
        waited.append(ends - entropy.stopwatch())
        take(given.pop() if given else None)

    monkeypatch.setattr(training_child, "run_until", run_until)
    host = trial.engines[-1].hosts[0]

    def announced(seconds, **more):
        answers = list(host.handle(StepRequest("announce", {0: signed}, seconds, **more)))
        assert answers[0].payload is not None
        return waited

    announced.host, announced.given, announced.plan, announced.message = host, given, session.plan, signed
    return announced


@pytest.mark.parametrize("seconds", [2.0**63 / 1000, 1e300, float(DEADLINE), 3.0, -1e300])
def test_a_client_announces_at_the_servers_time_but_never_later_than_the_plans(host, seconds):
    (waited,) = host(seconds)
    assert waited <= min(seconds, DEADLINE)


def test_who_may_not_train_again_waits_all_the_same_and_its_owner_reads_why(host, monkeypatch):
    read = []
    monkeypatch.setattr(Participant, "note", lambda _, line: read.append(line))
    (waited,) = host(3.0, trains=False)
    assert 0 < waited <= 3.0
    assert read == ["what trained ended with its process before: this round is noise alone"]


@pytest.mark.parametrize("again", [True, False])
def test_what_a_session_trained_for_once_is_not_begun_again_whatever_a_server_asked_in_between(
    host, monkeypatch, again
):
    """Another question makes the daemon forget that it was asked: a second end would tell what the data did."""
    read = []
    monkeypatch.setattr(Participant, "note", lambda _, line: read.append(line))
    with host.host._book.charging():
        host.host._accept(0, host.message)
    (waited,) = host(3.0, again=again)
    assert 0 < waited <= 3.0
    assert ("what trained ended with its process before: this round is noise alone" in read) is not again


def test_another_device_has_the_same_deadline(host):
    host.host._device = "cpu:0"
    (waited,) = host(3.0)
    assert 0 < waited <= 3.0


@pytest.mark.parametrize("before", [0.0, 300.0])
@pytest.mark.parametrize("trains", [True, False])
def test_units_inside_a_client_have_the_plans_time_from_the_first_request_whatever_died_since(
    unit_host, trains, before
):
    """A server that names an early time must not see by the announcement's that some unit ended the process."""
    (waited,) = unit_host(1.0, trains=trains, waited=before)
    assert UNITS_DEADLINE - before - 60 < waited <= UNITS_DEADLINE - before


def test_a_client_that_is_asked_again_does_not_get_the_plans_time_twice(host):
    (waited,) = host(1e9, trains=False, waited=3.0)
    assert 0 < waited <= DEADLINE - 3


@pytest.mark.parametrize("fate", ["result", "nothing", "not again"])
@pytest.mark.parametrize("unit", ["client", "prompt_group"])
def test_when_a_vector_is_asked_for_it_is_there_whatever_became_of_training(request, monkeypatch, unit, fate):
    """What clipping, rounding and noise take would tell about the data, or below the client that training had died."""
    asked = request.getfixturevalue("host" if unit == "client" else "unit_host")
    participant = asked.host._participants[0]
    if fate == "result":
        learned = Learned(Update(np.ones(asked.host._adapted.dimension(0))), Observation(0.5, 0.1))
        asked.given.append(trained.write(learned if unit == "client" else UNITS_RESULT))
    asked(1.0, trains=fate != "not again")
    done = []
    for module, name in ((clip, "to_norm"), (encode, "to_ring"), (discrete_gaussian, "sample")):
        monkeypatch.setattr(module, name, lambda *_, name=name: done.append(name))
    with asked.host._book.charging():
        participant._vectors(asked.plan)
    assert done == []
