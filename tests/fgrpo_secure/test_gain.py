"""Relative gains and weights: invariances, bounds, reference values."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fgrpo_secure.config import Weighting
from fgrpo_secure.gain import (
    Baseline,
    Observation,
    observe,
    reference_weight,
    relative_gain,
    temperature,
    weight,
)

RULES = ["softmax", "linear", "uniform"]
rewards_of_rounds = st.lists(
    st.lists(st.lists(st.integers(0, 16).map(lambda k: k / 16), min_size=4, max_size=4), min_size=3, max_size=3),
    min_size=3,
    max_size=6,
)


def gain_after(rounds: list[np.ndarray], weighting: Weighting) -> float:
    baseline = Baseline()
    for rewards in rounds[:-1]:
        baseline = baseline.updated(observe(rewards), weighting.baseline_decay)
    return relative_gain(observe(rounds[-1]), baseline, weighting)


@given(rewards_of_rounds, st.sampled_from([0.001, 0.5, 20.0, 100.0]), st.sampled_from([-50.0, -1.0, 0.0, 3.0]))
def test_standardized_gain_ignores_shift_and_scale_of_a_clients_rewards(raw, scale, shift):
    rounds = [np.array(rewards) for rewards in raw]
    spread = max(float(np.ptp([r.mean() for r in rounds])), max(float(np.ptp(r)) for r in rounds))
    assume(spread > 0)
    plain = gain_after(rounds, Weighting())
    moved = gain_after([scale * r + shift for r in rounds], Weighting())
    if any(observe(r).standard_error > 0 for r in rounds[-1:]):
        assert moved == pytest.approx(plain, abs=1e-6)


@given(rewards_of_rounds, st.floats(0.01, 1000))
def test_relative_gain_ignores_the_scale_of_a_clients_rewards(raw, scale):
    rounds = [np.array(rewards) + 0.1 for rewards in raw]
    weighting = Weighting(gain="relative")
    assert gain_after([scale * r for r in rounds], weighting) == pytest.approx(gain_after(rounds, weighting), abs=1e-6)


def test_relative_gain_does_change_under_a_shift():
    rounds = [np.full((2, 2), 1.0), np.full((2, 2), 1.0), np.full((2, 2), 1.5)]
    weighting = Weighting(gain="relative")
    assert gain_after(rounds, weighting) == pytest.approx(0.5)
    assert gain_after([r + 9 for r in rounds], weighting) == pytest.approx(0.05)


def test_gain_is_zero_until_there_are_two_past_observations():
    loud = Observation(mean=100.0, standard_error=0.1)
    assert relative_gain(loud, Baseline(), Weighting()) == 0.0
    once = Baseline().updated(Observation(0.0, 0.1), 0.7)
    assert relative_gain(loud, once, Weighting()) == 0.0
    twice = once.updated(Observation(0.0, 0.1), 0.7)
    assert relative_gain(loud, twice, Weighting()) == Weighting().gain_clip


def test_gain_of_a_hand_computed_history():
    baseline = Baseline()
    for mean in (1.0, 2.0):
        baseline = baseline.updated(Observation(mean, 0.0), 0.5)
    assert (baseline.mean, baseline.variance) == (1.5, 0.5)
    gain = relative_gain(Observation(2.0, math.sqrt(0.5)), baseline, Weighting())
    assert gain == pytest.approx(0.5 / 1.0)


def test_observation_counts_prompts_not_completions():
    rewards = np.array([[0.0, 2.0], [1.0, 3.0]])
    seen = observe(rewards)
    assert seen.mean == 1.5
    assert seen.standard_error == pytest.approx(np.std([1.0, 2.0], ddof=1) / math.sqrt(2))
    assert observe(np.array([[0.0, 2.0]])).standard_error == pytest.approx(math.sqrt(2) / math.sqrt(2))


@given(st.sampled_from(RULES), st.sampled_from(["leaders", "laggards"]), st.floats(-3, 3), st.floats(0.01, 0.99))
def test_weights_stay_in_their_bounds_for_every_rule(rule, favour, gain, min_weight):
    weighting = Weighting(rule=rule, favour=favour, min_weight=min_weight, gain_clip=3.0)
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
    weighting = Weighting()
    ours = np.array([weight(g, weighting) for g in gains])
    softmax = np.exp(np.array(gains) / temperature(weighting))
    np.testing.assert_allclose(ours / ours.sum(), softmax / softmax.sum(), rtol=1e-9)


def test_default_temperature_spans_exactly_the_allowed_weights():
    weighting = Weighting(min_weight=0.25)
    assert weight(-2.0, weighting) == pytest.approx(0.25)
    assert weight(2.0, weighting) == 1.0
    assert reference_weight(weighting) == pytest.approx(0.5)
    assert reference_weight(Weighting(rule="linear", min_weight=0.25)) == pytest.approx(0.625)
    assert reference_weight(Weighting(rule="uniform")) == 1.0


def test_secrets_of_a_client_do_not_show_in_a_repr():
    text = repr((Observation(0.123456, 0.654321), Baseline(0.123456, 0.654321, 3)))
    assert "0.123456" not in text
    assert "0.654321" not in text
