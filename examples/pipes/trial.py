"""A run whose bytes a pipe carries, played on this machine and compared with the embedded engine's of the same seed.

    five clients   `fgrpo client start --pipe`, two at each of two sites and one at the third, as root
    the carrier    another user, with nothing of theirs: at each site, and before the server
    server         `fgrpo server start --pipe`, as root, behind a counter of what comes to its socket

    python examples/pipes/trial.py plain|https|flower|flare [--rounds N] [--engine VENV] [--out FOLDER]

`plain` and `https` show what a run costs without a framework. Ends with 1 where the two adapters differ by a bit.
Needs root, which alone may start processes of two users.
"""

import argparse
import hashlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import http_messages
import psutil

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "many_machines"))
from federation import MARK, TASKS, Machine, certificates, say  # noqa: E402 - the example beside this one

SITES = {"coast": ("north", "west"), "hills": ("south", "east"), "city": ("centre",)}
CARRIER = 61_235  # a user id without a name: whoever has it has nothing here
LATE = "training did not end in time"  # in an owner's own log: its round was noise alone, and the adapter differs
FAREWELL = 20.0  # seconds for a client that did not hear that the run is over: the server does not wait for ever
LONGEST_ROUND = 1200.0  # seconds, beside training
TABLES = "".join(f'[[client]]\nname = "{name}"\ntask = "{task}"\n' for name, task in TASKS.items())
RUN = """[run]
name = "piped"
entropy = "seeded"  # the same keys, noise and rollouts in both runs: nothing here is private
[federation]
clients = 5
rounds = {rounds}
training_seconds = {training}
step_seconds = 600
[engine]
kind = "https"
[adapter]
rank = 1
[grpo]
num_generations = 4
prompts_per_step = 2
[privacy]
epsilon = 8.0
[aggregation]
adversary = "lying_server"
max_dropout = 0.2
[evaluation]
tasks = ["add"]
prompts = 4
samples = 1
every = 0
"""


class Carrier:
    """Starts processes of the pipe's user and ends them, with whatever they started."""

    def __init__(self, place: Path, engine: Path) -> None:
        self.place, self.engine, self._started = place, engine, []

    def check(self) -> None:
        """Ends the trial if this user cannot run its Python, or read what it is to run."""
        words = [self.engine / "bin" / "python3", "-c", f"open({str(HERE / 'http_messages.py')!r})"]
        try:
            subprocess.run(words, check=True, user=CARRIER, group=CARRIER, extra_groups=[], capture_output=True)
        except (OSError, subprocess.CalledProcessError) as problem:
            sys.exit(
                f"user {CARRIER} cannot run {words[0]} or read {HERE}, which must be where others may read: {problem}"
            )

    def folder(self, name: str) -> Path:
        """A folder of the carrier's own."""
        made = self.place / name
        made.mkdir(mode=0o755)
        os.chown(made, CARRIER, CARRIER)
        return made

    def start(self, folder: Path, *command: str | Path, **environment: str) -> "subprocess.Popen[bytes]":
        """A process in that folder, of this user and no group; what it says is in output.log."""
        binaries = self.engine / "bin"
        words = [str(binaries / command[0]), *map(str, command[1:])]
        say(f"carrier:{folder.name}$ {' '.join([str(command[0]), *words[1:]])[:150]}")
        known = {
            "HOME": str(folder),
            "USER": "carrier",
            "LOGNAME": "carrier",
            "PATH": f"{binaries}:/usr/bin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with (folder / "output.log").open("ab") as log:
            made = subprocess.Popen(
                words, cwd=folder, env=known | environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                user=CARRIER, group=CARRIER, extra_groups=[], start_new_session=True,
            )  # fmt: skip
        self._started.append(made)
        return made

    def wait_until_open(self, port: int, seconds: float = 120.0) -> None:
        """Until somebody listens at this port of the machine."""
        deadline = time.monotonic() + seconds
        while True:
            with socket.socket() as line:
                if line.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if time.monotonic() > deadline:
                sys.exit(f"nobody listens on port {port}")
            time.sleep(0.2)

    def processor_seconds(self) -> float:
        """What all processes of this user took, those that ended included."""
        total = 0.0
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess):
                if process.uids().real == CARRIER:
                    took = process.cpu_times()
                    total += took.user + took.system + took.children_user + took.children_system
        return total

    def end(self) -> None:
        """All of them, and what they started, which may have left their parents: known by their user and home."""
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess):
                if process.uids().real == CARRIER and self.place in Path(process.environ().get("HOME", "/")).parents:
                    process.kill()
        for each in self._started:
            each.wait()


class Counted:
    """The server's socket as the carrier sees it: every message is counted, and brought to the real one."""

    def __init__(self, real: Path) -> None:
        self._real, self.counts = str(real), Counter()

    def __call__(self, request: bytes) -> bytes:
        reply = http_messages.ask(self._real, request)
        self.counts.update(requests=1, up=len(request), down=len(reply))
        return reply


def prepared(root: Path, text: str, url: tuple[str, ...]) -> tuple[Machine, list[Machine]]:
    """A server and five clients that have joined its run."""
    authority, server, *clients = (Machine(name, root) for name in ("authority", "server", *TASKS))
    key, named = authority.fgrpo("authority", "new", "keys"), zip(TASKS, clients, strict=True)
    lines = [client.fgrpo("client", "new", "client", "--name", each, "--task", TASKS[each]) for each, client in named]
    authority.fgrpo("authority", "sign", "keys", *lines)
    authority.hand("keys/roster.bin", server)
    (server.folder / "run.toml").write_text(text)
    certificates(server.folder)
    server.fgrpo("server", "new", "run.toml", "--authority", key)
    server.fgrpo("server", "invite", "runs/piped", "--roster", "roster.bin", *url, "--out", "invitation.json")
    for client in clients:
        server.hand("invitation.json", client)
        policy = client.folder / "client" / "client-policy.toml"
        policy.write_text(policy.read_text().replace('entropy = "os"', 'entropy = "seeded"'))
        client.fgrpo("client", "join", "client", "invitation.json", "--yes")
    return server, clients


def embedded(server: Machine, text: str) -> str:
    """The digest of the adapter that one process gets from the same seed."""
    text = text.replace("clients = 5\n", "").replace('kind = "https"', 'kind = "embedded"\nprocesses = 1')
    (server.folder / "embedded.toml").write_text(text + TABLES)
    server.fgrpo("run", "embedded.toml", "--out", "runs/embedded")
    return digest(server, "embedded")


def digest(server: Machine, run: str) -> str:
    """SHA-256 of a run's adapter."""
    return hashlib.sha256(
        (server.folder / "runs" / run / "adapter" / "adapter_model.safetensors").read_bytes()
    ).hexdigest()


def conduct(
    server: Machine, clients: list[Machine], listens: tuple[str, ...], ways: dict[str, tuple[str, ...]], most: float
) -> None:
    """Server and clients as processes, until the run is over. Ends the trial if it is not within `most` seconds."""
    running = [server.start("server", "start", "runs/piped", *listens)]
    running += [client.start("client", "start", "client", *ways[client.name]) for client in clients]
    code = -1
    try:
        with suppress(subprocess.TimeoutExpired):
            code = running[0].wait(most)
    finally:
        for each in reversed(running):
            with suppress(subprocess.TimeoutExpired):
                each.wait(0 if code else FAREWELL)
            if each.poll() is None:
                each.terminate()
                each.wait(60)
    if code:
        logs = "\n".join((each.folder / "output.log").read_text()[-1500:] for each in (server, clients[0]))
        sys.exit(f"the run did not end well ({code}):\n{logs}")


@contextmanager
def plain(carrier: Carrier, doors: dict[str, list[Path]], server: Path) -> Iterator[None]:
    """The pipe that has nothing in its middle."""
    for paths in doors.values():
        for path in paths:
            carrier.start(carrier.folder(f"{path.stem}-plain"), "python3", HERE / "plain.py", path, server)
    yield


def engine(kind: str) -> Callable[..., object]:
    """What puts a framework between the sockets: `carry` of its folder's launch.py."""
    if kind == "plain":
        return plain
    spec = importlib.util.spec_from_file_location(f"launch_{kind}", HERE / kind / "launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.carry


def wait_for(paths: list[Path], seconds: float = 180.0) -> None:
    """Until each is there."""
    deadline = time.monotonic() + seconds
    while not all(path.exists() for path in paths):
        if time.monotonic() > deadline:
            sys.exit(f"the pipe does not listen at {[path.name for path in paths if not path.exists()]}")
        time.sleep(0.1)


def over_a_pipe(kind: str, venv: Path, server: Machine, clients: list[Machine], most: float) -> Counter:
    """The run, with that engine in the middle; what came to the server's socket."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fgrpo")))
        place.chmod(0o711)
        real, shown = place / "real.sock", place / "server.sock"
        counted, carrier = Counted(real), Carrier(place, venv)
        stack.callback(carrier.end)
        carrier.check()
        threading.Thread(target=http_messages.serve, args=(str(shown), counted), daemon=True).start()
        wait_for([shown])
        doors = {}
        for site, names in SITES.items():
            folder = carrier.folder(site)
            doors[site] = [folder / f"{name}.sock" for name in names]
        stack.enter_context(engine(kind)(carrier, doors, shown))
        wait_for([path for paths in doors.values() for path in paths])
        ways = {path.stem: ("--pipe", f"unix:{path}") for paths in doors.values() for path in paths}
        try:
            conduct(server, clients, ("--pipe", f"unix:{real}"), ways, most)
        finally:
            for log in place.glob("*/output.log"):  # the folder goes away
                shutil.copy(log, server.folder / f"carrier-{log.parent.name}.log")
        return counted.counts | Counter(processor=round(carrier.processor_seconds()))


def over_https(server: Machine, clients: list[Machine], port: int, most: float) -> None:
    """The run without a pipe."""
    listens = ("--listen", f"127.0.0.1:{port}", "--certificate", "tls.pem", "--key", "tls.key")
    conduct(server, clients, listens, {client.name: () for client in clients}, most)


def play(root: Path, kind: str, venv: Path, rounds: int, training: int) -> int:
    """The whole story; 0 if both adapters are the same."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    url = ("--url", f"https://localhost:{port}", "--ca", "ca.pem") if kind == "https" else ("--url", "pipe:")
    text = RUN.format(rounds=rounds, training=training)
    server, clients = prepared(root, text, url)
    expected, started, most = embedded(server, text), time.monotonic(), rounds * (training + LONGEST_ROUND)
    if kind == "https":
        over_https(server, clients, port, most)
    else:
        counts = over_a_pipe(kind, venv, server, clients, most)
        each = {name: count // rounds for name, count in counts.items()}
        say(f"a round: {each['requests']} requests, {each['up']:,} bytes to the server, {each['down']:,} bytes back")
        say(f"the carrier's processes took {counts['processor']} s of processor time in all")
    took = time.monotonic() - started
    say(f"{rounds} rounds in {took:.0f} s: {took / rounds - training:.0f} s each beside {training} s of training")
    got = digest(server, "piped")
    late = [client.name for client in clients if LATE in _log(client)]
    if late:
        say(f"training did not end in time at {', '.join(late)}: this machine needs more than --training {training}")
    say(f"embedded {expected}\n{kind:8} {got}\n{'the same' if got == expected else 'THEY DIFFER'}")
    return int(got != expected)


def _log(client: Machine) -> str:
    """What a client noted for its owner alone."""
    path = client.folder / "client" / "client.log"
    return path.read_text() if path.exists() else ""


def main() -> int:
    """Play it in the folder that is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("plain", "https", "flower", "flare"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--training", type=int, default=120, help="seconds of a round until all announce themselves")
    parser.add_argument("--engine", type=Path, default=Path("/usr"), help="the carrier's Python: a folder with bin/")
    parser.add_argument("--out", type=Path, default=Path("runs/pipe"), help="a folder that is replaced")
    given = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("the pipe runs as another user than the clients: only root can start both")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that whoever ends it ends all that it started
    root = given.out.resolve()
    if root.exists() and not (root / MARK).exists():
        sys.exit(f"{root} exists and is no trial of this script; give a folder that is not there")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True, mode=0o700)
    (root / MARK).touch()
    return play(root, given.kind, given.engine.absolute(), given.rounds, given.training)


if __name__ == "__main__":
    sys.exit(main())
