"""What noise is worth: Gaussian differential privacy (GDP), its (epsilon, delta), and a filter on it.

A round whose sum carries discrete Gaussian noise of total variance V, with integer L2 sensitivity B, is
charged as a Gaussian mechanism of variance V - 4: mu^2 = B^2 / (V - 4), an exact fraction. What that
step, the adding up of shares and the sampler's table cost beyond it is a `Slack` in (epsilon, delta).

**Lemma** (docs/explanation/privacy) Y = x + N_Z(0, V)^d is within a factor exp(+-d theta) of a
post-processing of x + N(0, V - s^2)^d, with theta = 4 exp(-2 pi^2 s^2), for every s^2 >= 1: draw the real
Gaussian, then round it to the lattice by a discrete Gaussian of variance s^2. Here s^2 = 4.

mu^2 adds up, also when later rounds are chosen by earlier results (Smith, Thakurta 2022, arXiv 2210.17520).
Adjacency is zero-out: one client's vector replaced by zeros. Replacing it by another one costs 2 mu.
No amplification by sampling is claimed: the server sees who takes part.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from fgrpo_secure.errors import CheckFailed
from fgrpo_secure.privacy.discrete_gaussian import TABLE_DISTANCE
from fgrpo_secure.privacy.normal import log_ndtr

# s^2 of the lemma above. At 4, theta is 2e-34 a coordinate, which no length or number of rounds brings near a delta;
# what it costs is 4 of a variance that is thousands.
LEMMA_VARIANCE = 4
THETA = 4 * math.exp(-2 * math.pi**2 * LEMMA_VARIANCE)
# Beyond it exp and erfc leave the floats' range, long after a claim means anything.
LARGEST_MU = 1e4


class BudgetExceeded(CheckFailed, ValueError):
    """A charge that would bring the sum of mu^2 above the budget. Nothing was charged."""

    def __init__(self, owner: str, spent: Fraction, charge: Fraction, budget: Fraction) -> None:
        super().__init__(
            f"{owner} has spent {float(spent):.6g} of a privacy budget of {float(budget):.6g} (sum of mu^2); "
            f"a charge of {float(charge):.6g} would exceed it"
        )
        self.owner = owner
        self.spent = spent
        self.charge = charge
        self.budget = budget


@dataclass(frozen=True, slots=True)
class Filter:
    """A fully adaptive filter: admits charges while their sum stays within the budget. Both are mu^2."""

    budget: Fraction
    spent: Fraction = Fraction(0)

    @staticmethod
    def of_mu(mu_budget: float | Fraction) -> "Filter":
        """The filter for a total of `mu_budget`, whose square is taken exactly."""
        if not 0 < mu_budget <= LARGEST_MU:
            raise ValueError(f"a mu budget is {float(mu_budget):g}; it must be above 0 and at most {LARGEST_MU:g}")
        return Filter(Fraction(mu_budget) ** 2)

    def charge(self, mu_squared: Fraction, owner: str = "this client") -> "Filter":
        """The filter after a charge above 0. Raises BudgetExceeded before anything is spent."""
        if mu_squared <= 0:
            raise ValueError(f"a charge is {mu_squared}; it must be above 0")
        if self.spent + mu_squared > self.budget:
            raise BudgetExceeded(owner, self.spent, mu_squared, self.budget)
        return Filter(self.budget, self.spent + mu_squared)

    @property
    def remaining(self) -> Fraction:
        """What may still be charged."""
        return self.budget - self.spent


def round_mu_squared(integer_bound: int, total_variance: int) -> Fraction:
    """mu^2 of one round under zero-out: B^2 / (V - 4), V the variance of all honest shares together."""
    # The real Gaussian that the lemma accounts for would have no variance left.
    if total_variance <= LEMMA_VARIANCE:
        raise ValueError(f"a round's noise variance is {total_variance}; it must be above {LEMMA_VARIANCE}")
    return Fraction(integer_bound**2, total_variance - LEMMA_VARIANCE)


def replace_one(mu_squared: Fraction) -> Fraction:
    """mu^2 when a client's vector may be exchanged for any other one: twice the sensitivity."""
    return 4 * mu_squared


def delta_of(mu: float, epsilon: float) -> float:
    """The least delta at which mu-GDP is (epsilon, delta)-DP (Dong, Roth, Su 2019, Corollary 2.13)."""
    if not 0 <= mu <= LARGEST_MU:
        raise ValueError(f"mu is {mu:g}; allowed are 0 to {LARGEST_MU:g}")
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon:g}; it must be at least 0 and finite")
    if mu == 0:
        return 0.0
    # In logarithms: at large epsilon both terms of the formula underflow, and their difference would come out as 0, a
    # guarantee for free.
    log_first = log_ndtr(-epsilon / mu + mu / 2)
    log_second = epsilon + log_ndtr(-epsilon / mu - mu / 2)
    return math.exp(log_first) * -math.expm1(min(0.0, log_second - log_first))


def epsilon_of(mu: float, delta: float) -> float:
    """The least epsilon >= 0 at which mu-GDP is (epsilon, delta)-DP, rounded up by at most 10^-12 of it."""
    checked_delta(delta)
    # Then delta alone covers it, at every epsilon; the bisection below needs an end at which it does not.
    if delta_of(mu, 0.0) <= delta:
        return 0.0
    high = 1.0
    while delta_of(mu, high) > delta:
        high *= 2
    return _bisect(lambda epsilon: delta_of(mu, epsilon) <= delta, high, 0.0)


def mu_of(epsilon: float, delta: float) -> float:
    """The largest mu for which mu-GDP is (epsilon, delta)-DP, rounded down by at most 10^-12 of it."""
    checked_delta(delta)
    if not 0 < epsilon <= LARGEST_MU:
        raise ValueError(f"epsilon is {epsilon:g}; it must be above 0 and at most {LARGEST_MU:g}")
    return _bisect(lambda mu: delta_of(mu, epsilon) <= delta, 0.0, LARGEST_MU)


def checked_delta(delta: float) -> float:
    """`delta` itself; ValueError unless it is above 0 and below 1."""
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta:g}; it must be above 0 and below 1")
    return delta


@dataclass(frozen=True, slots=True)
class Slack:
    """What a claim pays beyond GDP: a log ratio (lemma, sums of shares) and a distance (sampler's table)."""

    log_ratio: float
    distance: float

    @staticmethod
    def of(rounds: int, length: int, shares: int, share_variance: int) -> "Slack":
        """The slack of `rounds` rounds of `length` coordinates, each noised by `shares` equal shares."""
        per_coordinate = THETA + sum_of_shares_log_ratio(shares, share_variance)
        return Slack(rounds * length * per_coordinate, rounds * length * shares * TABLE_DISTANCE)

    def epsilon(self, mu: float, delta: float) -> float:
        """epsilon at `delta` of mu-GDP with this slack; infinite if the table's distance alone uses up delta.

        If A is within total variation t of A', and A' within exp(+-r) of one that is (e, d0)-DP, then A is
        (e + 2 r, exp(r) d0 + (1 + exp(e + 2 r)) t)-DP; r and t are added up over rounds and shares.
        """
        return self.epsilon_by(lambda left: epsilon_of(mu, left), delta)

    def epsilon_by(self, curve: Callable[[float], float], delta: float) -> float:
        """The same for a mechanism that is (curve(delta), delta)-DP at every delta."""
        checked_delta(delta)
        epsilon = curve(delta)
        for _ in range(100):  # exp(epsilon) * t is tiny wherever a claim means something: one turn does
            left = self.left(epsilon, delta)
            if left <= 0:
                break
            needed = curve(left)
            if needed <= epsilon:
                return epsilon + 2 * self.log_ratio
            # A little up, so that the turns end: `left` falls as epsilon grows, and the two could chase each other by a
            # last digit.
            epsilon = needed * (1 + 1e-12)
        return math.inf

    def mu(self, epsilon: float, delta: float) -> float:
        """The largest mu, but for 10^-11 of it, whose claim is within (epsilon, delta); else ValueError."""
        checked_delta(delta)
        left = self.left(epsilon, delta)
        if left <= 0:
            raise ValueError(f"epsilon is {epsilon:g}; the sampler's table supports no claim that large")
        # Down by more than all roundings of this file together: a budget sized with this mu must never read above
        # epsilon.
        return mu_of(epsilon - 2 * self.log_ratio, left) * (1 - 1e-11)

    def left(self, epsilon: float, delta: float) -> float:
        """What remains of `delta` at `epsilon` for the mechanism itself; not above 0 if nothing does."""
        if epsilon > 700:  # exp would overflow; the distance term is above any delta long before
            return -1.0
        return math.exp(-self.log_ratio) * (delta - (1 + math.exp(epsilon + 2 * self.log_ratio)) * self.distance)


def sum_of_shares_log_ratio(shares: int, share_variance: int) -> float:
    """tau: how far one coordinate of a sum of discrete Gaussians is from one discrete Gaussian.

    Sum over k of 10 exp(-2 pi^2 / (1 / S_k + 1 / v)), S_k = k v (Kairouz, Liu, Steinke 2021, Theorem 9).
    """
    # 1 / (1 / S_k + 1 / v) with S_k = k v.
    harmonic = (share_variance * k / (k + 1) for k in range(1, shares))
    return math.fsum(10 * math.exp(-2 * math.pi**2 * each) for each in harmonic)


def _bisect(holds: Callable[[float], bool], good: float, bad: float) -> float:
    """The point next to `bad` at which `holds` still holds, to one part in 10^13."""
    while abs(good - bad) > 1e-13 * max(abs(good), abs(bad)):
        middle = (good + bad) / 2
        # Neighbouring floats. `good` is returned, never the middle: an error falls on the safe side.
        if middle in (good, bad):
            break
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return good
