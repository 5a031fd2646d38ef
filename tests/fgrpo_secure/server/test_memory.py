"""What a server holds of a big adapter after a session: a few vectors, however many clients there were."""

import tracemalloc
from fractions import Fraction

import numpy as np

from fgrpo_secure.config.files import parse
from fgrpo_secure.config.schema import Server
from fgrpo_secure.plan import round_settings
from fgrpo_secure.plan.terms import Admitted
from fgrpo_secure.privacy.encode import Lattice
from fgrpo_secure.server import round as server_round
from fgrpo_secure.server.optimizer import ServerOptimizer
from protocols.server import Recovered

LENGTH = 400_000


def test_a_step_of_a_big_adapter_takes_three_vectors_beside_the_sum_and_the_adapter():
    """Of numpy's, which are counted here: those of a decoded sum are gone when the optimiser makes its own."""
    table = {"client": [{"name": "a", "task": "add"}], "privacy": {"unit": "none", "clip_norm": 1.0}}
    settings = round_settings.for_round(parse(table, "test"), 0, 0)
    admitted = Admitted(settings, Lattice.build(LENGTH, 1.0, 2), 0, Fraction(0))
    draws = np.random.default_rng(0).integers(-5, 6, LENGTH)
    ended = Recovered({"update": draws, "scores": np.zeros(2, np.int64)}, (0, 1, 2, 3, 4), (), {})
    vector = np.zeros(LENGTH)
    tracemalloc.start()
    try:
        concluded = server_round.conclude(ended, admitted, vector, "AB", ServerOptimizer(Server()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.linalg.norm(concluded.vector) > 0
    assert peak < 3.5 * vector.nbytes
