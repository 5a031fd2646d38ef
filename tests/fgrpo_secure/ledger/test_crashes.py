"""The ledger under SIGKILL, races and readers: it may over-charge, it never under-charges."""

import os
import signal
import sqlite3
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from fgrpo_secure.ledger.store import Ledger, Ledgers

FIRST = bytes(32)
HALF, THIRD = Fraction(1, 2), Fraction(1, 3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "private" / "ledger.sqlite"


SCRIPT = """
import sys
from fractions import Fraction
from pathlib import Path
from fgrpo_secure.privacy.accounting import BudgetExceeded
from fgrpo_secure.ledger.store import Ledgers
store = Ledgers(Path(sys.argv[1]))
ledger = store.open(0, Fraction(10))
"""


def start(path, body, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT + body, str(path), *arguments],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )


def kill_after_ready(process):
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_a_process_killed_between_intent_and_settle_keeps_the_charge(path):
    body = "ledger.intent(bytes(32), 1, Fraction(1, 3)); print('ready', flush=True); sys.stdin.read()"
    kill_after_ready(start(path, body + "; __import__('signal').pause()"))
    survivor = Ledger.open(path, 0, Fraction(10))
    assert survivor.spent() == THIRD
    assert survivor.open_sessions() == (bytes(32),)
    survivor.verify()


def test_a_process_killed_inside_a_transaction_leaves_nothing_of_it(path):
    body = (
        "with store.transaction():\n"
        "    ledger.intent(bytes(32), 1, Fraction(1, 3))\n"
        "    print('ready', flush=True); __import__('signal').pause()"
    )
    kill_after_ready(start(path, body))
    survivor = Ledger.open(path, 0, Fraction(10))
    assert (survivor.spent(), survivor.size()) == (Fraction(0), 1)
    survivor.verify()


def test_processes_that_race_never_pass_the_budget_together(path):
    Ledger.open(path, 0, Fraction(10)).close()
    body = (
        "done = 0\n"
        "for i in range(9):\n"
        "    try:\n"
        "        ledger.intent(bytes([int(sys.argv[2]), i]) * 16, i, Fraction(1)); done += 1\n"
        "    except BudgetExceeded: pass\n"
        "print(done)"
    )
    racers = [start(path, body, str(i)) for i in range(2)]
    counts = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sum(counts) == 10
    ledger = Ledger.open(path, 0, Fraction(10))
    assert (ledger.spent(), ledger.size()) == (Fraction(10), 11)
    ledger.verify()


def test_a_transaction_locks_writers_out_before_it_reads_the_sums(path):
    store, other = Ledgers(path), sqlite3.connect(path, timeout=0, isolation_level=None)
    store.open(0, Fraction(1))
    with store.transaction(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.close()


def test_every_commit_waits_for_the_disk(path):
    """Power loss cannot be tried here; the settings that survive it can be read."""
    database = Ledgers(path)._db
    assert database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_reader_sees_the_committed_state_while_another_writes(path):
    writer, reader = Ledgers(path), Ledgers(path)
    ledger = writer.open(0, Fraction(1))
    seen = reader.open(0, Fraction(1))
    with writer.transaction():
        ledger.intent(FIRST, 1, HALF)
        assert seen.spent() == 0
    assert seen.spent() == HALF
