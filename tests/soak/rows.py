"""Rows of the failure table that need real processes and their files: `python -m tests.soak.rows DIR`.

    clocks      the server's is a day ahead, one client's a day ahead of the right time and one a day behind it
    proxy       one client is behind a proxy that cuts what is silent for 30 seconds
    old client  one client's folder is put back from a copy that knows nothing of the round before
    old server  the server's folders are put back from a copy that knows nothing of the round before

One JSON line for each round, then what each client's owner reads in its log, and what the observer finds unpaid.
"""

import os
import shutil
import sys
from pathlib import Path

import torch

from tests.soak.__main__ import Loopback, Soak, say
from tests.soak.proxy import Proxy

CLIENTS, DAY, IDLE = 5, 86_400, 30.0
STEP_SECONDS = 120  # all answer each step, so that nobody waits for them but on a busy machine
AHEAD, BEHIND, BY_PROXY, OLD = range(4)
CLOCKS = {AHEAD: DAY, BEHIND: -DAY}


class Rows(Loopback):
    """Clients on this machine, with clocks of their own and one proxy."""

    def __init__(self):
        self.proxy = Proxy(IDLE)

    def command(self, client, command):
        clock = ["env", f"CLOCK_AHEAD={CLOCKS.get(client, 0)}"]
        return [*clock, *command, *([self.proxy.url] if client == BY_PROXY else [])]


def copied(paths, to):
    """Folders as they are now."""
    return [shutil.copytree(path, to / path.name) for path in paths]


def put_back(paths, copies):
    """Folders as they were then."""
    for path, copy in zip(paths, copies, strict=True):
        shutil.rmtree(path)
        shutil.copytree(copy, path)


def play(folder):
    """See the module."""
    torch.set_num_threads(1)
    network = Rows()
    soak = Soak(folder, 1, network, CLIENTS, step_seconds=STEP_SECONDS)
    old = soak.clients[OLD]
    owner = [soak.directory.owners / f"host-{OLD}"]
    server = [soak.directory.root, soak.directory.private]
    try:
        of_client = copied(owner, folder / "copies")  # no session of it has begun
        soak.warm()
        wrong_time = soak.engine._desk.counts.refused
        tell(soak, "clocks and proxy", 0)
        old.kill()
        put_back(owner, of_client)
        old.start()
        soak.warm()
        of_server = []
        soak.restart_server(lambda: of_server.extend(copied(server, folder / "copies")))
        tell(soak, "old client", 1)
        soak.restart_server(lambda: put_back(server, of_server))
        tell(soak, "old server", 1)
        tell(soak, "old server, next session", 1)
    finally:
        soak.end()
    proxy = network.proxy
    facts = {"wrong_time": wrong_time, "unpaid": soak.under_charges(), "proxy": [proxy.opened, proxy.cut]}
    say(facts | {"logs": logs(soak.directory)})


def logs(directory):
    """What each client's owner reads."""
    found = [path.read_text() for path in sorted(directory.owners.glob("host-*/*.log"))]
    return [text.splitlines() for text in found]


def tell(soak, row, number):
    """A round, and what became of it."""
    ending, survivors = soak.round(number, "none", "announce")
    notes = soak.directory.notes
    note = max(notes.iterdir(), key=lambda path: int(path.stem)).read_text() if notes.exists() else ""
    signed = [client for client in range(CLIENTS) if f" client-{client} " in note]
    refusals = sorted(set(soak.engine.refusals.values()))
    say({"row": row, "ending": ending, "survivors": survivors, "refusals": refusals, "signed": signed})


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(play(Path(sys.argv[1])))
