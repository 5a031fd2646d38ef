"""Samples of the discrete Gaussian N_Z(0, variance): integer probabilities, AES-256-CTR bytes.

The table is built in integer arithmetic only, so that the samples of a key are the same on every machine.
The total variation distance of one sample to the discrete Gaussian is below `TABLE_DISTANCE`; everything
drawn is accounted for in `accounting.Slack`. Each sample costs the same operations, which closes the timing
channel of rejection samplers; cache timing by somebody on the same processor is out of scope.

Sources: Walker 1977 and Vose 1991 (alias method); Canonne, Kamath, Steinke 2020 (arXiv 2004.00010) for the
distribution and its sub-Gaussian tails.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fgrpo_secure.privacy.keystream import Keystream, pieces

MIN_VARIANCE = 1
MAX_VARIANCE = 1 << 34  # standard deviation 131,072; the table then has 2^22 cells
CELL_BITS = 192
TABLE_DISTANCE = 2.0**-191

_FIXED = 320  # fractional bits of the unnormalised probabilities
_TAIL_BITS = 63  # probabilities below 2^(63 - 320) of the largest are left out
_REST = CELL_BITS - 64  # bits of a threshold that only a tie looks at
_COINS = 1 << 124  # first counter blocks of the three streams of a key: cells at 0, coins, ties
_TIES = 1 << 125

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class AliasTable:
    """2^cell_bits equally likely cells; each gives its own magnitude below its threshold, else its alias.

    Magnitudes are 0 to `largest`; a sign is drawn beside them, so every magnitude above 0 holds both signs'
    mass. `top` is the leading 64 bits of each threshold, `rest` the other bits, `alias` the other
    magnitude.
    """

    variance: int
    largest: int
    cell_bits: int
    top: NDArray[np.uint64] = field(repr=False)
    rest: tuple[int, ...] = field(repr=False)
    alias: NDArray[np.int64] = field(repr=False)


@lru_cache(maxsize=8)
def table(variance: int) -> AliasTable:
    """The table of N_Z(0, variance); `variance` is an integer from 1 to 2^34, else ValueError. Built once."""
    _check(variance)
    masses = _masses(variance)
    cells = 1 << max(1, (len(masses) - 1).bit_length())
    thresholds, alias = _alias(_to_total(masses, cells << CELL_BITS), cells)
    ceiling = (1 << CELL_BITS) - 1  # a full cell is its own alias: its threshold has no effect
    thresholds = [min(threshold, ceiling) for threshold in thresholds]
    return AliasTable(
        variance=variance,
        largest=len(masses) - 1,
        cell_bits=cells.bit_length() - 1,
        top=np.array([threshold >> _REST for threshold in thresholds], np.uint64),
        rest=tuple(threshold & ((1 << _REST) - 1) for threshold in thresholds),
        alias=np.array(alias, np.int64),
    )


def largest_sample(variance: int) -> int:
    """A magnitude that no sample of this variance exceeds, about 18.9 standard deviations; 0 for variance 0.

    The tail is cut where exp(-k^2 / (2 variance)) < 2^(63 - 320); two steps allow for rounding in the cut.
    """
    if variance == 0:
        return 0
    _check(variance)
    return math.isqrt(math.ceil(2 * variance * (_FIXED - _TAIL_BITS) * math.log(2))) + 2


def sample(gaussian: AliasTable, count: int, key: bytes) -> IntArray:
    """`count` samples, shape (count,), determined by the 32-byte key: fewer samples are a prefix of more.

    One 32-bit word per sample gives the cell (low bits) and the sign (top bit), one 64-bit word the coin.
    """
    # Three streams that never meet, each by its own count: a tie that took from the coins would shift all later
    # samples, and fewer samples would be no prefix of more.
    cells, coins, ties = Keystream(key), Keystream(key, _COINS), Keystream(key, _TIES)
    samples = np.empty(count, np.int64)
    for piece in pieces(count):
        size = piece.stop - piece.start
        samples[piece] = pick(gaussian, cells.words32(size), coins.words64(size), ties)
    return samples


def pick(gaussian: AliasTable, words: NDArray[np.uint32], coins: NDArray[np.uint64], ties: Keystream) -> IntArray:
    """The samples of these words and coins; a coin equal to its threshold's top asks `ties` for the rest."""
    cell = (words & np.uint32((1 << gaussian.cell_bits) - 1)).astype(np.int64)
    top = gaussian.top[cell]
    magnitude = np.where(coins < top, cell, gaussian.alias[cell])
    # Once in 2^64: so rare that its timing tells nothing, and without it a threshold would have 64 bits where the claim
    # counts 192.
    for index in np.flatnonzero(coins == top):
        if int.from_bytes(ties.take(_REST // 8), "little") < gaussian.rest[cell[index]]:
            magnitude[index] = cell[index]
    # From a bit that the cell does not use, else magnitude and sign would depend on each other. Zero has both signs'
    # cells in one.
    sign = 1 - 2 * (words >> np.uint32(31)).astype(np.int64)
    signed: IntArray = magnitude * sign
    return signed


def _check(variance: int) -> None:
    if not MIN_VARIANCE <= variance <= MAX_VARIANCE:
        raise ValueError(f"a noise variance is {variance}; allowed are {MIN_VARIANCE} to {MAX_VARIANCE}")


def _masses(variance: int) -> list[int]:
    """2^320 exp(-k^2 / (2 variance)) for k = 0, 1, ..., off by about k^2 units in the last place.

    Neighbours differ by the factor exp(-(2k + 1) / (2 variance)), which itself shrinks by exp(-1 / variance).
    """
    ratio = _exp_minus(1, 2 * variance)
    shrink = _exp_minus(1, variance)
    mass, masses = 1 << _FIXED, []
    while mass >> _TAIL_BITS:
        masses.append(mass)
        mass = (mass * ratio) >> _FIXED
        ratio = (ratio * shrink) >> _FIXED
    return masses


def _exp_minus(numerator: int, denominator: int) -> int:
    """floor(2^320 exp(-numerator / denominator)), off by at most 1; the argument is at most 1."""
    one = 1 << (_FIXED + 64)
    term, total, order = one, one, 0
    while term:  # the series of exp(+x): all terms are positive
        order += 1
        term = term * numerator // (denominator * order)
        total += term
    return (one << _FIXED) // total


def _to_total(masses: list[int], total: int) -> list[int]:
    """Integers in proportion to the two-sided masses, of sum `total`; what rounding leaves goes to 0."""
    both = [masses[0], *(2 * mass for mass in masses[1:])]
    norm = sum(both)
    scaled = [mass * total // norm for mass in both]
    # To the likeliest value, whose mass it changes least in proportion. Exact, so that the cells share out all of it.
    scaled[0] += total - sum(scaled)
    return scaled


def _alias(scaled: list[int], cells: int) -> tuple[list[int], list[int]]:
    """Thresholds (0 to 2^CELL_BITS) and aliases of `cells` cells that share out `scaled` exactly (Vose)."""
    full = 1 << CELL_BITS
    rest = scaled + [0] * (cells - len(scaled))
    alias = list(range(cells))
    thresholds = [full] * cells
    small = [cell for cell, mass in enumerate(rest) if mass < full]
    large = [cell for cell, mass in enumerate(rest) if mass >= full]
    while small:
        poor, rich = small.pop(), large[-1]
        thresholds[poor] = rest[poor]
        alias[poor] = rich
        rest[rich] -= full - rest[poor]
        if rest[rich] < full:
            small.append(large.pop())
    return thresholds, alias
