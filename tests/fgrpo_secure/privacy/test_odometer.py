"""What may be said to be spent when somebody else decides when a run ends, or whom it loses; and what delta is made of.

The attack is computed, not sampled: the privacy loss of a run is a random walk, and whoever sees it stops, or chooses
the next charge, where that makes what is then said most wrong. Its real delta is the largest mean of
(1 - exp(said - loss))+ at the end, by dynamic programming on a grid of losses.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import fftconvolve

from fgrpo_secure.privacy.accounting import Slack, delta_of, epsilon_of, mu_of
from fgrpo_secure.privacy.odometer import EARLY, GRAPH_FAILURE, Delta, Odometer, group
from fgrpo_secure.privacy.sampled import Sampling
from protocols import tails

DELTA, NOTHING = 1e-5, Slack(0.0, 0.0)
GRID = np.linspace(-12.0, 32.0, 8801)


def odometer(epsilon, total=DELTA):
    parts = Delta.split(total, 0)
    return Odometer(Fraction(mu_of(epsilon, parts.planned)) ** 2, parts, NOTHING)


def step(value, charge):
    """The mean of `value` one charge later, the loss moving by N(charge / 2, charge), sampled on the grid.

    A deviation of a grid step or more makes that exact to 10^-8, by the lemma that the product itself rests on.
    """
    width, deviation = GRID[1] - GRID[0], math.sqrt(charge)
    assert deviation > width
    reach = int((9 * deviation + charge) / width) + 2
    moves = np.arange(-reach, reach + 1) * width
    weights = np.exp(-((moves - charge / 2) ** 2) / 2 / charge)
    padded = np.concatenate([np.full(reach, value[0]), value, np.full(reach, value[-1])])
    return np.maximum(fftconvolve(padded, weights[::-1] / weights.sum(), mode="valid"), 0)


def wrong(said):
    """How wrong a reading is where the loss is on the grid."""
    return -np.expm1(np.minimum(0.0, said - GRID))


def optimal_stopping(read, budget, rounds):
    """The real delta of whoever stops a run of equal charges when it likes."""
    value = wrong(read(budget))
    for done in range(rounds - 1, -1, -1):
        said = read(budget * Fraction(done, rounds))
        value = np.maximum(wrong(said), step(value, float(budget) / rounds))
    return float(np.interp(0.0, GRID, value))


def optimal_dropping(read, budget, rounds):
    """The same for whoever may also halve a round's charge by whom it loses, or leaves in, and stop."""
    unit = budget / (2 * rounds)
    values = {2 * rounds: wrong(read(budget))}
    for spent in range(2 * rounds - 1, -1, -1):
        ahead = [step(values[spent + charge], float(charge * unit)) for charge in (1, 2) if spent + charge in values]
        values[spent] = np.maximum.reduce([wrong(read(spent * unit)), *ahead])
    return float(np.interp(0.0, GRID, values[0]))


def naive(budget):
    return lambda spent: epsilon_of(math.sqrt(spent), DELTA) if spent else 0.0


@pytest.mark.parametrize("rounds", [1, 12, 100, 1000])
@pytest.mark.parametrize("epsilon", [8.0, 1.0])
def test_a_run_that_is_stopped_at_the_best_moment_keeps_the_stated_delta(rounds, epsilon):
    meter = odometer(epsilon)
    assert optimal_stopping(meter.read, meter.budget, rounds) <= DELTA * 1.001


def test_the_attack_finds_that_the_epsilon_of_the_charges_so_far_is_none():
    """The real delta is several times the stated one, and the more the more rounds there are to choose from."""
    budget = Fraction(mu_of(8.0, DELTA)) ** 2
    real = [optimal_stopping(naive(budget), budget, rounds) / DELTA for rounds in (1, 12, 1000)]
    assert real[0] == pytest.approx(1, rel=0.01), "one round leaves nothing to choose: the grid is fine enough"
    assert real[1] > 4
    assert real[2] > 12


def test_whoever_chooses_the_charges_too_finds_no_more():
    meter = odometer(8.0)
    assert optimal_dropping(meter.read, meter.budget, 12) <= DELTA * 1.001
    assert optimal_dropping(naive(meter.budget), meter.budget, 12) > 4 * DELTA


@given(st.floats(1e-9, 1), st.floats(1e-9, 1), st.sampled_from([0.5, 1.0, 4.0, 8.0]))
def test_readings_never_fall_and_never_exceed_the_plan(one, other, epsilon):
    meter = odometer(epsilon)
    low, high = sorted((Fraction(one), Fraction(other)))
    assert 0 < meter.read(low * meter.budget) <= meter.read(high * meter.budget) <= epsilon * (1 + 1e-9)
    assert meter.read(high * meter.budget) >= epsilon_of(math.sqrt(high * meter.budget), DELTA) * (1 - 1e-9)


def test_a_finished_run_reads_what_was_planned_and_the_plan_pays_little_for_it():
    meter = odometer(8.0)
    assert meter.read(meter.budget) == pytest.approx(8.0, rel=1e-9)
    assert meter.read(Fraction(0)) == 0
    assert math.sqrt(meter.budget) > 0.999 * mu_of(8.0, DELTA), "less than a thousandth more noise"


def test_beyond_its_budget_a_meter_reads_what_that_costs():
    meter = odometer(2.0)
    assert meter.read(4 * meter.budget) > 4


def test_levels_of_sampled_rounds_are_numbers_of_releases():
    coins = Sampling(0.1, 1.0, 40)
    meter = Odometer(Fraction(1), Delta.split(DELTA, 0), NOTHING, coins)
    assert meter.read(Fraction(1)) == pytest.approx(coins.epsilon(Delta.split(DELTA, 0).planned), rel=1e-6)
    assert meter.read(Fraction(1, 40)) < meter.read(Fraction(1))
    assert meter.read(Fraction(1, 40)) >= coins.epsilon(DELTA, 1) * (1 - 1e-9)


def test_delta_is_the_sum_of_its_parts_each_with_a_name():
    assert GRAPH_FAILURE == 2.0**-tails.SIGMA
    parts, slack = Delta.split(1e-9, 36), Slack(1e-20, 1e-18)
    assert parts.planned + parts.graph + parts.early == pytest.approx(1e-9, rel=1e-12)
    named = parts.facts(slack, 8.0)
    assert sum(named.values()) == pytest.approx(1e-9, rel=1e-9)
    assert named["sparse_graphs"] == 36 * 2.0**-40
    assert named["early_end"] == pytest.approx(EARLY * (1e-9 - parts.graph))
    assert named["sampler_and_lemma"] > 0


def test_a_delta_that_sparse_graphs_use_up_is_refused():
    with pytest.raises(ValueError, match="36 sparse graphs fail with"):
        Delta.split(1e-20, 36)


@pytest.mark.parametrize(("size", "least"), [(2, 19.0), (5, 69.0)])
def test_groups_cost_more_than_their_size_times_epsilon(size, least):
    mu = mu_of(8.0, DELTA)
    together = group(NOTHING, mu, size, DELTA)
    assert together == pytest.approx(least, abs=0.5)
    assert together > size * 8
    assert delta_of(size * mu, together) == pytest.approx(DELTA, rel=1e-6)
