"""Starts a run again and again and kills it at random moments. Not a test module: `test_kill.py` runs it.

    python kill_loop.py CONFIG RUN_DIR KILLS SEED

One process loads the libraries, then forks a child for every life of the run. A child notes, durably and before it
goes on, every masked vector that reached the server, so that the parent can compare the ledgers with what really left.
"""

import json
import os
import random
import signal
import sys
import time
from fractions import Fraction
from pathlib import Path

from fgrpo_secure.config import files as config_file
from fgrpo_secure.engines.embedded import Embedded
from fgrpo_secure.ledger.store import Ledgers
from fgrpo_secure.run import training
from fgrpo_secure.storage import checkpoint
from fgrpo_secure.storage.run_directory import RunDirectory, write_durably


class Silent(training.Observer):
    """An observer that looks away."""


def left_by(directory):
    return directory.root.with_name(f"{directory.root.name}.left")


def note_what_leaves(path):
    original = Embedded.exchange

    def noted(self, step, outgoing, seconds):
        for client, payload in original(self, step, outgoing, seconds):
            if step == "mask":
                descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.write(descriptor, f"{self.number} {client}\n".encode())
                os.fsync(descriptor)
                os.close(descriptor)
            yield client, payload

    Embedded.exchange = noted


def allow_repeats(directory):
    """Every kill may repeat a round after vectors left: these owners put up with it more often than others."""
    for path in directory.owners.rglob("client-policy.toml"):
        text = path.read_text().replace("max_repeats = 2 ", "max_repeats = 1000 ")
        text = text.replace("max_unmasked = 32 ", "max_unmasked = 1000 ")
        write_durably(path, text.encode(), mode=0o600)  # a kill comes here, too


def live(config, directory):
    note_what_leaves(left_by(directory))
    if directory.config.exists():
        allow_repeats(directory)
        training.resume(directory, Silent())
    else:
        training.start(config_file.load(config), directory, Silent())


def final_charges(path, owner):
    """Session number -> what it finally costs, from the ledger's own entries, which must verify."""
    ledgers = Ledgers(path)
    ledger = ledgers.open(owner, ledgers.last_row(str(owner)).filter.budget)
    ledger.verify()
    numbers, charges = {}, {}
    for entry in ledger.entries():
        if entry["kind"] == "intent":
            numbers[entry["session"]] = entry["round"]
        if entry["kind"] not in ("budget", "closed"):
            charges[numbers[entry["session"]]] = Fraction(entry["charge"])
    assert ledger.spent() == sum(charges.values())
    assert len(set(numbers.values())) == len(numbers), "a session number came twice"
    ledgers.close()
    return charges


def check(directory):
    left = left_by(directory)
    pairs = [line.split() for line in left.read_text().splitlines()] if left.exists() else []
    if not directory.ledger.exists() or not pairs:
        return
    server = final_charges(directory.ledger, "server")
    assert all(server[int(session)] > 0 for session, _ in pairs), "the server's ledger forgot a release"
    clients = {int(client) for _, client in pairs}
    for client in clients:
        charges = final_charges(directory.owners / "host-0" / "ledgers.sqlite", client)
        mine = [int(session) for session, who in pairs if int(who) == client]
        assert all(charges[session] > 0 for session in mine), "a client's ledger forgot what left it"


def rounds_done(directory):
    found = checkpoint.latest(directory.checkpoints)
    return 0 if found is None else found.rounds_done


def one_run(config, directory, kills, chance):
    """Kills and resumes one run until it ends or `kills` are used up; then lets it end. How often it was killed."""
    before = killed = 0
    while True:
        child = os.fork()
        if child == 0:
            live(config, directory)
            os._exit(0)
        status = wait(child, chance.uniform(0.0, 2.0) if killed < kills else 300)
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
        check(directory)
        assert rounds_done(directory) >= before, "a finished round was lost"
        before = rounds_done(directory)
        if status is not None:
            assert status == 0, f"a resumed run ended with {status}"
            return killed


def wait(child, seconds):
    """The child's exit status, or None if it lives longer than that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.01)
    return None


def main(config, out, kills, seed):
    chance, killed, outcomes = random.Random(seed), 0, []
    while killed < kills:
        directory = RunDirectory(Path(f"{out}-{len(outcomes)}"))
        killed += one_run(config, directory, kills - killed, chance)
        summary = json.loads(directory.summary.read_text())
        outcomes.append((summary["rounds"], summary["stopped"]))
    sys.stdout.write(json.dumps({"killed": killed, "outcomes": outcomes}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
