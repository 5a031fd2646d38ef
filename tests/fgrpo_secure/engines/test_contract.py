"""What every engine must do, asked of each: the same bytes reach the same parties, and the same adapter comes out."""

from contextlib import ExitStack

import numpy as np
import pytest

from fgrpo_secure.engines.embedded import Embedded
from fgrpo_secure.engines.https import question as questions
from fgrpo_secure.engines.https.unix_pipe import Pipe
from fgrpo_secure.server.federation import Federation
from fgrpo_secure.storage.client_folder import Kept
from tests.fgrpo_secure.engines import postgres
from tests.fgrpo_secure.engines.federations import CLIENTS, FIVE, ClientThread, certificate, enrolled, https_engine
from tests.fgrpo_secure.engines.pipes import meeting_place, needs_root, piped
from tests.fgrpo_secure.engines.ray_cluster import cluster

EVERYBODY = range(CLIENTS)


class OnEmbedded:
    name = configured = "embedded"
    processes = 1

    def __init__(self, config, directory, folder):
        self.engine = Embedded.start(directory, config)

    def close(self):
        self.engine.close()


class OnHttps:
    name, configured = "https", "embedded"  # five owners of a trial, each behind a client of its own
    processes = CLIENTS

    def __init__(self, config, directory, folder):
        pem = certificate(folder)
        self.engine = https_engine(directory, config, pem, times=(None, 60))
        self.clients = [ClientThread(directory, config, client, self.engine.address, pem) for client in EVERYBODY]

    def close(self):
        for client in self.clients:
            client.end()
        self.engine.close()
        for client in self.clients:
            client.close()


class OnPipe(OnHttps):
    """Over a pipe that another user runs, one socket for each owner. Each client asks the kernel who that is."""

    name = "pipe"
    hostile = False

    def __init__(self, config, directory, folder):
        self._open = ExitStack()
        place = self._open.enter_context(meeting_place())
        sockets = [place / f"owner{client}" for client in EVERYBODY]
        self.engine = https_engine(directory, config, None, times=(None, 280), pipe=place / "server")
        self._open.enter_context(piped(sockets, place / "server", hostile=self.hostile))
        kept = Kept((directory.owners, directory.private), ())
        pipes = [Pipe(path, lambda: kept) for path in sockets]
        self.clients = [ClientThread(directory, config, i, self.engine.address, None, pipes[i]) for i in EVERYBODY]

    def close(self):
        super().close()
        self._open.close()


class OnHostilePipe(OnPipe):
    """The pipe drops, repeats, reorders, changes and invents: still nothing counts but what the parties sent."""

    name = "hostile pipe"
    hostile = True

    def close(self):
        heard = [line for client in self.clients for line in client.lines]
        super().close()
        assert any("the server is not reached" in line for line in heard), "the pipe did nothing"


class OnRay(OnEmbedded):
    """Hosts as actors on the two nodes of a cluster."""

    name = configured = "ray"
    processes = 2

    def __init__(self, config, directory, folder):
        self._cluster = cluster(2)
        self._cluster.__enter__()
        super().__init__(config, directory, folder)

    def close(self):
        super().close()
        self._cluster.__exit__(None, None, None)


class OnWorkers(OnHttps):
    """Two workers over one PostgreSQL: clients dial one or the other, whoever conducts their session."""

    name = "workers"

    def __init__(self, config, directory, folder):
        self._open = ExitStack()
        text = self._open.enter_context(postgres.cluster())
        from tests.fgrpo_secure.engines.workers_here import WorkersHere  # needs the extra

        pem = certificate(folder)
        self._workers = WorkersHere(config, directory, text, pem)
        self.engine, self.elsewhere, at = self._workers.engine, self._workers.coordination, self._workers.addresses
        self.clients = [ClientThread(directory, config, client, at[client % 2], pem) for client in EVERYBODY]

    def close(self):
        for client in self.clients:
            client.end()
        self._workers.close()
        for client in self.clients:
            client.close()
        self._open.close()


KINDS = [
    OnEmbedded,
    OnHttps,
    OnWorkers,
    pytest.param(OnRay, marks=pytest.mark.timeout(900)),
    *(pytest.param(kind, marks=needs_root) for kind in (OnPipe, OnHostilePipe)),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request):
    return request.param


@pytest.fixture
def federate(trial, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(questions, "LARGE", 0)  # every upload is one that is not read whole
    opened = []

    def make(*overrides):
        kinds = (f"engine.processes={kind.processes}", f"engine.kind={kind.configured}")
        config, directory = trial.configure(*kinds, *overrides, text=FIVE)
        base, adapted = enrolled(config, directory)
        opened.append(kind(config, directory, tmp_path))
        federation = Federation.open(config, directory, base, adapted, opened[-1].engine)
        federation.elsewhere = getattr(opened[-1], "elsewhere", None)
        return federation

    yield make
    for made in opened:
        made.close()


def adapter_after_a_round(federation: Federation):
    federation.conduct(0, lambda *_: None)
    return federation.adapted.get_vector(0)


ADAPTERS: dict[str, bytes] = {}  # by engine: what the same seed gave


def test_a_round_gives_the_adapter_that_the_seed_gives(federate, kind):
    federation = federate()
    vector = adapter_after_a_round(federation)
    assert np.any(vector)
    ADAPTERS[kind.name] = vector.tobytes()
    assert len(set(ADAPTERS.values())) == 1
    assert federation.engine.refusals == {}
    assert federation.directory.notes.exists(), "nobody signed"
