"""What noise is worth when each unit takes part by its client's secret coin: privacy loss distributions (PLD).

Only the unit's own client knows the coins, so the amplification holds against everybody else, the server included.
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

    def within(multiplier: float) -> bool:
        return Sampling(rate, multiplier, releases).epsilon(delta) <= epsilon

    high = math.sqrt(releases) / mu_of(epsilon, delta) * (1 + PESSIMISM)
    low = high / 2
    while within(low):
        low, high = low / 2, low
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if within(middle) else (middle, high)
    return high


@lru_cache(maxsize=512)
def _epsilon(rate: float, multiplier: float, releases: int, delta: float, relation: str) -> float:
    # A second to import, which runs without sampling need not wait for.
    import dp_accounting  # type: ignore[import-untyped]  # dp-accounting ships no types
    from dp_accounting.pld import PLDAccountant  # type: ignore[import-untyped]

    accountant = PLDAccountant(dp_accounting.NeighboringRelation[relation], value_discretization_interval=GRID)
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier))
    return float(accountant.compose(event, releases).get_epsilon(delta))
