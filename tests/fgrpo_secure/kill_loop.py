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

from fgrpo_secure import checkpoint, config_file, training
from fgrpo_secure.engines.embedded import Embedded
from fgrpo_secure.privacy.ledger import Ledgers
from fgrpo_secure.run_directory import RunDirectory


class Silent:
    def say(self, line):
        pass

    def started(self, *_):
        pass

    def step(self, *_):
        pass

    def finished_round(self, _):
        pass


def note_what_leaves(path):
    original = Embedded.exchange

    def noted(self, step, outgoing):
        for client, payload in original(self, step, outgoing):
            if step == "mask":
                descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.write(descriptor, f"{self.attempt} {client}\n".encode())
                os.fsync(descriptor)
                os.close(descriptor)
            yield client, payload

    Embedded.exchange = noted


def live(config, directory):
    note_what_leaves(directory.root.with_name("left.txt"))
    if directory.config.exists():
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
        if entry["kind"] != "budget":
            charges[numbers[entry["session"]]] = Fraction(entry["charge"])
    assert ledger.spent() == sum(charges.values())
    assert len(set(numbers.values())) == len(numbers), "a session number came twice"
    ledgers.close()
    return charges


def check(directory):
    left = directory.root.with_name("left.txt")
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


def main(config, out, kills, seed):
    directory, chance, before, killed = RunDirectory(Path(out)), random.Random(seed), 0, 0
    while True:
        child = os.fork()
        if child == 0:
            live(config, directory)
            os._exit(0)
        deadline = time.monotonic() + (chance.uniform(0.0, 2.5) if killed < kills else 300)
        status = None
        while status is None and time.monotonic() < deadline:
            done, code = os.waitpid(child, os.WNOHANG)
            status = code if done else None
            time.sleep(0.01)
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
        elif not directory.config.exists():
            raise SystemExit("the run could not even start")
        check(directory)
        assert rounds_done(directory) >= before, "a finished round was lost"
        before = rounds_done(directory)
        if status is not None:
            assert status == 0, f"a resumed run ended with {status}"
            break
    summary = json.loads(directory.summary.read_text())
    sys.stdout.write(json.dumps({"killed": killed, "rounds": summary["rounds"], "stopped": summary["stopped"]}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
