"""A worker's pipe from its parent: what it reads, and what it does when the pipe closes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fgrpo_secure.engines import messages as frames
from fgrpo_secure.engines.messages import Finish

ROOT = Path(__file__).parents[3]
# What a worker does, without a host. `busy` answers for ever; `idle` answers at once, says so and is told to end.
WORKER = """
import os, sys, time
from fgrpo_secure.engines.request_pipe import Requests
requests = Requests(os.fdopen(os.dup(0), "rb"))
requests.answered()
print("ready", flush=True)  # a parent asks only then
assert requests.next() is not None
if sys.argv[1] == "busy":
    print("busy", flush=True)
    time.sleep(600)
requests.answered()
print("idle", flush=True)
assert requests.next() is None
print("in order", flush=True)
"""


@pytest.fixture
def worker():
    begun = []

    def begin(kind):
        command = [sys.executable, "-c", WORKER, kind]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        begun.append(
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
        )
        assert begun[-1].stdout.readline() == b"ready\n"
        frames.write(begun[-1].stdin, Finish())
        assert begun[-1].stdout.readline().decode().strip() == kind
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            pipe.close()


@pytest.mark.slow
def test_a_worker_that_is_answering_ends_on_the_spot_when_its_parent_is_gone(worker):
    process = worker("busy")
    started = time.monotonic()
    process.stdin.close()
    assert process.wait(timeout=30) == 1
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_a_worker_that_has_answered_ends_in_order(worker):
    process = worker("idle")
    process.stdin.close()
    assert process.wait(timeout=30) == 0
    assert process.stdout.read().decode().strip() == "in order"


@pytest.mark.slow
def test_a_worker_that_reads_what_is_no_request_does_not_wait_for_ever(worker):
    process = worker("idle")
    process.stdin.write(bytes(7) + b"\xff" * 9)
    process.stdin.close()
    assert process.wait(timeout=30) == 0
