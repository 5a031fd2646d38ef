"""What the network between organisations costs: real client processes, TLS, signatures, answers on disk; no training.

    python benchmarks/network.py --clients 20 --bytes 1000 --steps 20     each step: a question to all, an answer of all
    python benchmarks/network.py --clients 100 --session                  a whole session, vectors of one coordinate

Each client is a process of its own with the daemon's own loop; what would be a process of its own for a session (books,
model, data) is an echo, or the protocol's client alone, in that process. Prints one JSON object:

    step_s         seconds of each step, as the server waits for it       idle_mib   memory of a client that waits, each
    server_cpu_s   of them, what the server's processor works             load       of the machine, before and after
    here_s         the same session with all clients in one process       over_here_s  what the network adds to it
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import ipaddress
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from network_client import AUTHORITY, RUN, SECONDS, SERVER, driver, plan, roster, vector

from fgrpo_secure.engines.https.engine import HttpsEngine
from protocols.roster import sign_roster


def certificate(folder: Path) -> tuple[Path, Path]:
    """(certificate, key) of 127.0.0.1 for a day."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = made.add_extension(address, False).add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    paths = folder / "tls.pem", folder / "tls.key"
    paths[0].write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return paths


class Timed:
    """The engine as the protocol's link, with each step's seconds."""

    def __init__(self, engine: HttpsEngine) -> None:
        self._engine = engine
        self.seconds: dict[str, float] = {}
        self.worked: dict[str, float] = {}

    def exchange(self, step: str, outgoing: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
        """One step."""
        began, worked = time.perf_counter(), time.process_time()
        yield from self._engine.exchange(str(step), dict(outgoing), SECONDS)
        self.seconds[str(step)] = round(time.perf_counter() - began, 3)
        self.worked[str(step)] = round(time.process_time() - worked, 3)


def whole_session(engine: HttpsEngine, clients: int) -> dict[str, Any]:
    """Two sessions over the network, of which the second counts: in the first clients load what they need; then the
    same in this process."""
    from protocols.drive import conduct

    for number in (1, 2):
        engine.invite(number, bytes(4), sign_roster(AUTHORITY, roster(clients)))
        link = Timed(engine)
        found, _ = conduct(SERVER, plan(clients, number), roster(clients), link)  # type: ignore[arg-type]
    right = int(found.totals["update"][0]) == sum(found.survivors)
    drivers = {client: driver(client, clients) for client in range(clients)}

    class Here:
        def exchange(self, step: Any, outgoing: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
            for client, message in outgoing.items():
                yield client, drivers[client].handle(step, message, vector(client))

    for number in (1, 2):
        began = time.perf_counter()
        conduct(SERVER, plan(clients, number), roster(clients), Here())
        here = round(time.perf_counter() - began, 3)
    over = round(sum(link.seconds.values()) - here, 3)
    facts = {"step_s": link.seconds, "server_cpu_s": link.worked, "here_s": here, "over_here_s": over}
    return facts | {"survivors": len(found.survivors), "sum_is_right": right}


def echoes(engine: HttpsEngine, clients: int, size: int, steps: int) -> dict[str, Any]:
    """Steps whose answers have `size` bytes; the first one, in which clients fetch the model, is not counted."""
    signed = sign_roster(AUTHORITY, roster(clients))
    link, most, held = Timed(engine), 0, 0
    taken: list[float] = []
    worked: list[float] = []
    for number in range(steps + 1):
        engine.invite(number + 1, bytes(max(4, size)), signed)
        outgoing = {client: number.to_bytes(4, "big") + bytes(min(size, 1000)) for client in range(clients)}
        for _, answer in link.exchange("mask", outgoing):
            hashlib.sha256(answer).digest()  # as whoever adds it up, from end to end
            now, mapped = own_memory()
            most, held = max(most, now + mapped), max(held, now)
        taken.append(link.seconds["mask"])
        worked.append(link.worked["mask"])
    found = {"median": round(median(taken[1:]), 3), "most": max(taken[1:])}
    memory = {"server_mib": held, "server_mib_with_files": most}
    return {"step_s": found, "server_cpu_s": round(median(worked), 3), **memory}


def own_memory() -> tuple[int, int]:
    """(this process' own memory, files that it looks at through its memory), in MiB: the system takes the second back
    whenever it needs it."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, files = (round(int(lines[name].split()[0]) / 1024) for name in ("RssAnon", "RssFile"))
    return own, files


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--bytes", type=int, default=1000, dest="size")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--session", action="store_true")
    asked = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pem, known = certificate(folder), (AUTHORITY.public, roster(asked.clients))
        listen, times = ("127.0.0.1", 0), (None, SECONDS)
        engine = HttpsEngine.open(folder / "server", SERVER, RUN, known, listen, pem, times, lambda _: None)
        command = [sys.executable, str(Path(__file__).with_name("network_client.py"))]
        kind = "session" if asked.session else "echo"
        where = [str(asked.clients), str(engine.address[1]), name, str(asked.size), kind]
        started = [subprocess.Popen([*command, str(number), *where]) for number in range(asked.clients)]
        try:
            while engine._desk.counts.requests < asked.clients:
                time.sleep(0.5)
            time.sleep(1.0)
            idle = [round(psutil.Process(each.pid).memory_info().rss / 2**20) for each in started]
            own_idle, files_idle = own_memory()
            if asked.session:
                found = whole_session(engine, asked.clients)
            else:
                found = echoes(engine, asked.clients, asked.size, asked.steps)
            engine._over = True
        finally:
            engine.close()
            for each in started:
                each.terminate()
                each.wait()
    load = [round(before, 1), round(os.getloadavg()[0], 1)]
    facts = {"clients": asked.clients, "bytes": asked.size, "idle_mib": {"median": median(idle), "most": max(idle)}}
    sys.stdout.write(
        json.dumps(
            facts
            | found
            | {"server_idle_mib": own_idle, "server_idle_mib_with_files": own_idle + files_idle, "load": load}
        )
        + "\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
