"""A small federation over HTTPS on this machine: a certificate of its own, and a client for every owner."""

import datetime
import ipaddress
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fgrpo_secure import entropy
from fgrpo_secure.client.store import ClientStore
from fgrpo_secure.config import files as config_file
from fgrpo_secure.engines import enrolment
from fgrpo_secure.engines.host import Host
from fgrpo_secure.engines.https.client_loop import Serving
from fgrpo_secure.engines.https.dialer import Dialer, Dismissed, Place
from fgrpo_secure.engines.https.engine import HttpsEngine
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.storage import opening, owners_folder, rosters
from protocols.identity import Identity

CLIENTS = 5
TASKS = ("add", "sub", "mul", "sort", "rev")
FIVE = "".join(f'[[client]]\nname = "{task}"\ntask = "{task}"\n' for task in TASKS) + (
    '[run]\nentropy = "seeded"\n[adapter]\nrank = 1\n[federation]\nrounds = 1\nstep_seconds = 60\n'
    "[grpo]\nnum_generations = 4\nprompts_per_step = 2\n[evaluation]\nprompts = 4\nsamples = 1\nevery = 0\n"
    '[privacy]\nepsilon = 60.0\n[aggregation]\nadversary = "lying_server"\nmax_dropout = 0.2\n'
)
ONE_AT_A_TIME = threading.Lock()  # the libraries of models are for one thread


def certificate(folder, days=(-1, 30), name="server", address="127.0.0.1"):
    """(certificate, key) of this machine, valid from and to so many days from now."""
    key, today = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today + datetime.timedelta(days=days[0]))
        .not_valid_after(today + datetime.timedelta(days=days[1]))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return paths


def enrolled(config, directory):
    """(base model, policy) of a new run whose owners are enrolled; those of https have a store each."""
    base = models.load(config.model)
    adapted = adapters.attach(base, config.adapter, config.run.seed)
    directory.create(config_file.dump(config))
    source = entropy.from_kind(config.run.entropy, config.run.seed)
    enrolment.enrol(directory, config, base, adapted, source.child("enrolment"))
    return base, adapted


def seed(directory, client):
    with closing(ClientStore(owners_folder.store(directory.owners, client))) as store:
        return store.identity_seed(client)


def https_engine(directory, config, certificate, port=0, times=None, lines=None, host="127.0.0.1", pipe=None):
    """The engine of a run whose owners each have a host of their own; with a `pipe`, at that socket."""
    identity, known = rosters.server_identity(directory), (rosters.pins(directory).authority, rosters.roster(directory))
    run = bytes.fromhex(opening.read(directory).run)
    times = times or (config.federation.training_seconds, config.federation.step_seconds)
    log = [].append if lines is None else lines.append
    listen = (host, port) if pipe is None else pipe
    return HttpsEngine.open(directory.private / "https", identity, run, known, listen, certificate, times, log)


def place(directory, client, address, certificate, pipe=None):
    server, run = rosters.pins(directory).server, bytes.fromhex(opening.read(directory).run)
    identity = Identity.from_seed(seed(directory, client))
    url = f"https://{address[0]}:{address[1]}"
    return Place(url, server, run, client, identity, certificate and certificate[0].read_text(), pipe=pipe)


class HostHere:
    """What a session's process is, in the thread that asks."""

    def __init__(self, directory, config, client):
        self._open = lambda: Host.open(directory, config, client, CLIENTS)
        self._host = None

    @property
    def running(self):
        return self._host is not None

    def ask(self, request):
        with ONE_AT_A_TIME:
            if self._host is None:
                self._host = self._open()
            return list(self._host.handle(request))

    def end(self):
        if self._host is not None:
            self._host.close()


class ClientThread:
    """One owner's client, in a thread of this process."""

    def __init__(self, directory, config, client, address, certificate, pipe=None):
        self._place = place(directory, client, address, certificate, pipe)
        self._session = HostHere(directory, config, client)
        self._folder = directory.owners / f"daemon-{client}"
        self._folder.mkdir(exist_ok=True)
        self.lines: list[str] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def end(self):
        self._ends.set()

    def close(self):
        self._ends.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a client's thread did not end"

    def _serve(self):
        torch.set_num_threads(1)
        with closing(Dialer(self._place)) as dialer:
            serving = Serving(dialer, self._session, self._folder, self.lines.append, 1 << 30)
            original = dialer.next

            def until_closed():
                if self._ends.is_set():
                    raise Dismissed("closed")
                return original()

            dialer.next = until_closed
            try:
                serving.serve()
            except Dismissed:
                self._session.end()


class ClientProcess:
    """One owner's client as it really is: a daemon, and a process for its sessions."""

    def __init__(self, directory, client, address, certificate):
        program = Path(__file__).with_name("daemon.py")
        url = f"https://{address[0]}:{address[1]}"
        command = [sys.executable, str(program), str(directory.root), str(client), url, str(certificate[0])]
        self.log = directory.owners / f"daemon-{client}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        self.process.terminate()
        assert self.process.wait(60) == 0
