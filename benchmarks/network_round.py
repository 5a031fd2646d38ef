"""What a whole round costs over HTTPS beyond the embedded engine: the same run on both, in turns, on one machine.

    python benchmarks/network_round.py --rounds 7 --training 30

Five clients, each a daemon and a process for its sessions, TLS between; against the same five in worker processes. Both
train; the time that counts begins with the training deadline (embedded: when the last client has trained) and ends
when the round is published: five steps, books on both sides, the sum, the new adapter, the ledger shown and signed.
Appends one JSON object to `results/network_round.jsonl`:

    seconds        waited, each round            cpu_s    processor time of everybody, each round, in the same interval
    over_s         what HTTPS adds, paired       load     of the machine, before and after
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil

TASKS = ("add", "sub", "mul", "sort", "rev")
RESULT = Path(__file__).parent / "results" / "network_round.jsonl"
STEP_SECONDS = 120
TEXT = "".join(f'[[client]]\nname = "{task}"\ntask = "{task}"\n' for task in TASKS) + (
    '[run]\nentropy = "seeded"\n[adapter]\nrank = 1\n[engine]\nprocesses = 5\n'
    "[grpo]\nnum_generations = 4\nprompts_per_step = 2\n[evaluation]\nprompts = 4\nsamples = 1\nevery = 0\n"
    '[privacy]\nepsilon = 100.0\n[aggregation]\nadversary = "lying_server"\nmax_dropout = 0.2\n'
)


class Measured:
    """The interval of one round that counts: `begin` when training is over, `end` when the round is."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.worked: list[float] = []
        self._since = (0.0, 0.0)

    def begin(self) -> None:
        """Training is over."""
        self._since = time.perf_counter(), _worked()

    def end(self) -> None:
        """The round is published."""
        since, worked = self._since
        self.seconds.append(round(time.perf_counter() - since, 3))
        self.worked.append(round(_worked() - worked, 3))


def _worked() -> float:
    """Processor seconds of this process and of all that it started and that still run."""
    own = psutil.Process()
    times = []
    for process in (own, *own.children(recursive=True)):
        try:
            times.append(process.cpu_times())
        except psutil.NoSuchProcess:
            continue
    return float(sum(each.user + each.system for each in times))


def opened(folder: Path, rounds: int, training: int, more: Sequence[str] = ()) -> tuple[Any, Any, Any, Any]:
    """(configuration, directory, base model, adapted model) of a new run whose owners are enrolled; `more` settings."""
    from fgrpo_secure import entropy
    from fgrpo_secure.config import files as config_file
    from fgrpo_secure.engines import enrolment
    from fgrpo_secure.learning import adapters, models
    from fgrpo_secure.storage.run_directory import RunDirectory

    (folder / "run.toml").write_text(TEXT)
    federation = ("rounds", rounds), ("training_seconds", training), ("step_seconds", STEP_SECONDS)
    config = config_file.load(
        str(folder / "run.toml"), [*(f"federation.{key}={value}" for key, value in federation), *more]
    )
    base, directory = models.load(config.model), RunDirectory(folder / "run")
    adapted = adapters.attach(base, config.adapter, config.run.seed)
    directory.create(config_file.dump(config))
    source = entropy.from_kind(config.run.entropy, config.run.seed)
    enrolment.enrol(directory, config, base, adapted, source.child("enrolment"))
    return config, directory, base, adapted


class OnEmbedded:
    """The run in worker processes."""

    def __init__(self, folder: Path, rounds: int, training: int, more: Sequence[str] = ()) -> None:
        from fgrpo_secure.engines.embedded import Embedded
        from fgrpo_secure.server.federation import Federation

        config, directory, base, adapted = opened(folder, rounds, training, more)
        self.measured = Measured()
        self._engine = Embedded.start(directory, config)
        self._engine.on_trained = lambda done, total: self.measured.begin() if done == total else None
        self.federation = Federation.open(config, directory, base, adapted, self._engine)

    def round(self, number: int) -> int:
        """Conduct it; how many clients are in its sum."""
        result = self.federation.conduct(number, lambda *_: None)
        self.measured.end()
        return len(result.recovered.survivors)

    def close(self) -> None:
        """End all processes."""
        self.federation.close()
        self._engine.close()


class OnHttps:
    """The run over the network."""

    def __init__(self, folder: Path, rounds: int, training: int, more: Sequence[str] = ()) -> None:
        from network import certificate

        from fgrpo_secure.engines.https.engine import HttpsEngine
        from fgrpo_secure.server.federation import Federation
        from fgrpo_secure.storage import opening, rosters

        config, directory, base, adapted = opened(folder, rounds, training, more)
        self.measured, pem, self._training = Measured(), certificate(folder), training
        known, run = (rosters.pins(directory).authority, rosters.roster(directory)), opening.read(directory).run
        listen, times = ("127.0.0.1", 0), (training, STEP_SECONDS)
        server = rosters.server_identity(directory)
        own = directory.private / "https"
        self._engine = HttpsEngine.open(own, server, bytes.fromhex(run), known, listen, pem, times, lambda _: None)
        self._exchange = self._engine.exchange
        self._engine.exchange = self._timed  # type: ignore[method-assign]
        command = [sys.executable, __file__, "--daemon", str(directory.root), str(self._engine.address[1]), str(pem[0])]
        self._clients = [subprocess.Popen([*command, str(client)]) for client in range(len(TASKS))]
        self.federation = Federation.open(config, directory, base, adapted, self._engine)
        self._engine.recover([bytes(32)])  # every session's process has loaded its model, as the workers have

    def _timed(self, step: str, outgoing: Mapping[int, bytes], seconds: float) -> Iterator[tuple[int, bytes]]:
        if step == "announce":
            threading.Timer(self._training, self.measured.begin).start()
        yield from self._exchange(step, outgoing, seconds)

    def round(self, number: int) -> int:
        """Conduct it; how many clients are in its sum."""
        result = self.federation.conduct(number, lambda *_: None)
        self.measured.end()
        return len(result.recovered.survivors)

    def close(self) -> None:
        """End all processes."""
        self.federation.close()
        self._engine.close()
        for client in self._clients:
            client.terminate()
            client.wait()


def daemon(root: str, port: str, certificate: str, client: str) -> int:
    """A client's daemon."""
    from fgrpo_secure.engines.https import client_loop
    from fgrpo_secure.engines.https.dialer import Place
    from fgrpo_secure.engines.https.session_process import SessionProcess
    from fgrpo_secure.storage import owners_folder
    from fgrpo_secure.storage.run_directory import RunDirectory
    from protocols.identity import Identity

    directory = RunDirectory(Path(root))
    found = json.loads(directory.opening.read_text())
    store = sqlite3.connect(owners_folder.store(directory.owners, int(client)))
    (seed,) = store.execute("SELECT seed FROM identity WHERE owner = ?", (int(client),)).fetchone()
    store.close()
    server, run = bytes.fromhex(found["server"]), bytes.fromhex(found["run"])
    identity, ca = Identity.from_seed(seed), Path(certificate).read_text()
    place = Place(f"https://127.0.0.1:{port}", server, run, int(client), identity, ca)
    session = SessionProcess("fgrpo_secure.engines.worker", [root, client, str(len(TASKS))])
    with client_loop.stoppable():
        client_loop.serve(place, session, directory.owners / f"daemon-{client}", lambda _: None, 1 << 30)
    return 0


def main() -> int:
    """See the module."""
    if sys.argv[1:2] == ["--daemon"]:
        return daemon(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="that count; one before them does not")
    parser.add_argument("--training", type=int, default=30, help="seconds to the training deadline")
    asked = parser.parse_args()
    before, survivors = os.getloadavg()[0], set()
    with tempfile.TemporaryDirectory() as name:
        sides = []
        try:
            for kind in (OnEmbedded, OnHttps):
                folder = Path(name) / kind.__name__
                folder.mkdir()
                sides.append(kind(folder, asked.rounds + 1, asked.training))
            for number in range(asked.rounds + 1):
                survivors |= {side.round(number) for side in sides}
            adapters = {side.federation.adapted.get_vector(0).tobytes() for side in sides}
        finally:
            for side in sides:
                side.close()
    here, there = (side.measured for side in sides)
    over = [round(b - a, 3) for a, b in zip(here.seconds[1:], there.seconds[1:], strict=True)]
    facts: dict[str, Any] = {"clients": len(TASKS), "survivors": sorted(survivors), "same_adapter": len(adapters) == 1}
    facts["seconds"] = {"embedded": here.seconds[1:], "https": there.seconds[1:]}
    facts["cpu_s"] = {"embedded": here.worked[1:], "https": there.worked[1:]}
    facts["over_s"] = {"median": round(median(over), 3), "each": over}
    facts["load"] = [round(before, 1), round(os.getloadavg()[0], 1)]
    line = json.dumps(facts)
    with RESULT.open("a") as file:
        file.write(line + "\n")
    sys.stdout.write(line + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
