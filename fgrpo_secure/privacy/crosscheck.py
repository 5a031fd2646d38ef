"""The same claim by other accountants, beside the one of record: an error in ours would show as a disagreement.

Ours (`accounting`) is Gaussian differential privacy in closed form. Two libraries compose the same Gaussian mechanism
their own way: dp-accounting's privacy loss distributions (PLD, an upper bound on a grid) and Opacus' PRV and Renyi
accountants. Two formulas judge the integer noise by itself, without the lemma: concentrated privacy of the discrete
Gaussian, and Skellam noise of the same variance, which this library does not use.

Opacus' GDP accountant is a central-limit approximation that reports too little; it has no part here. The libraries
take seconds to import, so they are imported when a figure is asked for.
"""

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from fgrpo_secure.privacy.accounting import sum_of_shares_log_ratio

LARGEST_EPSILON = 50.0  # beyond it nobody is protected, and distributions on a grid take minutes
LARGEST_DELTA = 0.1  # likewise
ORDERS = (1.01, 1.05, *(1 + step / 10 for step in range(1, 100)), *map(float, range(11, 513)))


@dataclass(frozen=True, slots=True)
class Noise:
    """One round's honest noise on the lattice: L2 bound B, coordinates D, and `shares` shares of `variance` each."""

    bound: int
    length: int
    shares: int
    variance: int

    @property
    def total(self) -> int:
        """Variance of all honest shares together."""
        return self.shares * self.variance


@dataclass(frozen=True, slots=True)
class Figures:
    """epsilon at the claim's delta, by method; None where a method cannot state one."""

    pld: float | None
    prv: float | None
    rdp: float | None
    zcdp: float | None
    skellam: float | None

    def facts(self) -> dict[str, object]:
        """By their public names."""
        return {f"privacy.crosscheck.{name}": getattr(self, name) for name in self.__slots__}


NOTHING = Figures(None, None, None, None, None)


def figures(epsilon: float, multiplier: float, noise: Noise | None, rounds: int, delta: float) -> Figures:
    """`rounds` rounds of a Gaussian mechanism of noise multiplier `multiplier`, whose claim is `epsilon`.

    Of record is `multiplier`, which the lemma derives from `noise`; the integer formulas start from `noise` itself,
    and are left out without it.
    """
    if epsilon > LARGEST_EPSILON or delta > LARGEST_DELTA:
        return NOTHING
    return Figures(
        pld=_stated(_pld, multiplier, rounds, delta),
        prv=_stated(_prv, multiplier, rounds, delta),
        rdp=_stated(_rdp, multiplier, rounds, delta),
        zcdp=None if noise is None else discrete_gaussian_epsilon(noise, rounds, delta),
        skellam=None if noise is None else skellam_epsilon(noise, rounds, delta),
    )


def discrete_gaussian_epsilon(noise: Noise, rounds: int, delta: float) -> float:
    """Distributed discrete Gaussian by concentrated privacy (Kairouz, Liu, Steinke 2021, Theorem 9).

    Of the three bounds there this is the L2 one with its dimension term, as Renyi divergences of order a:
    a/2 (B/sigma + sqrt(D) tau)^2 or a/2 (B/sigma)^2 + tau D, whichever is smaller.
    """
    tau = sum_of_shares_log_ratio(noise.shares, noise.variance)
    step = noise.bound / math.sqrt(noise.total)
    spread = step + math.sqrt(noise.length) * tau

    def divergence(order: float) -> float:
        return min(order / 2 * step**2 + tau * noise.length, order / 2 * spread**2)

    return _least(ORDERS, divergence, rounds, delta)


def skellam_epsilon(noise: Noise, rounds: int, delta: float) -> float:
    """Skellam noise of the same total variance (Agarwal, Kairouz, Liu 2021, Theorem 3.5): integer orders only.

    The L1 bound is B * min(sqrt(D), B), since integers satisfy L1 <= L2^2.
    """
    variance, longest = noise.total, noise.bound * min(math.sqrt(noise.length), noise.bound)

    def divergence(order: float) -> float:
        extra = ((2 * order - 1) * noise.bound**2 + 6 * longest) / (4 * variance**2)
        return order * noise.bound**2 / (2 * variance) + min(extra, 3 * longest / (2 * variance))

    return _least([order for order in ORDERS if order == int(order)], divergence, rounds, delta)


def collapsed(multipliers: list[float]) -> float:
    """The noise multiplier of several releases from the same cohort, taken together: (sum z^-2)^(-1/2).

    **Why** Releases from one sample must be joined before any amplification by sampling is claimed: sampled one by
    one they would be composed as if each had a sample of its own, which reports too little.
    """
    return math.sqrt(1 / math.fsum(multiplier**-2 for multiplier in multipliers))


def _least(orders: Iterable[float], divergence: Callable[[float], float], rounds: int, delta: float) -> float:
    """The best epsilon over Renyi orders a (Canonne, Kamath, Steinke 2020, Proposition 12)."""
    found = (
        rounds * divergence(order) + math.log1p(-1 / order) - math.log(delta * order) / (order - 1) for order in orders
    )
    # Below 0 where delta alone protects.
    return max(0.0, min(found))


@lru_cache
def _stated(
    library: Callable[[float, int, float], float], multiplier: float, rounds: int, delta: float
) -> float | None:
    """What an accountant says; None where its grid cannot hold this delta: all three fail far below 1e-12."""
    try:
        epsilon = library(multiplier, rounds, delta)
    except (ArithmeticError, RuntimeError, ValueError):  # as the libraries refuse, each in its way
        return None
    return max(0.0, epsilon) if math.isfinite(epsilon) else None  # below 0 where delta alone protects


def _pld(multiplier: float, rounds: int, delta: float) -> float:
    """Zero-out is dp-accounting's REPLACE_SPECIAL; its REPLACE_ONE means different things in its two accountants."""
    import dp_accounting  # type: ignore[import-untyped]  # dp-accounting ships no types
    from dp_accounting.pld import PLDAccountant  # type: ignore[import-untyped]

    accountant = PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(dp_accounting.GaussianDpEvent(multiplier), rounds)
    return float(accountant.get_epsilon(delta))


def _prv(multiplier: float, rounds: int, delta: float) -> float:
    return _opacus("PRVAccountant", multiplier, rounds, delta)


def _rdp(multiplier: float, rounds: int, delta: float) -> float:
    return _opacus("RDPAccountant", multiplier, rounds, delta)


def _opacus(kind: str, multiplier: float, rounds: int, delta: float) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of orders at the end of its list, and of a division at sample rate 1
        from opacus import accountants  # type: ignore[import-untyped]  # Opacus ships no types

        accountant = getattr(accountants, kind)()
        accountant.history = [(multiplier, 1.0, rounds)]
        return float(accountant.get_epsilon(delta=delta))
