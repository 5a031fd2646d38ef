"""What noise is worth when units are Poisson-sampled by their client in secret: privacy loss distributions (PLD).

Only the unit's own client knows the sample, so the amplification holds against everybody else, the server included.
It is worth what was fixed before the run: rate, noise and number of releases. A PLD cannot be composed with
parameters that depend on results, so no release is ever credited for noise that turned out larger.

What one sample releases together (a gradient sum, a reward sum) is one Gaussian mechanism of multiplier
(sum z^-2)^(-1/2) *before* sampling; sampling each by itself and composing would report too little.
dp-accounting composes; its distributions are pessimistic (Doroshenko et al. 2022, arXiv 2207.04380).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from fgrpo_secure.privacy.accounting import mu_of

ZERO_OUT, REPLACE_ONE = "REPLACE_SPECIAL", "REPLACE_ONE"  # dp-accounting's names of what may differ
GRID = 1e-3  # of the privacy loss; at 1e-4 the same epsilon to four digits, at ten times the time
COARSE_GRID = 1e-2  # a tenth of the time; no figure that is stated comes from it
TOLERANCE = 1e-4  # of the least multiplier, above it
ROUGH = 1e-2  # the same, on the coarse grid
PESSIMISM = 0.01  # the grid's: a rate near 1 may ask for a little more than arithmetic without a grid


@dataclass(frozen=True, slots=True)
class Sampling:
    """`releases` releases, each with noise of `multiplier` times the bound, of a sample that holds a unit at `rate`."""

    rate: float
    multiplier: float
    releases: int

    def epsilon(self, delta: float, releases: int | None = None) -> float:
        """epsilon at `delta` under zero-out, after all releases or the first `releases` of them."""
        count = self.releases if releases is None else releases
        return _epsilon(self.rate, self.multiplier, count, delta, ZERO_OUT) if count else 0.0

    def rough_epsilon(self, delta: float) -> float:
        """About `epsilon(delta)`, from the coarse grid and never below it: to look by, not to be stated."""
        return float(_composed(self.rate, self.multiplier, self.releases, ZERO_OUT, COARSE_GRID).get_epsilon(delta))

    def epsilon_replace_one(self, delta: float) -> float:
        """epsilon at `delta` after all releases, when a unit's data may be exchanged for any other."""
        return _epsilon(self.rate, self.multiplier, self.releases, delta, REPLACE_ONE)


def least_multiplier(rate: float, releases: int, epsilon: float, delta: float) -> float:
    """The smallest multiplier within (epsilon, delta), to one part in 10^4. Sampling never needs more than none.

    **Claim** The epsilon of the multiplier that is returned was computed on the fine grid, at no more than `delta`, and
    is at most `epsilon`; only the multiplier that is enough without any sampling is returned unseen.
    **Why** The coarse grid says where to look and nothing else. Whoever states a claim computes it again, at its delta.
    """
    # Plans whose deltas differ by less than this ask for the same noise, so that it is searched for once. Down: what
    # is within (epsilon, less) is within (epsilon, delta).
    fine = math.log1p(TOLERANCE)
    return _least_multiplier(rate, releases, epsilon, min(delta, math.exp(fine * math.floor(math.log(delta) / fine))))


@dataclass(frozen=True, slots=True)
class _Bracket:
    """`high` is enough for `wanted`, `low` is not; beside each its epsilon, as far as it was computed."""

    wanted: float
    high: float
    low: float = 0.0
    at_high: float = 0.0
    at_low: float = math.inf

    def after(self, probe: float, found: float) -> "_Bracket":
        """Narrowed by the epsilon that was found at `probe`; itself, if that lies outside."""
        if not self.low < probe < self.high:
            return self
        if found <= self.wanted:
            return replace(self, high=probe, at_high=found)
        return replace(self, low=probe, at_low=found)

    def guess(self) -> float:
        """Where epsilon is `wanted`: between two ends it falls nearly as a power of the multiplier."""
        if not 0 < self.at_high < self.at_low < math.inf:
            return (self.low + self.high) / 2
        return float(self.low * (self.high / self.low) ** (math.log(self.at_low / self.wanted) / self._fall()))

    def shifted(self, probe: float, found: float) -> float:
        """The guess from what another grid says at `probe`, with the power that this one saw."""
        if not (0 < self.at_high < self.at_low < math.inf and 0 < found < math.inf):
            return probe
        return float(probe * (self.high / self.low) ** (math.log(found / self.wanted) / self._fall()))

    def _fall(self) -> float:
        return math.log(self.at_low / self.at_high)


@lru_cache(maxsize=64)
def _least_multiplier(rate: float, releases: int, epsilon: float, delta: float) -> float:
    def rough(multiplier: float) -> float:
        return Sampling(rate, multiplier, releases).rough_epsilon(delta)

    def spent(multiplier: float) -> float:
        return Sampling(rate, multiplier, releases).epsilon(delta)

    without_sampling = math.sqrt(releases) / mu_of(epsilon, delta) * (1 + PESSIMISM)
    coarse = _narrowed(_Bracket(epsilon, without_sampling), rough, ROUGH)
    first = coarse.guess()
    found = spent(first)
    # The first probe is one end; the second one goes past the better guess, to be the other end.
    second = coarse.shifted(first, found) * (1 + TOLERANCE / 3 if found > epsilon else 1 - TOLERANCE / 3)
    ends = _Bracket(epsilon, without_sampling).after(first, found).after(second, spent(second))
    return _narrowed(ends, spent, TOLERANCE).high


def _narrowed(bracket: _Bracket, spent: Callable[[float], float], tolerance: float) -> _Bracket:
    """The bracket around the least multiplier of which `spent` is enough, to one part in 1 / `tolerance`."""
    while bracket.low == 0:
        probe = bracket.high / 2
        bracket = bracket.after(probe, spent(probe))
    while (width := bracket.high - bracket.low) > tolerance * bracket.high:
        guess, middle = bracket.guess(), (bracket.low + bracket.high) / 2
        # To both sides of a good guess, so that the two ends meet there; where it was a bad one, halving helps.
        for probe in (guess * (1 + tolerance / 3), guess * (1 - tolerance / 3), middle):
            left = bracket.high - bracket.low
            if left <= tolerance * bracket.high or (probe == middle and left <= width / 2):
                continue
            if bracket.low < probe < bracket.high:
                bracket = bracket.after(probe, spent(probe))
    return bracket


@lru_cache(maxsize=512)
def _epsilon(rate: float, multiplier: float, releases: int, delta: float, relation: str) -> float:
    return float(_composed(rate, multiplier, releases, relation, GRID).get_epsilon(delta))


@lru_cache(maxsize=8)  # some megabytes each; a claim asks for one at two deltas
def _composed(rate: float, multiplier: float, releases: int, relation: str, grid: float) -> Any:
    # A second to import, which runs without sampling need not wait for.
    import dp_accounting  # type: ignore[import-untyped]  # dp-accounting ships no types
    from dp_accounting.pld import PLDAccountant  # type: ignore[import-untyped]

    accountant = PLDAccountant(dp_accounting.NeighboringRelation[relation], value_discretization_interval=grid)
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier))
    return accountant.compose(event, releases)
