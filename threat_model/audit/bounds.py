"""From counts of right and wrong guesses to lower bounds on a privacy loss, each with its confidence.

An attacker sees one release and says whether one unit was in it. If the mechanism is as private as claimed, it cannot
be right too often; a bound is the largest privacy loss that what was seen refutes. All `alpha` are the chance that a
bound is too high although its assumptions hold. A small bound proves nothing: the attacker may just be weak.
A bound in mu becomes one in epsilon by `fgrpo_secure.privacy.accounting.epsilon_of`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]  # scipy ships no types
from scipy.special import ndtr, ndtri  # type: ignore[import-untyped]  # scipy ships no types

from fgrpo_secure.privacy.accounting import LARGEST_MU

LARGEST_SEARCHED = 64.0  # of epsilon and mu: beyond it nothing is protected anyway
_STEPS = 60

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Errors:
    """What a test that was fixed beforehand got wrong: `false_alarms` of `outs`, `misses` of `ins`."""

    false_alarms: int
    outs: int
    misses: int
    ins: int

    def __post_init__(self) -> None:
        if not (0 <= self.false_alarms <= self.outs and 0 <= self.misses <= self.ins and self.outs and self.ins):
            raise ValueError("counts of errors must lie between 0 and the trials, of which there must be some")


def proportion_upper(count: int, trials: int, alpha: float) -> float:
    """The upper end of a one-sided interval for a probability of which `count` of `trials` were seen.

    Clopper, Pearson 1934: the probability at which so few would be seen with chance `alpha`.
    """
    if count == trials:
        return 1.0
    return float(stats.beta.ppf(1 - alpha, count + 1, trials - count))


def any_mechanism(errors: Errors, delta: float, alpha: float) -> float:
    """epsilon that independent trials refute at `delta`, whatever the mechanism.

    Both error rates p, q of an (epsilon, delta)-DP mechanism satisfy 1 - delta - q <= exp(epsilon) p and the same
    with p and q exchanged (Kairouz, Oh, Viswanath 2015, Theorem 2.1).
    """
    p = proportion_upper(errors.false_alarms, errors.outs, alpha / 2)
    q = proportion_upper(errors.misses, errors.ins, alpha / 2)
    ratios = [(1 - delta - q) / p, (1 - delta - p) / q]
    return max(0.0, *(math.log(ratio) for ratio in ratios if ratio > 0))


def gaussian(errors: Errors, alpha: float) -> float:
    """mu that independent trials refute if the mechanism's trade-off curve is that of a Gaussian.

    mu = z(1 - p) - z(q) with both error rates at the upper ends of their intervals (Nasr et al. 2023).
    """
    p = proportion_upper(errors.false_alarms, errors.outs, alpha / 2)
    q = proportion_upper(errors.misses, errors.ins, alpha / 2)
    if p >= 1 or q >= 1:
        return 0.0
    return max(0.0, -float(ndtri(p) + ndtri(q)))


def normal_deviation(noise: FloatArray, shift: float, alpha: float) -> float:
    """mu that is refuted if the statistic's noise, shape (trials,), of mean 0, is normal and independent.

    `shift` is what a unit moves the statistic by, known exactly. trials * variance / sigma^2 is chi-squared, so sigma
    is at most sqrt(sum of squares / its alpha quantile).
    """
    squares = float(np.dot(noise, noise))
    if squares == 0.0:
        return LARGEST_MU if shift else 0.0
    return min(LARGEST_MU, shift / math.sqrt(squares / float(stats.chi2.ppf(alpha, noise.size))))


def one_run(canaries: int, guesses: int, right: int, delta: float, alpha: float) -> float:
    """epsilon that one run refutes at `delta`, whatever the mechanism: `right` of `guesses` about `canaries`, each in
    by a fair coin of its own. Steinke, Nasr, Jagielski 2023 (arXiv 2305.08846), Theorem 5.2.
    """
    _check_guesses(canaries, guesses, right)
    if not right:
        return 0.0
    counts = np.arange(right, -1, -1)

    def refuted(epsilon: float) -> bool:
        chance = 1 / (1 + math.exp(-epsilon))
        tails = stats.binom.sf(counts - 1, guesses, chance)  # right or more, right - 1 or more, ...
        gap = float(np.max((tails[1:] - tails[0]) / np.arange(1, right + 1)))
        return bool(tails[0] + 2 * canaries * delta * min(1.0, gap) < alpha)

    return _largest(refuted)


def one_run_gaussian_curve(canaries: int, guesses: int, right: int, alpha: float) -> float:
    """mu whose trade-off curve one run refutes, without assuming that canaries are independent.

    Mahloujifar, Melis, Chaudhuri 2025 (arXiv 2410.22235), Algorithm 3, for guesses between two equally likely answers:
    from the chance of being right `right` times at most alpha, back to the expected share of guesses, which cannot
    exceed the share that was made.
    """
    _check_guesses(canaries, guesses, right)

    def refuted(mu: float) -> bool:
        hit, rest = alpha * right / canaries, alpha * (guesses - right) / canaries
        for number in range(right - 1, -1, -1):
            wrong = max(rest, float(ndtr(ndtri(hit) - mu)))
            hit += number / (guesses - number) * (wrong - rest)
            rest = wrong
            if hit + rest > guesses / canaries:
                return True
        return False

    return _largest(refuted)


def point_estimate(ins: FloatArray, outs: FloatArray) -> float:
    """mu of two normal distributions fitted to the scores with and without: an estimate, not a bound.

    The difference of means over the pooled deviation (after Andrew et al. 2023, arXiv 2302.03098).
    """
    pooled = math.sqrt(
        (float(ins.var(ddof=1)) * (ins.size - 1) + float(outs.var(ddof=1)) * (outs.size - 1))
        / (ins.size + outs.size - 2)
    )
    difference = max(0.0, float(ins.mean() - outs.mean()))
    return min(LARGEST_MU, difference / max(pooled, 1e-300))


def _check_guesses(canaries: int, guesses: int, right: int) -> None:
    if not 0 <= right <= guesses <= canaries or not guesses:
        raise ValueError("right guesses, guesses and canaries must ascend, and there must be a guess")


def _largest(refuted: Callable[[float], bool]) -> float:
    """The largest value that is refuted, from below; 0 if none is. What refutes a value refutes all smaller ones."""
    if not refuted(1e-9):
        return 0.0
    low, high = 0.0, LARGEST_SEARCHED
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
