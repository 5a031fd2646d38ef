"""Rounds between hosts of their own, whose lines are cut in the middle of each step: `python -m tests.soak.apart DIR`.

    host 0         the server, and what plays with it
    between        a relay that makes the way long, narrow, or cuts it (the kernel need not be able to)
    host 1 ...     a client each: its daemon, and the process of its sessions

In the middle of a step: its first answer has come, and one client at least has not had its question yet, whose line was
unplugged when the step began. Then, by kind,

    reset      every connection ends, and both sides hear of it
    unplugged  every client's line is unplugged for three seconds, and nobody hears anything
    dead       the same for longer than anybody waits for a byte

One JSON line a round; at the end what the soak says too: wrong sums, charges below what left, rounds without a sum.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import product
from pathlib import Path

import torch

from fgrpo_secure.engines.https import dialer
from tests.soak.__main__ import STEPS, Soak, say
from tests.soak.hosts import BETWEEN, Hosts

CLIENTS = 5
ALL = (*STEPS, "witness")
LINES = {  # seconds each way, bytes a second of a connection, whether its line is unplugged now and then
    "near": (0.0, None, False),
    "far": (0.2, None, False),
    "narrow": (0.02, 64_000, False),
    "losing": (0.02, None, True),
}
QUICK = ("far", "reset", ALL)  # all six cuts in one round
UNPLUGGED = {"unplugged": 3.0, "dead": dialer.SILENCE + 5}
STEP_SECONDS = 150
GAP, PERIOD = 0.15, 1.0  # seconds in which a losing line loses everything, and how often


class Apart:
    """The network of these hosts, as seen from the server's."""

    server = Hosts.address(0)

    def __init__(self, hosts):
        self._hosts = hosts

    def open(self, port):
        """The server listens there; where its clients find it."""
        command = [*self._hosts.on(-1), sys.executable, "-m", "tests.soak.relay"]
        self._relay = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return f"https://{BETWEEN}:{self._say({'onward': port, 'here': BETWEEN, 'there': self.server})}"

    def _say(self, words):
        self._relay.stdin.write(json.dumps(words) + "\n")
        self._relay.stdin.flush()
        return json.loads(self._relay.stdout.readline())

    def cut(self):
        """End all connections, and let nobody in."""
        return self._say("cut")

    def mend(self):
        """Let everybody in again."""
        self._say("mend")

    def become(self, delay, rate):
        """Another way between them."""
        self._say({"delay": delay, "rate": rate})

    def command(self, client, command):
        """What starts this on the client's machine."""
        return [*self._hosts.on(1 + client), *command]

    def plug(self, clients, up):
        """Plug these clients' lines in, or out."""
        for client in clients:
            self._hosts.line(1 + client, up)


class Cuts:
    """Cuts `steps` of a round in their middle; `met` says how many clients had not answered at each."""

    def __init__(self, soak, kind, steps):
        self._soak, self._kind, self._steps = soak, kind, steps
        self._original = soak.engine._answers
        self._later = []
        self.met = {}

    def __enter__(self):
        self._soak.engine._answers = self._answers
        return self

    def __exit__(self, *_):
        del self._soak.engine._answers
        for each in self._later:
            each.join()

    def _answers(self, asked, seconds, name=None):
        first = next(iter(asked.values()))
        step = first.step or first.kind.value
        answers = self._original(asked, seconds, name)
        if step not in self._steps or step in self.met:
            yield from answers
            return
        victim = self._soak.chance.choice(sorted(asked))
        self._soak.network.plug([victim], up=False)
        yield next(answers)
        spool = self._soak.engine._desk.spool
        self.met[step] = sum(spool.whole(question.id) is None for question in asked.values())
        self._cut(victim)
        yield from answers

    def _cut(self, victim):
        network, everybody = self._soak.network, range(CLIENTS)
        if self._kind == "reset":
            network.plug([victim], up=True)
            network.cut()
            network.mend()
            return
        network.plug(everybody, up=False)
        self._later.append(threading.Timer(UNPLUGGED[self._kind], network.plug, (everybody, True)))
        self._later[-1].start()


class Losing:
    """Within it every client's line loses all that is sent in a part of each second."""

    def __init__(self, network):
        self._network, self._ends = network, threading.Event()
        self._thread = threading.Thread(target=self._lose)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._ends.set()
        self._thread.join()

    def _lose(self):
        while not self._ends.wait(PERIOD - GAP):
            self._network.plug(range(CLIENTS), up=False)
            time.sleep(GAP)
            self._network.plug(range(CLIENTS), up=True)


def one_round(soak, number, line, kind, steps):
    """The facts of one round."""
    delay, rate, loses = LINES[line]
    soak.network.become(delay, rate)
    began = time.monotonic()
    with Cuts(soak, kind, steps) as cuts:
        if loses:
            with Losing(soak.network):
                ending, survivors = soak.round(number, "none", "announce")
        else:
            ending, survivors = soak.round(number, "none", "announce")
    facts = {"line": line, "cut": kind, "not_answered": cuts.met, "ending": ending, "survivors": survivors}
    return facts | {"seconds": round(time.monotonic() - began, 1)}


def play(hosts, folder, rounds):
    """On the server's host: these rounds, and what there is to say at the end."""
    torch.set_num_threads(1)
    soak = Soak(folder, 1, Apart(hosts), CLIENTS, BETWEEN, STEP_SECONDS)
    endings = Counter()
    try:
        soak.warm()
        for line, kind, steps in rounds:
            facts = one_round(soak, endings["sum"], line, kind, steps)
            endings[facts["ending"].partition(":")[0]] += 1
            say(facts)
    finally:
        soak.end()
    under = soak.under_charges()
    say({"rounds": len(rounds), "endings": endings, "under_charges": under})
    return 0 if endings["sum"] == len(rounds) and not under else 1


def main():
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.apart")
    parser.add_argument("--quick", action="store_true", help="one round, with a cut in the middle of each of its steps")
    parser.add_argument("--on", help=argparse.SUPPRESS)  # the hosts that there are: this is the server's
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    if asked.on:
        matrix = [(line, kind, (step,)) for line, kind, step in product(LINES, ("reset", *UNPLUGGED), ALL)]
        asked.folder.mkdir(parents=True)
        return play(Hosts.known(asked.on), asked.folder, [QUICK] if asked.quick else matrix)
    with Hosts(1 + CLIENTS) as hosts:
        quick = ["--quick"] if asked.quick else []
        command = [*hosts.on(0), sys.executable, "-m", "tests.soak.apart", "--on", hosts.name, *quick]
        return subprocess.run([*command, str(asked.folder)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
