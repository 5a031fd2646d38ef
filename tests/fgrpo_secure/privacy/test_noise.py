"""Noise shares: what is added, what it is charged, and that the charge is true of the vectors themselves."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgrpo_secure.privacy import noise
from fgrpo_secure.privacy.encode import EncodedVector, Lattice
from fgrpo_secure.privacy.noise import NoisePlan, largest_multiplier

LATTICE = Lattice.build(1024, 1.0)


def encoded(values=(0, 0, 0), bound=5):
    return EncodedVector(np.array(values, np.int64), bound)


def test_a_share_is_added_to_the_vector_and_travels_with_it(entropy):
    plain = noise.add_share(encoded((0, 0, 0)), 100, entropy(1))
    shifted = noise.add_share(encoded((3, -4, 0)), 100, entropy(1))
    assert (shifted.values - plain.values).tolist() == [3, -4, 0]
    assert (shifted.bound, shifted.share_variance) == (5, 100)


def test_every_client_and_round_draws_its_own_share(entropy):
    shares = [noise.add_share(encoded([0] * 20), 100, entropy(seed)).values.tobytes() for seed in range(20)]
    assert len(set(shares)) == 20


def test_one_entropy_cannot_give_two_shares(entropy):
    source = entropy(1)
    noise.add_share(encoded(), 100, source)
    with pytest.raises(AssertionError, match="asked for twice"):
        noise.add_share(encoded(), 100, source)


@pytest.mark.parametrize("variance", [0, 1, 15, -100])
def test_a_share_too_small_to_add_up_is_refused(variance, entropy):
    with pytest.raises(ValueError, match=f"variance is {variance}; it must be at least 16"):
        noise.add_share(encoded(), variance, entropy(1))


def test_no_noise_is_explicit_and_marked():
    plain = noise.no_noise(encoded((1, 2, 2)))
    assert plain.values.tolist() == [1, 2, 2]
    assert plain.share_variance == 0


@given(st.floats(0.05, 50), st.integers(1, 300), st.integers(0, 40))
def test_the_fewest_survivors_reach_the_multiplier_and_no_smaller_share_would(multiplier, honest, colluders):
    plan = NoisePlan.build(LATTICE, multiplier, honest + colluders, colluders)
    wanted = Fraction(multiplier) ** 2 * LATTICE.integer_bound**2
    assert honest * plan.share_variance - 4 >= wanted
    assert plan.share_variance == 16 or honest * (plan.share_variance - 1) - 4 < wanted
    assert plan.charge == Fraction(LATTICE.integer_bound**2, honest * plan.share_variance - 4)
    assert float(plan.charge) <= multiplier**-2 * (1 + 1e-12)


def test_more_survivors_cost_less_and_colluders_noise_never_counts():
    plan = NoisePlan.build(LATTICE, 2.0, 20, 3)
    costs = [plan.settled(survivors) for survivors in range(20, 40)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] == plan.charge
    assert plan.settled(25) == Fraction(plan.integer_bound**2, 22 * plan.share_variance - 4)


def test_a_round_below_its_floor_has_no_price():
    with pytest.raises(ValueError, match="survivors is 19; a round never ends with fewer than 20"):
        NoisePlan.build(LATTICE, 2.0, 20, 3).settled(19)


@pytest.mark.parametrize("multiplier", [0.0, -1.0, math.nan, math.inf])
def test_a_multiplier_that_means_nothing_is_refused(multiplier):
    with pytest.raises(ValueError, match=r"noise_multiplier is .*; it must be above 0 and finite"):
        NoisePlan.build(LATTICE, multiplier, 10, 1)


@pytest.mark.parametrize(("floor", "colluders"), [(3, 3), (3, 4), (3, -1), (0, 0)])
def test_a_round_that_may_be_all_colluders_is_refused(floor, colluders):
    with pytest.raises(ValueError, match=f"colluders is {colluders}; it must be at least 0 and below the floor"):
        NoisePlan.build(LATTICE, 1.0, floor, colluders)


def test_more_noise_than_the_sampler_has_is_refused_with_the_most_it_has():
    most = largest_multiplier(LATTICE, 5, 1)
    assert NoisePlan.build(LATTICE, most * 0.999, 5, 1).share_variance <= 2**34
    with pytest.raises(ValueError, match=f"can add at most {most:.4g}"):
        NoisePlan.build(LATTICE, most * 1.001, 5, 1)


def test_the_charge_is_true_of_the_summed_vectors_and_weaker_noise_would_show(entropy):
    """The worst client, of norm B in one direction: its shift over the sum's measured deviation is mu."""
    lattice = Lattice.build(30, 1.0)
    plan = NoisePlan.build(lattice, 1.5, 6, 2)

    def measured_mu(variance):
        shares = [noise.add_share(encoded([0] * 100_000), variance, entropy((variance, i))) for i in range(4)]
        return lattice.integer_bound / np.std(np.sum([share.values for share in shares], axis=0))

    charged = math.sqrt(plan.charge)
    standard_error = 1 / math.sqrt(200_000)  # relative, of a deviation measured on 100,000 samples
    assert measured_mu(plan.share_variance) <= charged * (1 + 4 * standard_error)
    assert measured_mu(math.ceil(plan.share_variance * 0.95)) > charged * (1 + 4 * standard_error)


def test_noised_vectors_do_not_print(entropy):
    assert "array" not in repr(noise.add_share(encoded(), 100, entropy(1))) + repr(noise.no_noise(encoded()))


def test_the_samplers_largest_variance_is_within_its_range():
    lattice = Lattice.build(16, 1.0)
    largest = noise.largest_multiplier(lattice, 5, 1)
    assert noise.NoisePlan.build(lattice, largest * (1 - 1e-15), 5, 1).share_variance == 2**34
    with pytest.raises(ValueError, match="can add at most"):
        noise.NoisePlan.build(lattice, largest * (1 + 1e-12), 5, 1)
