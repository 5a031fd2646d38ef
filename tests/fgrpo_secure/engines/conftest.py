"""A server's engine on this machine without any model: identities, a roster, a certificate, and raw requests."""

import ssl
import threading
from contextlib import closing

import httpx
import pytest

from fgrpo_secure.engines.https import dialer, signing
from fgrpo_secure.engines.https import question as questions
from fgrpo_secure.engines.https.dialer import Dialer, Place
from fgrpo_secure.engines.https.engine import HttpsEngine
from protocols.identity import Identity
from protocols.roster import Entry, Roster, sign_roster
from tests.fgrpo_secure.engines import postgres
from tests.fgrpo_secure.engines.federations import certificate as made_certificate

RUN = bytes(range(16))


def identity(number):
    return Identity.from_seed(bytes([number]) * 32)


AUTHORITY, SERVER = identity(101), identity(102)
CLIENTS = [identity(number) for number in range(5)]
ROSTER = Roster(1, AUTHORITY.public, tuple(Entry(i, f"client{i}", each.public) for i, each in enumerate(CLIENTS)))
SIGNED = sign_roster(AUTHORITY, ROSTER)


class Wire:
    """An engine that listens, and what is needed to speak to it."""

    def __init__(self, folder, pem, times=(None, 5), client_ca=None):
        self.folder, self.pem, self.times, self.client_ca = folder, pem, times, client_ca
        self.lines: list[str] = []
        self.roster = ROSTER
        self.engine = self._open(0)
        self.port = self.engine.address[1]

    def _open(self, port):
        known, listen, log = (AUTHORITY.public, self.roster), ("127.0.0.1", port), self.lines.append
        return HttpsEngine.open(self.folder, SERVER, RUN, known, listen, self.pem, self.times, log, self.client_ca)

    def restart(self):
        """The server's process dies and another one takes its place; what is on disk is what there is."""
        self.engine.close()
        self.engine = self._open(self.port)

    @property
    def counts(self):
        return self.engine._desk.counts

    def dialer(self, client=0, server=SERVER, who=None, certificate=None):
        url = f"https://127.0.0.1:{self.port}"
        own, ca = who or CLIENTS[client], self.pem[0].read_text()
        return Dialer(Place(url, server.public, RUN, client, own, ca, certificate=certificate))

    def tls(self):
        return ssl.create_default_context(cafile=str(self.pem[0]))

    def send(self, method, path, query="", body=b"", credentials=None, headers=None, **more):
        """One request with these credentials, whatever they say."""
        sent = {signing.VERSION_HEADER: "1"} | ({signing.AUTHORIZATION: credentials.write()} if credentials else {})
        url = f"https://127.0.0.1:{self.port}/v1{path}" + (f"?{query}" if query else "")
        with httpx.Client(verify=self.tls(), trust_env=False) as client:
            return client.request(method, url, headers=sent | (headers or {}), content=more.get("content", body))

    def ask(self, step, outgoing, seconds=5.0):
        """A step in a thread; gives a list that fills with answers, and the thread."""
        answers: list[tuple[int, bytes]] = []
        thread = threading.Thread(
            target=lambda: answers.extend(self.engine.exchange(step, outgoing, seconds)), daemon=True
        )
        thread.start()
        return answers, thread

    def answer(self, client, payload):
        """Client `client` waits for its question and answers it."""
        with closing(self.dialer(client)) as line:
            question = line.next()
            assert question is not None
            line.put(question.id, questions.write_answer(questions.Answered(payload)))
        return question


@pytest.fixture(scope="session")
def pem(tmp_path_factory):
    return made_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def wire(tmp_path, pem):
    made = Wire(tmp_path / "server", pem)
    made.engine.invite(7, b"a model", SIGNED)
    yield made
    made.engine.close()


@pytest.fixture
def quick(monkeypatch):
    """A client that does not wait long for a server that says nothing."""
    monkeypatch.setattr(dialer, "SILENCE", 3.0)


# ------------------------------------------------------------------------------------------- several workers' database

TABLES = ("schema", "run", "seat", "client", "blob", "session", "question", "answer", "piece")


@pytest.fixture(scope="module")
def postgres_text():
    with postgres.cluster() as made:
        yield made


@pytest.fixture
def database(postgres_text, tmp_path):
    """An empty database, with the tables in it."""
    from fgrpo_secure.engines.workers import schema  # here and below: they need the extra
    from fgrpo_secure.engines.workers.database import Address, Database

    def drop(cursor):
        for table in TABLES:
            cursor.execute(f"DROP TABLE IF EXISTS fgrpo_{table} CASCADE".encode())

    with closing(Database(Address.read(postgres.address_file(tmp_path, postgres_text)))) as made:
        made.transact(drop)
        schema.make(made)
        made.transact(lambda cursor: cursor.execute("INSERT INTO fgrpo_run VALUES (%s, 2, false, 0)", [RUN]))
        yield made


@pytest.fixture
def leases(database, monkeypatch):
    """Takes seats with a lease of a second; what is not closed is as dead as a killed process."""
    from fgrpo_secure.engines.workers import seats

    monkeypatch.setattr(seats, "LEASE", 1.0)
    made = []

    def take(number):
        made.append(seats.Lease(database, RUN, number))
        return made[-1]

    yield take
    for lease in made:
        lease.close()
