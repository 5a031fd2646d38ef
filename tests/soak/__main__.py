"""Rounds with eight client processes over TLS, something failing in most of them: `python -m tests.soak --rounds 200`.

One JSON line a round: what failed and at which step, how the round ended, after how many seconds. At the end: wrong
sums (against the vectors that the clients noted before they left), charges below what left, rounds past their deadline.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import torch

from fgrpo_secure.config import files as config_file
from fgrpo_secure.server.federation import Federation
from fgrpo_secure.server.stages import SessionFailed
from fgrpo_secure.storage.run_directory import RunDirectory
from tests.fgrpo_secure.engines.federations import certificate, enrolled, https_engine
from tests.fgrpo_secure.run.kill_loop import allow_repeats, final_charges
from tests.soak.relay import Relay

TASKS = ("add", "sub", "mul", "sort", "rev", "cnt", "mod", "minmax")
STEP_SECONDS = 30
DEADLINE = 7 * STEP_SECONDS + 60  # five steps, two looks at the ledger, and what the server itself computes
STEPS = ("announce", "share", "mask", "agree", "unmask")
SETTINGS = (
    '[run]\nentropy = "seeded"\n[adapter]\nrank = 1\n'
    "[federation]\nrounds = 400\n"
    "[grpo]\nnum_generations = 2\nprompts_per_step = 1\n[evaluation]\nprompts = 4\nsamples = 1\nevery = 0\n"
    "[privacy]\nepsilon = 100.0\nreserved_sessions = 2\n"
    '[aggregation]\nadversary = "lying_server"\nmax_dropout = 0.25\n'
)


class Loopback:
    """Clients, relay and server on this machine as it is."""

    server = "127.0.0.1"

    def open(self, port):
        """The server listens there; where its clients find it."""
        self._relay = Relay(port)
        return f"https://127.0.0.1:{self._relay.port}"

    def cut(self):
        """End all connections, and let nobody in."""
        return self._relay.cut()

    def mend(self):
        """Let everybody in again."""
        self._relay.mend()

    def command(self, client, command):
        """What starts this on the client's machine."""
        return command


class Plug(BaseException):
    """The server dies here."""


class Client:
    def __init__(self, soak, number):
        self._soak, self.number = soak, number
        self.start()

    def start(self):
        soak = self._soak
        where = [str(soak.directory.root), str(self.number), str(soak.count), soak.url, str(soak.pem[0])]
        command = [sys.executable, "-m", "tests.soak.client", "daemon", *where, str(soak.left)]
        command = soak.network.command(self.number, command)
        with (self._soak.folder / f"client-{self.number}.log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log)

    def sessions(self):
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def kill(self, alone=False):
        """The daemon, its session and what trains in it; `alone`: the session."""
        for child in self.sessions():
            with suppress(psutil.NoSuchProcess):
                child.kill()
        if not alone:
            self.process.kill()
            self.process.wait()

    def freeze(self, number):
        for process in [psutil.Process(self.process.pid), *self.sessions()]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


class Soak:
    def __init__(self, folder, seed, network, count=8, address="127.0.0.1", step_seconds=STEP_SECONDS):
        """Of `count` clients, who find the server at `address`."""
        self.folder, self.chance, self.network, self.count = folder, random.Random(seed), network, count
        self._step_seconds = step_seconds
        self.left = folder / "left"
        self.left.mkdir()
        clients = "".join(f'[[client]]\nname = "{task}"\ntask = "{task}"\n' for task in TASKS[:count])
        (folder / "run.toml").write_text(clients + SETTINGS)
        settings = [f"engine.processes={count}", f"federation.step_seconds={step_seconds}"]
        self.config = config_file.load(str(folder / "run.toml"), settings)
        self.directory = RunDirectory(folder / "run")
        self.base, self.adapted = enrolled(self.config, self.directory)
        allow_repeats(self.directory)
        self.pem = certificate(folder, address=address)
        self.engine = self._open(0)
        self.url = network.open(self.engine.address[1])
        self.federation = self._federation()
        self.later = []
        self.clients = [Client(self, number) for number in range(count)]

    def _open(self, port):
        return https_engine(
            self.directory, self.config, self.pem, port, (None, self._step_seconds), host=self.network.server
        )

    def _federation(self):
        return Federation.open(self.config, self.directory, self.base, self.adapted, self.engine)

    def warm(self):
        """Until every client's process has loaded its model: nobody's first answer is late for that alone."""
        self.engine._step_seconds, seconds = 600, self.engine._step_seconds
        self.engine.recover([bytes(32)])
        self.engine._step_seconds = seconds

    def restart_server(self, meanwhile=lambda: None):
        """What is in memory is gone but the model and its optimizer, which a checkpoint holds."""
        port, before = self.engine.address[1], self.federation
        before.close()
        self.engine.close()
        meanwhile()
        self.engine = self._open(port)
        self.federation = self._federation()
        self.federation.optimizer, self.federation.shares = before.optimizer, before.shares
        self.federation.recover()

    def strike(self, fault, step):
        """From here on `fault` happens when `step` begins; whatever must be put right again is done at the end."""
        original, victim = self.engine.exchange, self.chance.choice(self.clients)

        def exchange(name, outgoing, seconds):
            if name != step:
                yield from original(name, outgoing, seconds)
                return
            if fault == "client killed":
                victim.kill()
                victim.start()
            elif fault == "session killed":
                victim.kill(alone=True)
            elif fault == "client away":
                victim.kill()
                self.later.append(victim.start)
            elif fault == "client frozen":
                victim.freeze(signal.SIGSTOP)
                self.later.append(lambda: victim.freeze(signal.SIGCONT))
            elif fault == "network cut":
                self.network.cut()
                self.network.mend()
            elif fault == "network cut, client killed":
                self.network.cut()
                victim.kill()
                victim.start()
                self.network.mend()
            answers = original(name, outgoing, seconds)
            if fault == "server killed":
                next(answers, None)
                raise Plug
            yield from answers

        self.engine.exchange = exchange

    def round(self, number, fault, step):
        """(how it ended, the sum's survivors)."""
        struck = self.engine
        self.strike(fault, step)
        try:
            result = self.federation.conduct(number, lambda *_: None)
        except SessionFailed as problem:
            return f"failed: {problem}", 0
        except Plug:
            self.restart_server()
            return "server killed", 0
        finally:
            del struck.exchange
            for undo in self.later:
                undo()
            self.later.clear()
        return ("sum" if self.is_right(result) else "WRONG SUM"), len(result.recovered.survivors)

    def is_right(self, result):
        own = [np.load(self.left / f"{result.session_number}-{client}.npz") for client in result.recovered.survivors]
        totals = result.recovered.totals
        return all(np.array_equal(totals[name], sum(each[name] for each in own)) for name in totals)

    def under_charges(self):
        """Vectors that were noted, and are not paid for in their client's ledger or in the server's."""
        noted = [tuple(map(int, path.stem.split("-"))) for path in self.left.iterdir()]
        server = final_charges(self.directory.ledger, "server")
        own = {
            client: final_charges(self.directory.owners / f"host-{client}" / "ledgers.sqlite", client)
            for client in {client for _, client in noted}
        }
        return [pair for pair in noted if not (server.get(pair[0], 0) > 0 and own[pair[1]].get(pair[0], 0) > 0)]

    def end(self):
        for client in self.clients:
            client.kill()
        self.federation.close()
        self.engine.close()


FAULTS = (
    "none",
    "client killed",
    "session killed",
    "client away",
    "client frozen",
    "network cut",
    "network cut, client killed",
    "server killed",
)


def say(facts):
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True)
    torch.set_num_threads(1)
    soak, training_round = Soak(asked.folder, asked.seed, Loopback()), 0
    soak.warm()
    began = time.monotonic()
    endings, faults, longest, late = Counter(), Counter(), 0.0, 0
    try:
        for number in range(asked.rounds):
            if time.monotonic() - began > 60 * asked.minutes:
                break
            fault, step = soak.chance.choice(FAULTS), soak.chance.choice(STEPS)
            started = time.monotonic()
            ending, survivors = soak.round(training_round, fault, step)
            seconds = time.monotonic() - started
            longest, late = max(longest, seconds), late + (seconds > DEADLINE)
            endings[ending.partition(":")[0]] += 1
            faults[fault] += 1
            training_round += ending == "sum"
            line = {"round": number, "seed": asked.seed, "fault": fault, "step": step, "ending": ending}
            say(line | {"survivors": survivors, "seconds": round(seconds, 1)})
    finally:
        soak.end()
    under = soak.under_charges()
    facts = {
        "rounds": sum(endings.values()),
        "endings": endings,
        "faults": faults,
        "late": late,
        "under_charges": under,
    }
    facts |= {"wrong_sums": endings["WRONG SUM"], "longest": round(longest, 1), "deadline": DEADLINE}
    say(facts | {"load": [round(each, 1) for each in os.getloadavg()]})
    return 1 if under or late or endings["WRONG SUM"] else 0


if __name__ == "__main__":
    sys.exit(main())
