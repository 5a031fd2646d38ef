"""Owners' reward functions do whatever they like, and nothing but their own rewards notices."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import psutil
import pytest

from fgrpo_secure.learning.grpo import rewards
from fgrpo_secure.learning.grpo.isolated_reward import IsolatedReward, Limits
from fgrpo_secure.learning.grpo.rewards import RewardError

MODULE = """
import os, signal, sys, threading, time, warnings, builtins
calls = []
opened = open(__file__)
raw = open(__file__, "rb", buffering=0)
raw.seek(7)
added = open(os.path.join(os.path.dirname(__file__), "added"), "a")
gone = open(os.path.join(os.path.dirname(__file__), "gone"), "w+")
gone.write("0123456789"); gone.flush(); gone.seek(0); os.unlink(gone.name)

def right(completions, **kw): return [float(len(c)) for c in completions]
def remembers(completions, **kw): calls.append(1); return [float(len(calls))] * len(completions)
def reads(completions, **kw):
    added.write("x"); added.flush()
    os.set_blocking(raw.fileno(), False); opened.readline()
    return [float(opened.tell() + sum(raw.read(9)) + len(gone.read(3)) + 1000 * int(gone.read(1)))] * len(completions)
def leaves(completions, **kw): os.chdir("/"); return right(completions)
def ends(completions, **kw): sys.exit(3)
def vanishes(completions, **kw): os._exit(0)
def kills(completions, **kw): os.kill(os.getpid(), signal.SIGKILL)
def signals(completions, **kw):
    signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.alarm(1); return right(completions)
def threads(completions, **kw):
    threading.Thread(target=time.sleep, args=(600,), daemon=False).start(); return right(completions)
def forks(completions, **kw):
    if os.fork() == 0: time.sleep(600)
    return right(completions)
def detaches(completions, **kw):
    left = os.path.join(os.path.dirname(__file__), "left")
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            open(left, "a").write(f"{os.getpid()} ")
            time.sleep(600)
        os._exit(0)
    while not os.path.exists(left): time.sleep(0.01)
    return right(completions)
def shouts(completions, prompts, **kw):
    print(prompts, file=sys.stderr, flush=True); os.write(1, b"out"); warnings.warn(prompts[0])
    return right(completions)
def sleeps(completions, **kw): time.sleep(600)
def eats(completions, **kw): return [len(bytearray(1 << 34))]
def recurses(completions, **kw): return recurses(completions, **kw)
def interrupts(completions, **kw): raise KeyboardInterrupt
def generates(completions, prompts, **kw):
    yield 1.0
    raise ValueError(prompts[0])
class Odd:
    def __float__(self): raise SystemExit("PLANTED")
def odd(completions, **kw): return [Odd()] * len(completions)
def endless(completions, **kw):
    while True: yield 1.0
def needs(completions, hint, **kw): return [0.0 if each is None else 1.0 for each in hint]
def room(completions, **kw):
    lines = open(f"/proc/{os.getppid()}/status").read().splitlines()
    return [float(line.split()[1]) for line in lines if line.startswith("VmData")] * len(completions)
def searches(completions, prompts, **kw):
    found, frame = 0, sys._getframe()
    while frame:
        held = [each for each in frame.f_locals.values() if isinstance(each, (bytes, bytearray, memoryview))]
        found += sum(b"PLANTED" in bytes(each) for each in held)
        frame = frame.f_back
    return [float(found)] * len(completions)
def lingers(completions, **kw):
    if os.fork() == 0: os.setsid()
    with open(os.path.join(os.path.dirname(__file__), "lingering"), "a") as file: file.write(f"{os.getpid()}\\n")
    time.sleep(600)
async def later(completions, **kw): return right(completions)
"""
HARMLESS = ("right", "leaves", "signals", "threads", "forks", "shouts")
FAILING = {
    "ends": r"ends raised SystemExit in misbehaving\.py, line 18; it was called with answer, prompts, completions",
    "vanishes": "ended its process",
    "kills": "ended its process",
    "sleeps": "took longer than 2 seconds",
    "eats": r"eats raised MemoryError",
    "recurses": r"recurses raised RecursionError in misbehaving\.py",
    "interrupts": "ended its process",
    "generates": r"generates raised ValueError in misbehaving\.py",
    "odd": r"odd raised SystemExit in misbehaving\.py",
    "endless": "MemoryError|took longer|more memory",
}


@pytest.fixture
def misbehaving(tmp_path):
    (tmp_path / "misbehaving.py").write_text(MODULE)
    return lambda name: rewards.resolve(f"{tmp_path}/misbehaving.py:{name}").within(Limits(seconds=2.0, memory_mib=512))


def score(function):
    return rewards.score([function], None, ["PLANTED"], ["a", "bb"], [[1], [2]], {"answer": ["PLANTED"]})


def surroundings():
    return (
        os.getcwd(),
        [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGINT)],
        threading.active_count(),
        "misbehaving" in sys.modules,
        list(warnings.filters),
    )


@pytest.mark.parametrize("name", HARMLESS)
def test_whatever_a_reward_changes_is_gone_with_its_call(misbehaving, capfd, name):
    before = surroundings()
    function = misbehaving(name)
    for _ in range(2):
        assert score(function).tolist() == [1, 2]
    assert surroundings() == before
    assert capfd.readouterr() == ("", ""), "a line on the screen for one prompt would tell"


@pytest.mark.parametrize("name", sorted(FAILING))
def test_whatever_a_reward_raises_or_uses_is_one_sentence_and_the_next_call_works(misbehaving, capfd, name):
    before = surroundings()
    with pytest.raises(RewardError, match=FAILING[name]) as caught:
        score(misbehaving(name))
    assert "PLANTED" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert score(misbehaving("right")).tolist() == [1, 2]
    assert surroundings() == before
    assert capfd.readouterr() == ("", "")


def test_a_reward_cannot_remember_an_earlier_call(misbehaving):
    """What it learned from one unit would reach another."""
    function = misbehaving("remembers")
    assert [score(function).tolist() for _ in range(3)] == [[1, 1]] * 3


def test_what_a_call_reads_of_an_open_file_is_there_to_read_for_the_next(misbehaving, tmp_path):
    """A file that the module opened has one place for all processes that hold it: a call for one unit would move it."""
    function = misbehaving("reads")
    first, *others = (score(function).tolist() for _ in range(3))
    assert others == [first, first]
    assert first[0] > 3000, "it read the file that has no name any more"
    assert (tmp_path / "added").read_text() == "xxx"


def test_a_process_that_leaves_its_call_behind_ends_with_it(misbehaving, tmp_path):
    """It could listen for what a later call says of another unit, for as long as it likes."""
    function = misbehaving("detaches")
    for _ in range(2):
        assert score(function).tolist() == [1, 2]
    ended = [int(each) for each in (tmp_path / "left").read_text().split()]
    assert ended
    for each in ended:
        with pytest.raises(ProcessLookupError):
            os.kill(each, 0)
    assert function.worker[0].alive


CALLER = """
import sys
from fgrpo_secure.learning.grpo import rewards
from fgrpo_secure.learning.grpo.isolated_reward import Limits
function = rewards.resolve(sys.argv[1]).within(Limits(seconds=600.0))
rewards.score([function], None, ["p"], ["a"], [[1]], {})
"""


def test_a_call_ends_with_whoever_asked_for_it(misbehaving, tmp_path):
    """Training is killed at its deadline. What a slow reward went on to compute would delay the answers after it."""
    misbehaving("right")
    caller = subprocess.Popen([sys.executable, "-c", CALLER, f"{tmp_path}/misbehaving.py:lingers"])
    lingering, written = tmp_path / "lingering", []
    while len(written) < 2:
        assert caller.poll() is None
        time.sleep(0.05)
        written = lingering.read_text().splitlines(keepends=True) if lingering.exists() else []
        written = [each for each in written if each.endswith("\n")]
    left = [psutil.Process(int(each)) for each in written]
    caller.kill()
    caller.wait()
    _, alive = psutil.wait_procs(left, 120)
    for each in alive:
        each.kill()
    assert alive == []


def test_no_row_stays_in_the_process_that_serves_the_next_unit(misbehaving):
    """What its heap had grown to would count against the next call's limit: one unit's rows would fail another's."""
    function = misbehaving("room")
    held = [rewards.score([function], None, ["p" * size], ["a"], [[1]], {})[0] for size in (1, 3 << 20, 1, 40 << 20, 1)]
    assert len(set(held)) == 1


def test_a_reward_that_searches_its_process_finds_no_row_of_an_earlier_call(misbehaving):
    function = misbehaving("searches")
    assert rewards.score([function], None, ["PLANTED" * 9], ["a"], [[1]], {"row": ["PLANTED"]}).tolist() == [0]
    assert rewards.score([function], None, ["p"], ["a"], [[1]], {}).tolist() == [0]


def test_a_column_that_only_other_rows_have_is_none(misbehaving):
    assert score(misbehaving("needs")).tolist() == [0, 0]


def test_an_async_reward_is_waited_for_in_its_own_process(misbehaving):
    assert score(misbehaving("later")).tolist() == [1, 2]


def test_a_worker_that_is_lost_is_replaced(misbehaving):
    function = misbehaving("right")
    assert isinstance(function, IsolatedReward)
    function.worker[0]._process.kill()
    function.worker[0]._process.wait()
    assert score(function).tolist() == [1, 2]


def test_a_completion_that_nobody_marks_costs_its_group_and_no_other():
    marks = np.array([[1.0, 2.0], [np.nan, 1.0], [3.0, 4.0]])
    assert rewards.marked(marks).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(RewardError, match="in every prompt's group"):
        rewards.marked(marks[1:2])


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), -1e308])
def test_what_is_not_finite_counts_as_not_marked(bad):
    marks = rewards.score([lambda completions, **_: [bad, 1.0]], [1e10], ["p"], ["a", "b"], [[1], [2]], {})
    assert np.isnan(marks).tolist() == [True, False]
