"""A coordinator, two workers and a crowd of clients, each a process, over a real PostgreSQL; one worker is killed.

12 clients here. `WORKERS_CLIENTS=40 pytest tests/fgrpo_secure/engines/test_worker_processes.py` plays it with 40: 219 s
on two busy cores.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing, suppress
from fractions import Fraction
from pathlib import Path

import pytest

from fgrpo_secure.client.store import ClientStore
from fgrpo_secure.ledger.store import Ledgers
from fgrpo_secure.plan import terms
from fgrpo_secure.storage import owners_folder, rosters
from protocols import drive, wire
from protocols.wire import Step
from tests.fgrpo_secure.client.test_observer import Observer
from tests.fgrpo_secure.engines import postgres
from tests.fgrpo_secure.engines.federations import certificate, enrolled
from tests.fgrpo_secure.engines.proxy import Proxy

CLIENTS = int(os.environ.get("WORKERS_CLIENTS", "12"))
HOSTS, ROUNDS = 2, 2
CROWD = Path(__file__).with_name("crowd.py")
ROOT = Path(__file__).parents[3]
TEXT = (
    f'[[client]]\nname = "adders"\ntask = "add"\ncount = {CLIENTS}\n[run]\nentropy = "seeded"\n[adapter]\nrank = 1\n'
    f"[federation]\nrounds = {ROUNDS}\nstep_seconds = 60\n[grpo]\nnum_generations = 2\nprompts_per_step = 1\n"
    "[evaluation]\nprompts = 1\nsamples = 1\nevery = 0\n[privacy]\nepsilon = 80.0\n[aggregation]\n"
    f'adversary = "lying_server"\nmax_dropout = 0.2\nmax_corrupt = 0.05\nshard_size = {CLIENTS // 2}\n'
)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Processes:
    """All that one run needs. `servers` and `clients` are processes of which only this starts and ends any."""

    def __init__(self, directory, folder, text):
        self.directory, self.folder = directory, folder
        self.pem = certificate(folder)
        self.database = postgres.address_file(folder, text)
        self.ports = [free_port(), free_port()]
        self.proxy = Proxy([("127.0.0.1", port) for port in self.ports])
        self.started = []
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._environment = os.environ | environment

    def start(self, name, *command):
        with (self.folder / f"{name}.log").open("ab") as log:
            made = subprocess.Popen(
                [sys.executable, *map(str, command)], stdout=log, stderr=log, cwd=ROOT, env=self._environment
            )
        self.started.append(made)
        return made

    def coordinator(self):
        start = ("-m", "fgrpo_secure", "server", "start", self.directory.root, "--database", self.database)
        return self.start("coordinator", *start, "--workers", 2)

    def worker(self, number):
        start = ("-m", "fgrpo_secure", "server", "start", self.directory.root, "--database", self.database)
        listen = ("--listen", f"127.0.0.1:{self.ports[number - 1]}", "--certificate", self.pem[0], "--key", self.pem[1])
        return self.start(f"worker-{number}", *start, "--worker", f"{number}/2", *listen)

    def crowd(self):
        hosts = [str(self.folder / f"host-{index}") for index in range(HOSTS)]
        for index, path in enumerate(hosts):
            self.start(f"host-{index}", CROWD, "host", self.directory.root, index, HOSTS, path)
        until(lambda: all(Path(path).exists() for path in hosts), 240, "the hosts did not start")
        url = f"https://127.0.0.1:{self.proxy.address[1]}"
        clients = []
        for client in range(CLIENTS):
            with closing(ClientStore(owners_folder.store(self.directory.owners, client % HOSTS))) as store:
                Path(f"{self.left(client)}.seed").write_text(store.identity_seed(client).hex())
            start = (CROWD, "client", self.directory.root, client, url, self.pem[0], hosts[client % HOSTS])
            clients.append(self.start("clients", *start, self.left(client)))
        return clients

    def left(self, client):
        """The file with what left this client."""
        return self.folder / f"left-{client}"

    def said(self, name):
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def close(self):
        for process in self.started:
            process.kill()
            process.wait()
        self.proxy.close()


def until(happened, seconds, otherwise):
    ends = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < ends, otherwise
        time.sleep(0.02)


@pytest.fixture
def processes(trial, tmp_path):
    with ExitStack() as ends:
        text = ends.enter_context(postgres.cluster())
        config, directory = trial.configure(f"engine.processes={HOSTS}", text=TEXT)
        enrolled(config, directory)
        directory.authority.write_text(rosters.pins(directory).authority.hex())
        # A socket's path is short, and the one of a test's folder is not.
        folder = Path(tempfile.mkdtemp(prefix="fgrpo-crowd-"))
        made = ends.enter_context(closing(Processes(directory, folder, text)))
        made.ends = ends
        yield made
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def observed(processes):
    """What an observer makes of each client's bytes."""
    found = {}
    for client in range(CLIENTS):
        observer, survivors = found.setdefault(client, Observer()), {}
        path = processes.left(client)
        text = path.read_text() if path.exists() else ""
        for line in map(json.loads, text[: text.rfind("\n") + 1].splitlines()):
            if line["kind"] != "step" or line["last"] != 1:  # 1: an answer, and no refusal
                continue
            step, asked = Step(line["step"]), bytes.fromhex(line["asked"])
            session = drive.session_in(step, asked)
            if step is Step.ANNOUNCE:
                observer.shown(wire.decode(wire.SignedPlan, asked, wire.MAX_PLAN).plan)
            if step is Step.AGREE:
                survivors[session] = len(wire.decode(wire.Uploads, asked, 1 << 20).entries)
            observer.saw(step, session, survivors.get(session))
    return found


def books(directory):
    """Client -> what its ledger says that it spent."""
    spent = {}
    for index in range(HOSTS):
        ledgers = Ledgers(directory.owners / f"host-{index}" / "ledgers.sqlite")
        for owner in ledgers.owners():
            ledger = ledgers.open(owner, ledgers.last_row(owner).filter.budget)
            ledger.verify()
            spent[int(owner)] = ledger.spent()
        ledgers.close()
    return spent


def servers_ledger(directory):
    """What the server's ledger says that it spent, and its entries."""
    ledgers = Ledgers(directory.ledger)
    ledger = ledgers.open("server", ledgers.last_row("server").filter.budget)
    ledger.verify()
    found = ledger.spent(), list(ledger.entries())
    ledgers.close()
    return found


def priced(observer):
    """What the sessions cost whose masked vector left: at the noise of those who settled, or at the floor."""
    found = Fraction(0)
    for session in observer.masked:
        plan = observer.plans[session]
        found += terms.read(plan, None).settled(observer.survivors.get(session, plan.floor))
    return found


def compared(directory, seen):
    """The clients' books and the server's, against the observer's; what left each client, and what settled."""
    spent = books(directory)
    total, entries = servers_ledger(directory)
    for client, observer in seen.items():
        assert spent[client] >= observer.cost() * (1 - Fraction(1, 10**6)), f"client {client} paid less than left it"
        assert total >= spent[client], f"the server's ledger shows less than client {client} paid"
    # Of the lost shard only those paid whose vector left; of all others everybody, once a round, at what was settled.
    left = {client: len(observer.masked) for client, observer in seen.items()}
    settled = {client: len(observer.survivors) for client, observer in seen.items()}
    assert all(settled[client] <= left[client] <= ROUNDS for client in left)
    assert sum(settled.values()) == CLIENTS // 2 + CLIENTS
    assert sum(left.values()) > sum(settled.values()), "no vector was lost with the worker"
    for client, observer in seen.items():
        assert spent[client] == priced(observer), f"client {client} did not pay for exactly what left it"
    assert [entry["kind"] for entry in entries].count("intent") == ROUNDS, "one entry a round, none repeated"
    return left, settled


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_killed_in_mid_round_costs_its_shard_alone_and_all_books_agree_with_the_observer(processes):
    psycopg = pytest.importorskip("psycopg")
    directory, began = processes.directory, time.monotonic()
    coordinator, workers = processes.coordinator(), {number: processes.worker(number) for number in (1, 2)}
    clients = processes.crowd()
    text = processes.database.read_text()
    database = processes.ends.enter_context(psycopg.connect(text, autocommit=True, client_encoding="utf8"))

    def in_the_middle():
        """Some vectors left for worker 2, and not all."""
        assert coordinator.poll() is None, processes.said("coordinator")
        query = "SELECT session FROM fgrpo_session WHERE worker = 2 AND asked AND state = 'taken'"
        with suppress(psycopg.errors.UndefinedTable):
            found = {bytes(session) for (session,) in database.execute(query, binary=True)}
            return bool(found) and sum(not found.isdisjoint(each.masked) for each in observed(processes).values()) > 1

    until(in_the_middle, 400, "worker 2 never asked for masked vectors")
    workers[2].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    workers[2].wait()
    workers[2] = processes.worker(2)
    until(lambda: coordinator.poll() is not None, 400, "the run did not end")
    took = time.monotonic() - killed
    log = processes.said("coordinator")
    assert coordinator.returncode == 0, log
    assert log.count("goes on without a shard") == 1, log
    assert "round 1: goes on without a shard: worker 2 of 2 was lost" in log
    for process in (*workers.values(), *clients):
        process.wait(60)
    assert [process.returncode for process in clients] == [0] * CLIENTS, "not all heard that it is over"
    assert [workers[number].returncode for number in (1, 2)] == [0, 0]

    metrics = directory.read_metrics()
    assert [line["survivors"] for line in metrics] == [CLIENTS // 2, CLIENTS]
    left, settled = compared(directory, observed(processes))
    verified(processes)
    searched(processes, database)
    print(  # noqa: T201 - the figures that documents quote
        f"\n{CLIENTS} clients: worker 2 killed after {killed - began:.0f} s, the run ended {took:.0f} s later; vectors "
        f"left {sum(left.values())}, settled {sum(settled.values())}"
    )


def verified(processes):
    """`fgrpo verify` of the run passes, with the two keys that an auditor knows."""
    pins = rosters.pins(processes.directory)
    keys = ("--authority", pins.authority.hex(), "--server", pins.server.hex())
    verify = processes.start("verify", "-m", "fgrpo_secure", "verify", processes.directory.root, *keys)
    assert verify.wait(300) == 0, processes.said("verify")


def searched(processes, database):
    """Neither logs nor the run directory show the password; the database holds no key of the server's."""
    shown = [path for path in (*processes.folder.glob("*.log"), *processes.directory.root.rglob("*")) if path.is_file()]
    assert [path for path in shown if postgres.PASSWORD.encode() in path.read_bytes()] == []
    tables = [name for (name,) in database.execute("SELECT tablename FROM pg_tables WHERE tablename LIKE 'fgrpo%'")]
    assert len(tables) == 9
    for table in tables:
        for (row,) in database.execute(f"SELECT each::text FROM {table} each"):  # noqa: S608 - a name of our own
            assert processes.directory.server_key.read_bytes().hex() not in row
