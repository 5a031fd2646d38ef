"""What the bound on the decoded sum stops, and what a lying client can still do: docs/explanation/lying-clients.md."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgrpo_secure.privacy import discrete_gaussian, encode
from fgrpo_secure.privacy.encode import Lattice, SumOutOfBounds
from protocols import ring

SURVIVORS = 5
LATTICE = Lattice.build(60, 1.0)
VARIANCE = 400
BITS = encode.required_ring_bits(LATTICE, SURVIVORS, discrete_gaussian.largest_sample(VARIANCE))
BOUND = encode.sum_bound(LATTICE, SURVIVORS, VARIANCE)


def honest_sum(seed, clients=SURVIVORS - 1):
    """The sum of honest clients' vectors of full norm, with their noise."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(clients, LATTICE.length))
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    vectors = np.trunc(directions / lengths * LATTICE.integer_bound).astype(np.int64)
    noise = sum(
        discrete_gaussian.sample(discrete_gaussian.table(VARIANCE), LATTICE.length, bytes([seed, i]) * 16)
        for i in range(clients)
    )
    return vectors.sum(axis=0) + noise


def accepted(total):
    """Whether the server goes on with a sum, as it decodes it from the ring."""
    decoded = ring.to_signed(ring.to_ring(total, BITS), BITS)
    try:
        encode.check_sum(decoded, LATTICE, SURVIVORS, VARIANCE)
    except SumOutOfBounds:
        return False
    return True


def farthest_lie(honest, direction):
    """The longest lie in a direction that goes through, in lattice steps."""
    low, high = 0, 4 * BOUND
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if accepted(honest + middle * direction) else (low, middle)
    return low


@given(seed=st.integers(0, 255), place=st.integers(0, LATTICE.length - 1), sign=st.sampled_from([1, -1]))
def test_a_liar_moves_a_round_by_at_most_the_bound_and_the_honest_sum(seed, place, sign):
    honest, direction = honest_sum(seed), np.zeros(LATTICE.length, np.int64)
    direction[place] = sign
    longest = farthest_lie(honest, direction)
    assert longest <= BOUND + np.linalg.norm(honest) + 1
    assert np.linalg.norm(honest + longest * direction) <= BOUND


def test_what_remains_a_liar_is_worth_several_honest_clients():
    """Stated as a limit, not as a success: the bound is that of all survivors together."""
    direction = np.zeros(LATTICE.length, np.int64)
    direction[0] = 1
    longest = min(farthest_lie(honest_sum(seed), direction) for seed in range(5))
    assert longest > 3 * LATTICE.integer_bound
    assert longest < 2 * SURVIVORS * LATTICE.integer_bound + 2 * BOUND


def test_what_remains_a_liar_can_waste_a_round_unnamed():
    honest = honest_sum(1)
    with pytest.raises(SumOutOfBounds) as caught:
        encode.check_sum(honest + 4 * BOUND, LATTICE, SURVIVORS, VARIANCE)
    assert "client" not in str(caught.value).replace("clients", "")


@given(seed=st.integers(0, 255), turns=st.integers(-3, 3), place=st.integers(0, LATTICE.length - 1))
def test_wrapping_around_the_ring_gets_nothing_past_the_bound(seed, turns, place):
    """What is checked is what is decoded: a whole turn is nothing, half a turn is out of bounds."""
    honest, turn = honest_sum(seed), np.zeros(LATTICE.length, np.int64)
    turn[place] = 2**BITS * turns
    assert accepted(honest + turn)
    turn[place] += 2 ** (BITS - 1) - 1 - honest[place]
    assert accepted(honest + turn) == (
        math.hypot(2 ** (BITS - 1) - 1, np.linalg.norm(np.delete(honest, place))) <= BOUND
    )


def test_the_bound_is_the_documented_formula():
    x = 40 * math.log(2)
    noise = math.sqrt(SURVIVORS * VARIANCE * (LATTICE.length + 2 * math.sqrt(LATTICE.length * x) + 2 * x))
    assert math.ceil(SURVIVORS * LATTICE.integer_bound + noise) == BOUND
