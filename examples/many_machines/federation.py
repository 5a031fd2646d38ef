"""A federation as it is on many machines, played on this one: every organisation a folder and processes of its own.

    authority   signs who takes part; needs no network
    server      conducts the rounds, over HTTPS with a certificate made here
    north ...   five clients that dial out, each with data, policy and books of its own
    auditor     has the run directory and two public keys, and nothing else

What is typed on each machine is printed as it is typed. Files are handed over by copies, which are printed, too. At the
end the auditor verifies the run, and every folder is searched for secrets of the others.

    python examples/many_machines/federation.py [FOLDER]
"""

import datetime
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fgrpo_secure.learning.tasks import problems

TASKS = {"north": "add", "south": "sub", "east": "sort", "west": "rev", "centre": "cnt"}
ROWS = 60
MARK = ".trial-of-many-machines"  # whoever has it in a folder allows that folder to be replaced
LONGEST = 1800.0  # seconds that all rounds may take


class Machine:
    """A folder that stands for a machine: what runs there starts in it, and finds its files alone."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.folder = name, root / name
        self.folder.mkdir(mode=0o700)
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._environment = os.environ | {"HOME": str(self.folder), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self._environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

    def fgrpo(self, *arguments: str) -> str:
        """What a command says; ends the trial with its one sentence if it fails."""
        self._say(arguments)
        done = subprocess.run(
            self._command(arguments),
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{self.name}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip()

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """A process that goes on; what it says is in its machine's output.log."""
        self._say(arguments)
        with (self.folder / "output.log").open("ab") as log:
            return subprocess.Popen(
                self._command(arguments),
                cwd=self.folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def hand(self, file: Path | str, other: "Machine", name: str | None = None) -> None:
        """Give a copy of a file or folder to another machine: that is all that ever passes but for the network."""
        source = self.folder / file
        target = other.folder / (name or source.name)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        say(f"{self.name} -> {other.name}: {target.name}")

    def _say(self, arguments: tuple[str, ...]) -> None:
        shown = " ".join(f"{word[:8]}..." if len(word) == 64 else word for word in arguments)
        say(f"{self.name}$ fgrpo {shown[:150]}")

    @staticmethod
    def _command(arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-P", "-m", "fgrpo_secure", *arguments]


def say(line: str) -> None:
    """A line for whoever watches."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def certificates(folder: Path) -> None:
    """A certificate authority of the server's own, and its certificate for this machine: ca.pem, tls.pem, tls.key."""
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("trial authority", "localhost")]
    hosts = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key())
    for index, file in enumerate(("ca.pem", "tls.pem")):
        built = (
            x509.CertificateBuilder()
            .subject_name(names[index])
            .issuer_name(names[0])
            .public_key(keys[index].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=index == 0, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(keys[index].public_key()), critical=False)
            .add_extension(issuer, critical=False)
        )
        built = built.add_extension(_usage(index == 0), critical=True)
        built = built.add_extension(hosts, critical=False) if index else built
        signed = built.sign(keys[0], hashes.SHA256())
        (folder / file).write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    secret = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with open(os.open(folder / "tls.key", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as kept:
        kept.write(secret)


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def plant(name: str) -> str:
    """What stands in every row of an owner's data, where no reward and no model looks at it."""
    return f"note-of-{name}-that-nobody-else-may-have"


def write_data(machine: Machine) -> None:
    """Rows of one task, each with a note that would give its owner away."""
    rows = problems(TASKS[machine.name], 1, "train", 7, ROWS)
    lines = [{"prompt": row.prompt, "answer": row.answer, "note": plant(machine.name)} for row in rows]
    (machine.folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def conduct(server: Machine, clients: list[Machine], port: int) -> None:
    """Server and clients as processes, until the run is over."""
    listen = ("--listen", f"127.0.0.1:{port}", "--certificate", "tls.pem", "--key", "tls.key")
    conducting = server.start("server", "start", "runs/five", *listen)
    running = {client.name: client.start("client", "start", "client") for client in clients}
    try:
        code = conducting.wait(LONGEST)
    except subprocess.TimeoutExpired:
        code = 1
    finally:
        for client in clients:
            try:
                running[client.name].wait(60 if conducting.poll() == 0 else 0)
            except subprocess.TimeoutExpired:
                client.fgrpo("client", "stop", "client")
        if conducting.poll() is None:
            os.killpg(conducting.pid, signal.SIGTERM)
            conducting.wait()
    if code:
        sys.exit(f"the server ended with {code}: {(server.folder / 'output.log').read_text()[-2000:]}")


def search(folders: dict[str, Path], secrets: dict[str, list[bytes]]) -> list[str]:
    """Where a secret lies that is another machine's, as a sentence each."""
    found = []
    for place, folder in folders.items():
        held = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
        for owner, values in secrets.items():
            hits = sum(value in data or value.hex().encode() in data for value in values for data in held)
            if place == owner and not hits:
                found.append(f"the search is broken: it does not find {owner}'s own secrets where they are")
            if place != owner and hits:
                found.append(f"{place} holds {hits} times what is {owner}'s secret")
    return found


def identity(file: Path) -> bytes:
    """The 32 secret bytes in an identity file."""
    return bytes.fromhex(file.read_text().split('seed = "')[1][:64])


def play(root: Path) -> None:
    """The whole story; ends the process with one sentence if something fails."""
    started = time.monotonic()
    authority, server, auditor = (Machine(name, root) for name in ("authority", "server", "auditor"))
    clients = [Machine(name, root) for name in TASKS]
    key = authority.fgrpo("authority", "new", "keys")
    secrets = {"authority": [identity(authority.folder / "keys" / "authority.identity")]}
    for client in clients:
        write_data(client)
        given = ("--name", client.name, "--data", "rows.jsonl", "--reward", "partial")
        line = client.fgrpo("client", "new", "client", *given)
        (client.folder / "enrolment.txt").write_text(f"{line}\n")
        client.hand("enrolment.txt", authority, f"{client.name}.txt")
        secrets[client.name] = [identity(client.folder / "client" / "client.identity"), plant(client.name).encode()]
    authority.fgrpo("authority", "sign", "keys", *(f"{client.name}.txt" for client in clients))
    authority.hand("keys/roster.bin", server)
    shutil.copy(Path(__file__).with_name("run.toml"), server.folder)
    certificates(server.folder)
    server_key = server.fgrpo("server", "new", "run.toml", "--authority", key)
    secrets["server"] = [(server.folder / "runs" / "five.server" / "server.key").read_bytes()]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    address = ("--url", f"https://localhost:{port}", "--ca", "ca.pem", "--out", "invitation.json")
    server.fgrpo("server", "invite", "runs/five", "--roster", "roster.bin", *address)
    for client in clients:
        server.hand("invitation.json", client)
        shown = client.fgrpo("client", "join", "client", "invitation.json", "--yes")
    say("\n".join(f"    {line}" for line in shown.splitlines()))
    prepared = time.monotonic()
    conduct(server, clients, port)
    say(f"three rounds in {time.monotonic() - prepared:.0f} s, preparation {prepared - started:.0f} s")
    server.hand("runs/five", auditor)
    verified = auditor.fgrpo("verify", "five", "--authority", key, "--server", server_key)
    say("\n".join(f"    {line}" for line in verified.splitlines()))
    found = search({each.name: each.folder for each in (authority, server, auditor, *clients)}, secrets)
    if found:
        sys.exit("; ".join(found))
    say(f"no folder of {len(secrets)} holds a secret of another (searched: keys, and a note in every row of data)")


def main(arguments: list[str]) -> None:
    """Play it in the folder that is given, or in runs/federation."""
    root = Path(arguments[0] if arguments else "runs/federation").resolve()
    if root.exists() and not (root / MARK).exists():
        sys.exit(f"{root} exists and is no trial of this script; give a folder that is not there")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True, mode=0o700)
    (root / MARK).touch()
    play(root)


if __name__ == "__main__":
    main(sys.argv[1:])
