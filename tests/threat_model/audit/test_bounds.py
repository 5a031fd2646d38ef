"""Bounds from counts: against slow arithmetic, against another library, and against mechanisms whose loss is known."""

import math

import mpmath
import numpy as np
import pytest
from scipy import stats

from fgrpo_secure.privacy.accounting import epsilon_of
from threat_model.audit import bounds
from threat_model.audit.bounds import Errors

DELTA = 1e-5
# What jax_privacy 2.0.0 says of one run: (canaries, guesses, right, alpha) -> epsilon of any mechanism, of a Gaussian.
ONE_RUN = {
    (500, 120, 118, 0.05): (2.906593, 5.085644),
    (500, 500, 430, 0.01): (1.515197, 2.452809),
    (1_000, 80, 70, 0.05): (1.363963, 1.994490),
}
# Counts at one threshold, alpha 0.05 in all: (false alarms, outs, misses, ins) -> epsilon by GDP, of any mechanism.
COUNTS = {
    (150, 1_000, 90, 1_200): (11.711351, 2.201913),
    (3, 300, 40, 300): (15.417919, 3.347431),
}


def binomial_tail(trials: int, chance: mpmath.mpf, least: int) -> mpmath.mpf:
    return mpmath.fsum(
        mpmath.binomial(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(max(0, least), trials + 1)
    )


@pytest.mark.parametrize(("count", "trials"), [(0, 40), (1, 40), (17, 40), (39, 40), (3, 2_000)])
def test_the_interval_of_a_proportion_ends_where_so_few_have_the_stated_chance(count, trials):
    upper = bounds.proportion_upper(count, trials, 0.01)
    with mpmath.workdps(40):
        seen = 1 - binomial_tail(trials, mpmath.mpf(upper), count + 1)
    assert float(seen) == pytest.approx(0.01, rel=1e-6)


def test_a_proportion_of_everything_has_no_upper_bound_below_one():
    assert bounds.proportion_upper(7, 7, 0.01) == 1.0


def test_perfect_guesses_bound_epsilon_by_what_the_trials_can_show():
    """No error in n trials: each rate is at most 1 - alpha'^(1/n), and epsilon the logarithm of the ratio."""
    rate = 1 - 0.025 ** (1 / 1_000)
    expected = math.log((1 - DELTA - rate) / rate)
    assert bounds.any_mechanism(Errors(0, 1_000, 0, 1_000), DELTA, 0.05) == pytest.approx(expected, rel=1e-9)
    assert bounds.gaussian(Errors(0, 1_000, 0, 1_000), 0.05) == pytest.approx(-2 * stats.norm.ppf(rate), rel=1e-9)


def test_guesses_no_better_than_chance_show_nothing():
    coin = Errors(500, 1_000, 500, 1_000)
    assert bounds.any_mechanism(coin, DELTA, 0.05) == 0.0
    assert bounds.gaussian(coin, 0.05) == 0.0
    assert bounds.gaussian(Errors(10, 10, 0, 10), 0.05) == 0.0
    assert bounds.one_run(200, 100, 50, DELTA, 0.05) == 0.0
    assert bounds.one_run(200, 100, 0, DELTA, 0.05) == 0.0
    assert bounds.one_run_gaussian_curve(200, 100, 0, 0.05) == 0.0
    assert bounds.one_run_gaussian_curve(200, 100, 50, 0.05) < 0.05


def test_counts_that_cannot_be_are_refused():
    for wrong in ((-1, 5, 0, 5), (6, 5, 0, 5), (0, 5, 6, 5), (0, 0, 0, 5), (0, 5, 0, 0)):
        with pytest.raises(ValueError, match="counts"):
            Errors(*wrong)
    for wrong in ((10, 5, 6), (10, 11, 5), (10, 0, 0), (10, 5, -1)):
        with pytest.raises(ValueError, match="guesses"):
            bounds.one_run(*wrong, DELTA, 0.05)
        with pytest.raises(ValueError, match="guesses"):
            bounds.one_run_gaussian_curve(*wrong, 0.05)


def one_run_p_value(canaries, guesses, right, epsilon, delta):
    """Theorem 5.2 of Steinke, Nasr, Jagielski 2023 in exact arithmetic."""
    chance = 1 / (1 + mpmath.e ** (-mpmath.mpf(epsilon)))
    tails = [binomial_tail(guesses, chance, right - i) for i in range(right + 1)]
    gap = max((tails[i] - tails[0]) / i for i in range(1, right + 1))
    return tails[0] + 2 * canaries * delta * gap


@pytest.mark.parametrize(("canaries", "guesses", "right"), [(100, 40, 38), (500, 60, 60), (1_000, 80, 70)])
def test_the_one_run_bound_is_where_exact_arithmetic_crosses_alpha(canaries, guesses, right):
    bound = bounds.one_run(canaries, guesses, right, DELTA, 0.05)
    with mpmath.workdps(40):
        below = one_run_p_value(canaries, guesses, right, bound * 0.999, mpmath.mpf(DELTA))
        above = one_run_p_value(canaries, guesses, right, bound * 1.001, mpmath.mpf(DELTA))
    assert below < 0.05 < above


def curve_refuted(mu, canaries, guesses, right, alpha):
    """Algorithm 3 of Mahloujifar, Melis, Chaudhuri 2025, in the arrays of the paper, for a Gaussian."""

    def inverse(share):  # of 1 - f
        return stats.norm.cdf(stats.norm.ppf(share) - mu)

    h, r = [0.0] * (right + 1), [0.0] * (right + 1)
    r[right], h[right] = alpha * right / canaries, alpha * (guesses - right) / canaries
    for i in range(right - 1, -1, -1):
        h[i] = max(h[i + 1], inverse(r[i + 1]))
        r[i] = r[i + 1] + i / (guesses - i) * (h[i] - h[i + 1])
    return r[0] + h[0] > guesses / canaries


@pytest.mark.parametrize(("canaries", "guesses", "right"), [(100, 40, 38), (500, 120, 118), (500, 500, 400)])
def test_the_curve_bound_is_where_the_papers_recursion_begins_to_refute(canaries, guesses, right):
    bound = bounds.one_run_gaussian_curve(canaries, guesses, right, 0.05)
    assert curve_refuted(bound * 0.999, canaries, guesses, right, 0.05)
    assert not curve_refuted(bound * 1.001, canaries, guesses, right, 0.05)


def ours(case):
    if len(case) == 4 and case in ONE_RUN:
        canaries, guesses, right, alpha = case
        curve = bounds.one_run_gaussian_curve(canaries, guesses, right, alpha)
        return bounds.one_run(canaries, guesses, right, DELTA, alpha), epsilon_of(curve, DELTA)
    errors = Errors(*case)
    return epsilon_of(bounds.gaussian(errors, 0.05), DELTA), bounds.any_mechanism(errors, DELTA, 0.05)


@pytest.mark.parametrize("case", [*ONE_RUN, *COUNTS])
def test_the_bounds_are_those_that_jax_privacy_computed(case):
    assert ours(case) == pytest.approx({**ONE_RUN, **COUNTS}[case], abs=2e-6)


@pytest.mark.parametrize("case", ONE_RUN)
def test_jax_privacy_still_computes_these_bounds_of_one_run(case):
    auditing = pytest.importorskip("jax_privacy.auditing", reason="jax_privacy is not installed")
    canaries, guesses, right, alpha = case
    theirs = [
        bound(0.0, canaries, guesses, right, alpha, DELTA)
        for bound in (auditing._epsilon_one_run, auditing._epsilon_one_run_fdp)
    ]
    assert theirs == pytest.approx(ONE_RUN[case], abs=2e-6)


@pytest.mark.parametrize("case", COUNTS)
def test_jax_privacy_still_computes_these_bounds_from_counts(case):
    """Its bound by GDP shares alpha among all thresholds, of which such scores have three."""
    auditing = pytest.importorskip("jax_privacy.auditing", reason="jax_privacy is not installed")
    alarms, outs, misses, ins = case
    present, absent = [0.0] * misses + [1.0] * (ins - misses), [1.0] * alarms + [0.0] * (outs - alarms)
    scores = auditing.CanaryScoreAuditor(present, absent)
    middle = auditing.Explicit(threshold=0.5)
    theirs = (
        scores.epsilon_from_gdp(0.15, DELTA),
        scores.epsilon_clopper_pearson(0.05, DELTA, one_sided=False, threshold_strategy=middle),
    )
    assert theirs == pytest.approx(COUNTS[case], abs=2e-6)


@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_of_a_mechanism_with_a_known_loss_the_bounds_stay_below_it_as_often_as_promised(epsilon):
    """Randomised response is (epsilon, 0)-DP exactly; 400 audits at alpha 0.05 may fail 20 times, 38 is four
    standard errors more.
    """
    generator, canaries = np.random.default_rng(5), 200
    seen = generator.binomial(canaries, 1 / (1 + math.exp(-epsilon)), 400)
    found = {right: bounds.one_run(canaries, canaries, int(right), DELTA, 0.05) for right in set(seen)}
    assert sum(found[right] > epsilon for right in seen) <= 38


def test_of_a_gaussian_the_bounds_stay_below_its_mu_as_often_as_promised():
    generator, failures, mu = np.random.default_rng(6), {"counts": 0, "deviation": 0}, 1.0
    for _ in range(400):
        noise = generator.normal(0, 1 / mu, 300)
        errors = Errors(int(np.sum(noise > 0.5)), 300, int(np.sum(noise + 1 <= 0.5)), 300)
        failures["counts"] += bounds.gaussian(errors, 0.05) > mu
        failures["deviation"] += bounds.normal_deviation(noise, 1.0, 0.05) > mu
    assert max(failures.values()) <= 38
    assert failures["deviation"] >= 4, "it promises 20 failures and is exact for normal noise"


def test_the_deviation_bound_of_no_noise_is_as_large_as_can_be_said():
    assert bounds.normal_deviation(np.zeros(10), 1.0, 0.05) == 1e4
    assert bounds.normal_deviation(np.zeros(10), 0.0, 0.05) == 0.0


def test_the_point_estimate_is_the_distance_of_means_in_deviations():
    ins, outs = np.array([3.0, 5.0]), np.array([0.0, 2.0])
    assert bounds.point_estimate(ins, outs) == pytest.approx(3 / math.sqrt(2))
    assert bounds.point_estimate(outs, ins) == 0.0
