"""Encoding: one exact integer bound over update and scores, unbiased rounding, room in the ring, decoding."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats  # type: ignore[import-untyped]  # scipy ships no types

from fgrpo_secure.entropy import SeededEntropy
from fgrpo_secure.privacy import clip, discrete_gaussian, encode
from fgrpo_secure.privacy.clip import ClippedUpdate, Update
from fgrpo_secure.privacy.encode import Lattice, Score, SumOutOfBounds, from_ring, to_ring
from protocols import ring

RANGES = ((0.5, 1.0), (-2.0, 2.0))


def scores(weight=0.75, gain=0.0):
    return Score(weight, *RANGES[0]), Score(gain, *RANGES[1])


def square(values):
    return sum(int(value) ** 2 for value in values)


@pytest.mark.parametrize(("dimension", "bound"), [(1, 6), (7, 14), (1024, 163), (20_000, 719), (10**6, 5075)])
def test_the_bound_is_that_of_the_joint_vector_and_ignores_the_clip_norm(dimension, bound):
    radius, length = 5 * math.sqrt(dimension) * math.sqrt(1 + 2 * 0.1**2), dimension + 2
    usually = math.sqrt(
        radius**2 + length / 4 + math.sqrt(2 * math.log(math.e**0.5)) * (radius + math.sqrt(length) / 2)
    )
    assert Lattice.build(dimension, 1.0).integer_bound == bound == math.ceil(min(usually, radius + math.sqrt(length)))
    assert Lattice.build(dimension, 37.5).integer_bound == bound


def test_update_and_scores_at_their_limits_together_stay_below_the_bound():
    lattice = Lattice.build(1024, 3.0)
    longest = (lattice.scale * 3.0) ** 2 + 2 * lattice.score_radius**2
    assert math.sqrt(longest) == pytest.approx(5 * math.sqrt(1024 * 1.02))
    assert longest < lattice.integer_bound**2


@given(
    hnp.arrays(np.float64, st.sampled_from([1, 2, 3, 7, 33]), elements=st.floats(width=64)),
    st.floats(),
    st.floats(),
    st.integers(0, 2**32),
)
def test_no_input_at_all_encodes_to_more_than_the_bound(values, weight, gain, seed):
    lattice = Lattice.build(len(values), 1.0)
    source = SeededEntropy(str(seed).encode())
    for clipped in (clip.to_norm(Update(values), 1.0), ClippedUpdate(values, 1.0)):
        encoded = to_ring(clipped, scores(weight, gain), lattice, source)
        assert square(encoded.values) <= lattice.integer_bound**2
        assert encoded.bound == lattice.integer_bound


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30, 3.0])
def test_what_slips_past_the_clip_is_sent_as_zero_without_a_warning(bad, entropy):
    lattice = Lattice.build(4, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded = to_ring(ClippedUpdate(np.full(4, bad), 1.0), scores(), lattice, entropy(1))
    assert not encoded.values.any()


def test_rounding_that_breaks_the_bound_is_tried_again_and_then_truncated(entropy):
    lattice = dataclasses.replace(Lattice.build(4, 4.0, scores=0), scale=1.0, integer_bound=2)
    source = entropy(5)
    encoded = to_ring(ClippedUpdate(np.full(4, -1.99), 4.0), (), lattice, source)
    assert encoded.values.tolist() == [-1, -1, -1, -1]
    assert len(source.labels) == 8


def test_truncation_that_breaks_the_bound_too_is_sent_as_zero(entropy):
    lattice = dataclasses.replace(Lattice.build(4, 4.0, scores=0), scale=1.0, integer_bound=3)
    encoded = to_ring(ClippedUpdate(np.full(4, 2.5), 4.0), (), lattice, entropy(5))
    assert encoded.values.tolist() == [0, 0, 0, 0]


def test_rounding_is_unbiased(entropy):
    lattice = Lattice.build(200, 1.0)
    clipped = clip.to_norm(Update(np.random.default_rng(3).normal(size=200)), 1.0)
    runs = 3000
    total = sum(to_ring(clipped, scores(0.6, 1.5), lattice, entropy(seed)).values for seed in range(runs))
    exact = np.append(clipped.values * lattice.scale, np.array([-0.6, 0.75]) * lattice.score_radius)
    fraction = exact - np.floor(exact)
    error = (total / runs - exact) / np.sqrt(np.maximum(fraction * (1 - fraction), 1e-3) / runs)
    assert np.abs(error).max() < 5  # 202 coordinates: 5 standard errors have probability 1e-4 in all


def test_encoding_depends_on_the_entropy_and_on_nothing_else():
    lattice = Lattice.build(50, 1.0)
    clipped = clip.to_norm(Update(np.linspace(-1, 1, 50)), 1.0)
    first, again, other = (
        to_ring(clipped, scores(), lattice, SeededEntropy(seed)).values for seed in (b"a", b"a", b"b")
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_decoded_sum_differs_from_the_float_sum_by_less_than_one_step_per_client(entropy):
    generator = np.random.default_rng(4)
    lattice = Lattice.build(300, 0.7)
    clients = [clip.to_norm(Update(generator.normal(size=300)), 0.7).times(w) for w in (0.5, 0.8, 1.0)]
    weights, gains = (0.5, 0.8, 1.0), (-2.0, 0.25, 2.0)
    encoded = [
        to_ring(clipped, scores(w, g), lattice, entropy(i))
        for i, (clipped, w, g) in enumerate(zip(clients, weights, gains, strict=True))
    ]
    decoded = from_ring(np.sum([each.values for each in encoded], axis=0), lattice, RANGES, 3)
    exact = sum(clipped.values for clipped in clients)
    assert np.abs(decoded.update_sum - exact).max() < 3 / lattice.scale
    assert decoded.score_sums[0] == pytest.approx(sum(weights), abs=3 * 0.25 / lattice.score_radius)
    assert decoded.score_sums[1] == pytest.approx(sum(gains), abs=3 * 2.0 / lattice.score_radius)


def test_two_long_updates_contribute_in_the_ratio_of_their_weights(entropy):
    lattice = Lattice.build(1000, 1.0)
    update = Update(np.random.default_rng(5).normal(size=1000))
    light, heavy = (
        to_ring(clip.to_norm(update, 1.0).times(weight), scores(weight), lattice, entropy(weight)).values[:1000]
        for weight in (0.5, 1.0)
    )
    assert np.dot(light, heavy) / np.dot(heavy, heavy) == pytest.approx(0.5, abs=0.01)


def test_scores_are_centred_and_kept_in_their_public_range(entropy):
    lattice = Lattice.build(10_000, 1.0)
    zero = ClippedUpdate(np.zeros(10_000), 1.0)

    def coordinates(weight, gain):
        return to_ring(zero, scores(weight, gain), lattice, entropy(1)).values[-2:].tolist()

    assert coordinates(0.75, 0.0) == [0, 0]
    assert coordinates(1.0, -2.0) == [50, -50]
    assert coordinates(99.0, -math.inf) == [50, -50]
    assert coordinates(math.nan, math.nan) == [0, 0]


def test_a_score_whose_range_is_one_point_decodes_to_that_point(entropy):
    lattice = Lattice.build(9, 1.0, scores=1)
    encoded = to_ring(ClippedUpdate(np.zeros(9), 1.0), [Score(0.3, 1.0, 1.0)], lattice, entropy(1))
    assert from_ring(encoded.values, lattice, [(1.0, 1.0)], 4).score_sums == (4.0,)


@given(hnp.arrays(np.int64, st.integers(0, 6)), st.integers(1, 2**62))
@settings(max_examples=200)
def test_the_norm_check_is_exact_for_all_integers(values, bound):
    assert encode.within(values, bound) == (square(values) <= bound**2)


def test_the_norm_check_is_exact_where_a_sum_of_squares_overflows_int64():
    values = np.full(9, 3_000_000_000, np.int64)  # the squares add up to 8.1e19 > 2^63
    assert encode.within(values, 9_000_000_000)
    assert not encode.within(values, 8_999_999_999)
    many = np.full(40_000_000 // 16, 1_500_000, np.int64)
    assert not encode.within(many, 1_500_000)


def test_sums_of_honest_clients_pass_and_a_liar_is_refused(entropy):
    lattice = Lattice.build(500, 1.0)
    variance, clients = 10_000, 5
    table = discrete_gaussian.table(variance)
    update = clip.to_norm(Update(np.ones(500)), 1.0)
    noises = [discrete_gaussian.sample(table, 502, bytes([i]) * 32) for i in range(clients)]
    vectors = [to_ring(update, scores(), lattice, entropy(i)).values for i in range(clients)]
    total = np.sum(vectors + noises, axis=0)
    encode.check_sum(total, lattice, clients, variance)
    total[3] += 2 * encode.sum_bound(lattice, clients, variance)
    with pytest.raises(SumOutOfBounds) as caught:
        encode.check_sum(total, lattice, clients, variance)
    assert caught.value.survivors == clients


@pytest.mark.parametrize("dimension", [1, 100, 100_000])
def test_the_noise_part_of_the_sum_bound_is_a_tail_of_at_most_2_to_the_minus_40(dimension):
    lattice = Lattice.build(dimension, 1.0)
    tail = encode.sum_bound(lattice, 10, 1000) - 10 * lattice.integer_bound
    chance = stats.chi2.logsf(tail**2 / 10_000, lattice.length) / math.log(2)
    assert -90 < chance <= -40  # and not a vacuous bound


def test_without_noise_the_sum_bound_is_the_clients_bounds_added_up():
    lattice = Lattice.build(64, 1.0)
    assert encode.sum_bound(lattice, 7, 0) == 7 * lattice.integer_bound


@pytest.mark.parametrize(("cohort", "dimension", "variance"), [(8, 1, 16), (256, 1024, 527), (1000, 10**7, 16_000_000)])
def test_no_sum_of_honest_vectors_wraps_and_one_bit_less_might(cohort, dimension, variance):
    lattice = Lattice.build(dimension, 1.0)
    noise = discrete_gaussian.largest_sample(variance)
    bits = encode.required_ring_bits(lattice, cohort, noise)
    largest = cohort * (lattice.integer_bound + noise)
    assert largest < 2 ** (bits - 1)
    assert bits <= 32
    assert bits == 8 or largest >= 2 ** (bits - 2)
    for extreme in (largest, -largest):
        assert ring.to_signed(ring.to_ring(np.array([extreme]), bits), bits).tolist() == [extreme]


def test_a_sum_that_fits_no_ring_is_refused():
    with pytest.raises(ValueError, match="needs 63 ring bits; at most 62"):
        encode.required_ring_bits(Lattice.build(1, 1.0), 1, 2**61)


@pytest.mark.parametrize(("dimension", "count"), [(0, 2), (-1, 2), (2**32 + 1, 2), (5, -1), (5, 65)])
def test_a_lattice_of_impossible_size_is_refused(dimension, count):
    with pytest.raises(ValueError, match="allowed are"):
        Lattice.build(dimension, 1.0, count)


def test_vectors_that_do_not_belong_to_the_lattice_are_refused(entropy):
    lattice = Lattice.build(3, 1.0)
    with pytest.raises(ValueError, match="dimension and clip norm"):
        to_ring(ClippedUpdate(np.zeros(4), 1.0), scores(), lattice, entropy(1))
    with pytest.raises(ValueError, match="dimension and clip norm"):
        to_ring(ClippedUpdate(np.zeros(3), 2.0), scores(), lattice, entropy(1))
    with pytest.raises(ValueError, match="1 scores; this lattice has 2"):
        to_ring(ClippedUpdate(np.zeros(3), 1.0), scores()[:1], lattice, entropy(1))
    with pytest.raises(ValueError, match="lattice's length"):
        from_ring(np.zeros(4, np.int64), lattice, RANGES, 1)


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (math.nan, 1.0), (0.0, math.inf)])
def test_a_score_range_that_is_no_range_is_refused(low, high, entropy):
    with pytest.raises(ValueError, match="finite and ascending"):
        to_ring(ClippedUpdate(np.zeros(1), 1.0), [Score(0.5, low, high)], Lattice.build(1, 1.0, 1), entropy(1))


def test_encoded_values_and_scores_do_not_print(entropy):
    lattice = Lattice.build(1, 1.0)
    encoded = to_ring(ClippedUpdate(np.array([0.9]), 1.0), scores(), lattice, entropy(1))
    shown = repr(encoded) + repr(Score(0.654321, 0, 1)) + repr(from_ring(encoded.values, lattice, RANGES, 1))
    assert "array" not in shown
    assert "654321" not in shown


def test_a_single_coordinate_may_be_as_large_as_the_bound_and_no_larger():
    for sign in (-1, 1):
        assert encode.within(np.array([sign * 5, 0]), 5)
        assert not encode.within(np.array([sign * 6, 0]), 5)
        assert not encode.within(np.array([sign * 5, 1]), 5)


def test_a_lattice_has_room_for_64_scores():
    assert Lattice.build(3, 1.0, 64).length == 67
    for scores in (-1, 65):
        with pytest.raises(ValueError, match="scores is"):
            Lattice.build(3, 1.0, scores)


def test_a_vector_of_nothing_is_made_of_integers_too():
    lattice = Lattice.build(3, 1.0)
    broken = ClippedUpdate(np.array([np.nan, 0.0, 0.0]), 1.0)
    empty = to_ring(broken, [Score(0.5, 0.0, 1.0)] * 2, lattice, SeededEntropy(b"x"))
    assert (empty.values.dtype, empty.values.tolist()) == (np.int64, [0] * 5)
