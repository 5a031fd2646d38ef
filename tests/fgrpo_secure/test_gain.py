"""Relative gains and weights: invariances, bounds, reference values."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from fgrpo_secure.config.schema import Weighting
from fgrpo_secure.gain import (
    Baseline,
    Observation,
    Trend,
    observe,
    reference_weight,
    relative_gain,
    temperature,
    weigh,
    weight,
)

RULES = ["history", "softmax", "linear", "uniform"]
SOFTMAX = Weighting(rule="softmax")
rewards_of_rounds = st.lists(
    st.lists(st.lists(st.integers(0, 16).map(lambda k: k / 16), min_size=4, max_size=4), min_size=3, max_size=3),
    min_size=3,
    max_size=6,
)


def gain_after(rounds: list[np.ndarray], weighting: Weighting) -> float:
    baseline = Baseline()
    for number, rewards in enumerate(rounds[:-1]):
        baseline = baseline.updated(observe(rewards), number, weighting.baseline_decay)
    return relative_gain(observe(rounds[-1]), baseline, weighting)


@given(rewards_of_rounds, st.sampled_from([0.001, 0.5, 20.0, 100.0]), st.sampled_from([-50.0, -1.0, 0.0, 3.0]))
def test_standardized_gain_ignores_shift_and_scale_of_a_clients_rewards(raw, scale, shift):
    rounds = [np.array(rewards) for rewards in raw]
    spread = max(float(np.ptp([r.mean() for r in rounds])), max(float(np.ptp(r)) for r in rounds))
    assume(spread > 0)
    plain = gain_after(rounds, SOFTMAX)
    moved = gain_after([scale * r + shift for r in rounds], SOFTMAX)
    if any(observe(r).standard_error > 0 for r in rounds[-1:]):
        assert moved == pytest.approx(plain, abs=1e-6)


@given(rewards_of_rounds, st.floats(0.01, 1000))
def test_relative_gain_ignores_the_scale_of_a_clients_rewards(raw, scale):
    rounds = [np.array(rewards) + 0.1 for rewards in raw]
    weighting = Weighting(rule="softmax", gain="relative")
    assert gain_after([scale * r for r in rounds], weighting) == pytest.approx(gain_after(rounds, weighting), abs=1e-6)


def test_relative_gain_does_change_under_a_shift():
    rounds = [np.full((2, 2), 1.0), np.full((2, 2), 1.0), np.full((2, 2), 1.5)]
    weighting = Weighting(rule="softmax", gain="relative")
    assert gain_after(rounds, weighting) == pytest.approx(0.5)
    assert gain_after([r + 9 for r in rounds], weighting) == pytest.approx(0.05)


def test_gain_is_zero_until_there_are_two_past_observations():
    loud = Observation(mean=100.0, standard_error=0.1)
    assert relative_gain(loud, Baseline(), SOFTMAX) == 0.0
    once = Baseline().updated(Observation(0.0, 0.1), 0, 0.7)
    assert relative_gain(loud, once, SOFTMAX) == 0.0
    twice = once.updated(Observation(0.0, 0.1), 1, 0.7)
    assert relative_gain(loud, twice, SOFTMAX) == SOFTMAX.gain_clip == 2.0


def test_gain_of_a_hand_computed_history():
    baseline = Baseline()
    for number, mean in enumerate((1.0, 2.0)):
        baseline = baseline.updated(Observation(mean, 0.0), number, 0.5)
    assert (baseline.mean, baseline.variance) == (1.5, 0.5)
    gain = relative_gain(Observation(2.0, math.sqrt(0.5)), baseline, SOFTMAX)
    assert gain == pytest.approx(0.5 / 1.0)


def test_observation_counts_prompts_not_completions():
    rewards = np.array([[0.0, 2.0], [1.0, 3.0]])
    seen = observe(rewards)
    assert seen.mean == 1.5
    assert seen.standard_error == pytest.approx(np.std([1.0, 2.0], ddof=1) / math.sqrt(2))
    assert observe(np.array([[0.0, 2.0]])).standard_error == pytest.approx(math.sqrt(2) / math.sqrt(2))


@given(st.sampled_from(RULES), st.sampled_from(["leaders", "laggards"]), st.floats(-4, 4), st.floats(0.01, 0.99))
def test_weights_stay_in_their_bounds_for_every_rule(rule, favour, gain, min_weight):
    favour = "leaders" if rule == "history" else favour
    weighting = Weighting(rule=rule, favour=favour, min_weight=min_weight, gain_clip=4.0)
    assert min_weight <= weight(gain, weighting) <= 1.0


@given(st.sampled_from(["softmax", "linear"]), st.floats(-3, 3), st.floats(-3, 3))
def test_leaders_never_weigh_less_than_those_who_gained_less(rule, one, other):
    weighting = Weighting(rule=rule, gain_clip=3.0)
    low, high = sorted((one, other))
    assert weight(low, weighting) <= weight(high, weighting)
    turned = weighting.model_copy(update={"favour": "laggards"})
    assert weight(low, turned) >= weight(high, turned)


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=6))
def test_softmax_weights_are_the_softmax_of_the_cohort_up_to_a_common_factor(gains):
    weighting = SOFTMAX
    ours = np.array([weight(g, weighting) for g in gains])
    softmax = np.exp(np.array(gains) / temperature(weighting))
    np.testing.assert_allclose(ours / ours.sum(), softmax / softmax.sum(), rtol=1e-9)


def test_default_temperature_spans_exactly_the_allowed_weights():
    weighting = Weighting(rule="softmax", min_weight=0.25)
    assert weight(-2.0, weighting) == pytest.approx(0.25)
    assert weight(2.0, weighting) == 1.0
    assert reference_weight(weighting) == pytest.approx(0.5)
    assert reference_weight(Weighting(rule="linear", min_weight=0.25)) == pytest.approx(0.625)
    assert reference_weight(Weighting(rule="uniform")) == 1.0


# ------------------------------------------------------------------------------------------------ the whole history


def observations(means, errors):
    return [Observation(mean, error) for mean, error in zip(means, errors, strict=True)]


def trend_of(seen, numbers=None):
    trend = Trend()
    for number, observation in zip(numbers or range(len(seen)), seen, strict=True):
        trend = trend.updated(observation, number)
    return trend


def slow_t_value(seen, numbers=None):
    """The definition, from the whole list: a fitted line, its residuals, and both halves of the variance."""
    x = np.array(numbers or range(len(seen)), dtype=float)
    y, errors = np.array([each.mean for each in seen]), np.array([each.standard_error for each in seen])
    slope, intercept = np.polyfit(x - x.mean(), y, 1)
    left_over = np.sum((y - slope * (x - x.mean()) - intercept) ** 2) / (len(seen) - 2)
    variance = np.mean(errors**2) / 2 + left_over / 2
    return slope / math.sqrt(variance / np.sum((x - x.mean()) ** 2))


histories = st.lists(st.tuples(st.integers(-32, 32), st.integers(1, 16)), min_size=3, max_size=60).map(
    lambda pairs: observations([mean / 16 for mean, _ in pairs], [error / 64 for _, error in pairs])
)


@given(histories, st.integers(0, 1000), st.integers(1, 7))
def test_the_sums_give_the_t_value_of_the_line_fitted_to_the_whole_list(seen, first, step):
    numbers = [first + step * index for index in range(len(seen))]
    assert trend_of(seen, numbers).t_value() == pytest.approx(slow_t_value(seen, numbers), rel=1e-9, abs=1e-9)


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=40))
def test_without_sampling_error_it_is_the_classical_t_value_times_root_two(means):
    fitted = stats.linregress(range(len(means)), means)
    assume(fitted.stderr > 1e-6)
    ours = trend_of(observations(means, [0.0] * len(means))).t_value()
    assert ours == pytest.approx(math.sqrt(2) * fitted.slope / fitted.stderr, rel=1e-6, abs=1e-6)


@given(histories, st.sampled_from([1e-3, 0.5, 20.0, 1e3]), st.sampled_from([-1e5, -1.0, 0.0, 3.0, 1e5]))
def test_a_clients_history_weighs_the_same_however_its_rewards_are_shifted_and_scaled(seen, scale, shift):
    moved = [Observation(scale * each.mean + shift, scale * each.standard_error) for each in seen]
    assert trend_of(moved).t_value() == pytest.approx(trend_of(seen).t_value(), rel=1e-4, abs=1e-4)


@given(st.floats(-1e6, 1e6), st.integers(3, 50), st.floats(-1e-13, 1e-13))
def test_rewards_that_are_all_equal_or_differ_by_rounding_have_no_gain(reward, rounds, rounding):
    means = [reward * (1 + rounding * (index % 3)) for index in range(rounds)]
    assert trend_of(observations(means, [0.0] * rounds)).t_value() == 0.0


@given(histories)
def test_turning_a_history_round_turns_its_gain(seen):
    assert trend_of(seen[::-1]).t_value() == pytest.approx(-trend_of(seen).t_value(), rel=1e-6, abs=1e-9)


def weights_over(seen, weighting):
    past, weights = Baseline(), []
    for number, observation in enumerate(seen):
        weighed = weigh(observation, past, weighting, number)
        past = weighed.baseline
        weights.append(weighed.weight)
    return weights


def test_the_first_two_rounds_count_in_full_and_a_steep_fall_counts_the_least_weight_from_the_third():
    falling = observations([3.0, 2.0, 1.0, 0.0], [0.01] * 4)
    assert weights_over(falling, Weighting()) == [1.0, 1.0, 0.5, 0.5]
    assert weights_over(falling[::-1], Weighting()) == [1.0] * 4
    assert weights_over(falling, Weighting(min_weight=0.25)) == [1.0, 1.0, 0.25, 0.25]


def test_a_weight_halfway_down_the_slope_is_the_one_computed_by_hand():
    """Three rewards 0, a, 0 - and a last one that makes t = -2: w = 1 + (-2 + 1.5) / 2."""
    assert weight(-1.5, Weighting()) == 1.0
    assert weight(-2.0, Weighting()) == pytest.approx(0.75)
    assert weight(-2.5, Weighting()) == weight(-3.0, Weighting()) == 0.5


def test_honest_clients_on_a_plateau_keep_nearly_all_their_weight():
    """Rewards that only fluctuate fall by chance, too: by t < -1.5 in fewer than one round of ten.

    200 clients of 24 rounds; a mean over them has a standard error of about 0.003.
    """
    random = np.random.default_rng(3)
    weights = [weights_over(observations(random.normal(0.4, 0.05, 24), [0.05] * 24), Weighting()) for _ in range(200)]
    assert np.mean(weights) > 0.97
    rising = [
        weights_over(observations(0.01 * np.arange(24) + random.normal(0.4, 0.05, 24), [0.05] * 24), Weighting())
        for _ in range(200)
    ]
    assert np.mean(rising) > 0.995


def test_a_history_of_a_hundred_thousand_rounds_keeps_its_digits():
    """Around a large reward, where sums of squares themselves would lose all: 1e5 squared times 1e5 rounds is 1e15."""
    rounds, random = 100_000, np.random.default_rng(5)
    means = 1e5 + 1e-5 * np.arange(rounds) + random.normal(0, 100.0, rounds)
    seen = observations(means.tolist(), [100.0] * rounds)
    assert trend_of(seen).t_value() == pytest.approx(slow_t_value(seen), rel=1e-6)


def test_rewards_beyond_the_range_of_floats_still_give_a_weight():
    seen = observations([1e300, -1e300, 1e300, 0.0], [1e300] * 4)
    assert set(weights_over(seen, Weighting())) == {1.0}


def test_secrets_of_a_client_do_not_show_in_a_repr():
    past = Baseline(0.123456, 0.654321, 3, Trend(3, *[0.123456] * 6))
    text = repr((Observation(0.123456, 0.654321), past, weigh(Observation(0.123456, 0.654321), past, Weighting(), 4)))
    assert "0.123456" not in text
    assert "0.654321" not in text
