"""Sums over units: one unit more or less moves the integers by at most B, and coins and noise are what they claim."""

import math
from fractions import Fraction

import numpy as np
import pytest

from fgrpo_secure.entropy import OsEntropy, SeededEntropy
from fgrpo_secure.privacy import clip, encode, noise, units
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.privacy.encode import EncodedVector, Lattice, Score

DIMENSION = 200
LATTICE = Lattice.build(DIMENSION, 0.5)
SILENT = [Score(0.0, -1.0, 1.0)] * 2


def vector(seed, size=1.0):
    values = size * np.random.default_rng(seed).normal(size=DIMENSION)
    return encode.to_ring(clip.to_norm(Update(values), 0.5), SILENT, LATTICE, SeededEntropy(bytes([seed])))


def own(weight=0.9, gain=1.0):
    zero = clip.to_norm(Update.zero(DIMENSION), 0.5)
    return encode.to_ring(zero, [Score(weight, 0.5, 1.0), Score(gain, -2.0, 2.0)], LATTICE, SeededEntropy(b"s"))


def test_taking_one_unit_away_moves_the_sum_by_its_own_vector_and_at_most_by_the_bound():
    vectors = [vector(seed, size=10.0**power) for seed, power in enumerate((-9, -1, 0, 3, 150, 300))]
    everybody = units.total(vectors, own(), LATTICE)
    for index, left in enumerate(vectors):
        without = units.total(vectors[:index] + vectors[index + 1 :], own(), LATTICE)
        moved = everybody.values - without.values
        assert (moved == left.values).all()
        assert sum(int(value) ** 2 for value in moved) <= LATTICE.integer_bound**2


def test_no_units_at_all_still_make_a_vector_that_noise_can_be_added_to():
    empty = units.total([], own(), LATTICE)
    assert (empty.values[:DIMENSION] == 0).all()
    noised = noise.add_share(empty, 400, SeededEntropy(b"n"))
    assert np.std(noised.values[:DIMENSION]) > 15


def test_a_vector_of_another_bound_is_refused():
    with pytest.raises(ValueError, match="another bound"):
        units.total([EncodedVector(np.zeros(202, np.int64), LATTICE.integer_bound + 1)], own(), LATTICE)


def test_a_unit_whose_gradient_is_not_finite_adds_nothing():
    for bad in (math.nan, math.inf, -math.inf):
        values = np.ones(DIMENSION)
        values[7] = bad
        encoded = encode.to_ring(clip.to_norm(Update(values), 0.5), SILENT, LATTICE, SeededEntropy(b"x"))
        assert not encoded.values.any()


def test_the_noise_on_a_sum_of_units_has_the_variance_that_is_charged():
    """20,200 coordinates: the mean square lies within 5 standard errors of V = 900, and the fourth moment of 3 V^2."""
    many = units.total([vector(seed) for seed in range(3)], own(), LATTICE)
    draws = np.concatenate(
        [noise.add_share(many, 900, SeededEntropy(bytes([seed]))).values - many.values for seed in range(100)]
    ).astype(float)
    assert abs(np.mean(draws**2) - 900) < 5 * 900 * math.sqrt(2 / draws.size)
    assert abs(np.mean(draws**4) - 3 * 900**2) < 5 * 900**2 * math.sqrt(96 / draws.size)


# --------------------------------------------------------------------------------------------------------------- coins


def test_without_a_rate_everybody_takes_part():
    assert units.sampled(["a", "b"], None, SeededEntropy(b"c")) == ["a", "b"]


def test_coins_fall_at_the_stated_rate_from_the_operating_system():
    """20,000 coins: within 5 standard errors of the rate."""
    names = [str(number) for number in range(20_000)]
    for rate in (0.05, 0.5, 0.9):
        seen = len(units.sampled(names, rate, OsEntropy())) / len(names)
        assert abs(seen - rate) < 5 * math.sqrt(rate * (1 - rate) / len(names))


def test_one_units_presence_does_not_move_the_coin_of_another():
    names = [str(number) for number in range(200)]
    everybody = units.sampled(names, 0.4, SeededEntropy(b"c"))
    without = units.sampled(names[1:], 0.4, SeededEntropy(b"c"))
    assert [name for name in everybody if name != "0"] == without


# ------------------------------------------------------------------------------------------------------------- rewards


def test_one_units_reward_moves_the_noised_mean_by_at_most_half_the_range_over_the_expected_number():
    means = [0.2, 0.9, 5.0, -7.0, math.inf, -math.inf, math.nan, 1e308]
    for index in range(len(means)):
        everybody, without = (
            units.noised_rewards(part, (0.0, 1.0), 2.0, 8.0, SeededEntropy(b"r"))
            for part in (means, means[:index] + means[index + 1 :])
        )
        assert abs(everybody[0] - without[0]) <= 0.5 / 8.0 + 1e-12
        assert everybody[1] == without[1]


def test_the_noise_on_rewards_is_what_is_charged():
    """Charge 1 / z^2 with z = 3; 2,000 draws of the mean of four units within 5 standard errors."""
    assert float(units.reward_charge(3.0)) == pytest.approx(1 / 9, rel=1e-5)
    assert units.reward_charge(3.0) == Fraction(1000**2, units.reward_variance(3.0) - 4)
    assert units.reward_charge(None) == 0
    made = [
        units.noised_rewards([1.0, 2.0, 3.0, 2.0], (0.0, 4.0), 3.0, 4.0, SeededEntropy(seed.to_bytes(2, "big")))
        for seed in range(2000)
    ]
    draws = np.array([mean for mean, _ in made])
    deviation = 3.0 * 2.0 / 4.0
    assert made[0][1] == pytest.approx(deviation, rel=1e-3)
    assert abs(draws.mean() - 2.0) < 5 * deviation / math.sqrt(2000)
    assert abs(draws.std() - deviation) < 5 * deviation / math.sqrt(4000)


def test_the_noised_mean_is_that_of_the_clipped_rewards_over_the_expected_number(entropy):
    """Noise of 10 lattice steps of 1,000: within 6 deviations of the mean that is computed without noise."""
    source = entropy(4)
    mean, error = units.noised_rewards([5.0, 9.0, 1.0, math.nan], (1.0, 5.0), 0.01, 5, source)
    assert source.labels == [("rewards",)]
    deviation = math.sqrt(units.reward_variance(0.01)) * 2 / 1000 / 5
    assert error == pytest.approx(deviation, rel=1e-12)
    assert abs(mean - (3 + (2 + 2 - 2) / 5)) < 6 * deviation
