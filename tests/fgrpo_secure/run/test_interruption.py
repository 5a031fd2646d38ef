"""A run that is ended, by whom and however it may be: its workers end with it, and it goes on from where it was."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fgrpo_secure.run.interruption import Interrupted, interruptible

ROOT = Path(__file__).parents[3]
ENDLESS = "[federation]\nrounds = 2\nlocal_steps = 100000\n[engine]\nprocesses = 2\n"
STARTED = "before training"
PATIENCE = 600  # seconds, on a machine that is busy with other tests
SOON = 20  # seconds that workers may take to notice


def until(found, seconds):
    """What `found` returns once that is true; whatever it returns when the time is over."""
    deadline = time.monotonic() + seconds
    while not (result := found()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return result


def children(pid):
    """Processes that `pid` started and that still run."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in listed]


def running(pid):
    try:
        return "Z" not in re.findall(r"^State:\s+(\w)", Path(f"/proc/{pid}/status").read_text(), re.M)
    except OSError:
        return False


class Run:
    """`fgrpo run` in a process of its own, with what it said so far."""

    def __init__(self, log, *arguments):
        self.log = log
        command = [sys.executable, "-m", "fgrpo_secure", "run", *(str(argument) for argument in arguments)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                command, stderr=stream, cwd=log.parent, env=environment, start_new_session=True
            )

    @property
    def said(self):
        return self.log.read_text()

    def train(self):
        """Wait until a round is open and both workers train in it; their process ids."""
        until(lambda: STARTED in self.said or self.process.poll() is not None, PATIENCE)
        assert STARTED in self.said, self.said
        workers = children(self.process.pid)
        assert len(workers) == 2
        assert until(lambda: all(self.spent(worker) > 1.0 for worker in workers), PATIENCE)
        return workers

    def spent(self, pid):
        """Processor seconds of a worker since it was first looked at."""
        ticks = sum(int(part) for part in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])
        first = self.__dict__.setdefault("first", {}).setdefault(pid, ticks)
        return (ticks - first) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def start(tmp_path, small):
    (tmp_path / "run.toml").write_text(small[0].replace("[federation]\nrounds = 2\n", ENDLESS))
    begun = []

    def begin(*arguments):
        begun.append(Run(tmp_path / f"said-{len(begun)}.txt", *arguments))
        return begun[-1]

    yield begin
    for run in begun:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()


@pytest.mark.slow
@pytest.mark.timeout(3 * PATIENCE)
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -9), (signal.SIGHUP, -1), (signal.SIGTERM, 143), (signal.SIGINT, 130)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_workers_end_with_their_run_however_it_ends_and_it_can_be_resumed_at_once(start, number, code):
    run = start("run.toml", "--out", "made")
    workers = run.train()
    os.killpg(run.process.pid, number)  # as a terminal does
    assert run.process.wait(timeout=SOON) == code, run.said
    assert until(lambda: not any(running(worker) for worker in workers), SOON), "a worker outlived its run"
    if code > 0:
        *_, last = run.said.strip().splitlines()
        assert last.endswith("go on with: fgrpo run --resume made")
        assert "Traceback" not in run.said
    resumed = start("--resume", "made")
    until(lambda: STARTED in resumed.said or resumed.process.poll() is not None, PATIENCE)
    assert STARTED in resumed.said, resumed.said


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE)
def test_a_run_that_is_ended_before_it_made_anything_says_so(start, tmp_path):
    run = start("run.toml", "--out", "made")
    assert until(lambda: "signal" if caught(run.process.pid) else "", PATIENCE)
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(timeout=SOON) == 143
    made = (tmp_path / "made" / "config.toml").exists()
    assert run.said.endswith("--resume made\n" if made else "nothing was made yet\n")


def caught(pid):
    """Whether the process handles SIGTERM by now."""
    masks = re.findall(r"^SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    return bool(int(masks[0], 16) >> (signal.SIGTERM - 1) & 1)


# ------------------------------------------------------------------------------------------------- within one process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_gives_up_first_and_is_then_raised_with_its_exit_code(number):
    given_up = []
    outer, inner = (interruptible(lambda name=name: given_up.append(name)) for name in ("outer", "inner"))
    with pytest.raises(Interrupted) as caught, outer, inner:
        signal.raise_signal(number)
    assert given_up == ["inner"]
    assert caught.value.exit_code == 128 + number
    assert isinstance(caught.value, KeyboardInterrupt), "no handler of ordinary errors may swallow it"


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_run_in_another_thread_than_the_main_one_handles_no_signals():
    seen = []

    def work():
        before = signal.getsignal(signal.SIGTERM)
        with interruptible():
            seen.append(signal.getsignal(signal.SIGTERM) == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]
