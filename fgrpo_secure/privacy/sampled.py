"""What noise is worth when units are Poisson-sampled by their client in secret: privacy loss distributions (PLD).

Only the unit's own client knows the sample, so the amplification holds against everybody else, the server included.
It is worth what was fixed before the run: rate, noise and number of releases. A PLD cannot be composed with
parameters that depend on results, so no release is ever credited for noise that turned out larger.

What one sample releases together (a gradient sum, a reward sum) is one Gaussian mechanism of multiplier
(sum z^-2)^(-1/2) *before* sampling; sampling each by itself and composing would report too little.
dp-accounting composes; its distributions are pessimistic (Doroshenko et al. 2022, arXiv 2207.04380).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from fgrpo_secure.privacy.accounting import mu_of

GRID = 1e-3  # of the privacy loss; at 1e-4 the same epsilon to four digits, at ten times the time
TOLERANCE = 1e-4  # of the least multiplier, above it
PESSIMISM = 0.01  # the grid's: a rate near 1 may ask for a little more than arithmetic without a grid


@dataclass(frozen=True, slots=True)
class Sampling:
    """`releases` releases, each with noise of `multiplier` times the bound, of a sample that holds a unit at `rate`."""

    rate: float
    multiplier: float
    releases: int

    def epsilon(self, delta: float, releases: int | None = None) -> float:
        """Under zero-out, after all or the first `releases` releases."""
        count = self.releases if releases is None else releases
        return _epsilon(self.rate, self.multiplier, count, delta, "REPLACE_SPECIAL") if count else 0.0

    def epsilon_replace_one(self, delta: float) -> float:
        """When a unit's data may be exchanged for any other."""
        return _epsilon(self.rate, self.multiplier, self.releases, delta, "REPLACE_ONE")


def least_multiplier(rate: float, releases: int, epsilon: float, delta: float) -> float:
    """The smallest multiplier within (epsilon, delta), to one part in 10^4. Sampling never needs more than none."""

    def spent(multiplier: float) -> float:
        return Sampling(rate, multiplier, releases).epsilon(delta)

    high = math.sqrt(releases) / mu_of(epsilon, delta) * (1 + PESSIMISM)
    low, at_high = high / 2, 0.0  # of `high` it is only known that it is enough
    while (at_low := spent(low)) <= epsilon:
        low, high, at_high = low / 2, low, at_low
    while high - low > TOLERANCE * high:
        width, guess = high - low, _between(low, high, at_low, at_high, epsilon)
        # To both sides of a good guess, so that the two ends meet there; where it was a bad one, halving helps.
        for probe in (guess * (1 + TOLERANCE / 3), guess * (1 - TOLERANCE / 3), (low + high) / 2):
            if not low < probe < high or high - low <= TOLERANCE * high:
                continue
            if probe == (low + high) / 2 and high - low <= width / 2:
                continue
            found = spent(probe)
            if found <= epsilon:
                high, at_high = probe, found
            else:
                low, at_low = probe, found
    return high


def _between(low: float, high: float, at_low: float, at_high: float, wanted: float) -> float:
    """Where epsilon is `wanted`: between two ends it falls nearly as a power of the multiplier."""
    if not 0 < at_high < at_low < math.inf:
        return (low + high) / 2
    return float(low * (high / low) ** (math.log(at_low / wanted) / math.log(at_low / at_high)))


@lru_cache(maxsize=512)
def _epsilon(rate: float, multiplier: float, releases: int, delta: float, relation: str) -> float:
    # A second to import, which runs without sampling need not wait for.
    import dp_accounting  # type: ignore[import-untyped]  # dp-accounting ships no types
    from dp_accounting.pld import PLDAccountant  # type: ignore[import-untyped]

    accountant = PLDAccountant(dp_accounting.NeighboringRelation[relation], value_discretization_interval=GRID)
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier))
    return float(accountant.compose(event, releases).get_epsilon(delta))
