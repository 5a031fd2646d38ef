"""Five clients as processes of their own, TLS between: the adapter of the embedded engine, bit by bit, and a clean end.

One of them is killed with everything that it is doing and comes back: it answers the same question from its records.
"""

import os
import signal
import subprocess
import time
from contextlib import suppress

import psutil
import pytest

from fgrpo_secure.engines.embedded import Embedded
from fgrpo_secure.server.federation import Federation
from tests.fgrpo_secure.engines.federations import CLIENTS, FIVE, ClientProcess, certificate, enrolled, https_engine

TRAINING = 90
ALL = f"federation.training_seconds={TRAINING}"


def adapter(federation):
    federation.conduct(0, lambda *_: None)
    return federation.adapted.get_vector(0).tobytes()


def embedded(trial):
    config, directory = trial.configure("engine.processes=1", ALL, text=FIVE, name="embedded")
    base, adapted = enrolled(config, directory)
    trial.engines.append(Embedded.start(directory, config))
    return adapter(Federation.open(config, directory, base, adapted, trial.engines[-1]))


def kill_all(client):
    """The daemon and the process of its session, which starts a group of its own."""
    for child in psutil.Process(client.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    client.kill()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_processes_give_the_adapter_of_the_seed_and_one_that_was_killed_takes_its_place_again(trial, tmp_path):
    expected = embedded(trial)
    config, directory = trial.configure(f"engine.processes={CLIENTS}", ALL, text=FIVE)
    base, adapted = enrolled(config, directory)
    pem = certificate(tmp_path)
    engine = https_engine(directory, config, pem, times=(TRAINING, 120))
    clients = [ClientProcess(directory, client, engine.address, pem) for client in range(CLIENTS)]
    original, seen = engine.exchange, []

    def killing(step, outgoing, seconds):
        seen.append((step, time.monotonic()))
        if step == "agree":  # its vector has left; what follows must come from its records
            kill_all(clients[2])
            clients[2] = ClientProcess(directory, 2, engine.address, pem)
        yield from original(step, outgoing, seconds)

    engine.exchange = killing
    federation = Federation.open(config, directory, base, adapted, engine)
    try:
        assert adapter(federation) == expected
        steps = dict(seen)
        assert steps["share"] - steps["announce"] >= TRAINING, "somebody announced before the deadline"
        assert engine.refusals == {}
        assert directory.notes.exists()
    finally:
        engine._over = True
        engine.close()
        for client in clients:
            with suppress(subprocess.TimeoutExpired):
                client.process.wait(20)
            client.process.send_signal(signal.SIGKILL)
    assert [client.process.returncode for client in clients] == [os.EX_OK] * CLIENTS, "not all heard that it is over"
