"""Units inside a client: who takes part, the sum of their clipped vectors, and the noised mean of their rewards.

Every unit is clipped, rounded and checked on its own *before* the sum. Rounding a sum instead would let one unit's
data move the rounding of all others, by up to sqrt(d) lattice steps.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from fgrpo_secure.entropy import Entropy
from fgrpo_secure.privacy import discrete_gaussian
from fgrpo_secure.privacy.accounting import LEMMA_VARIANCE, round_mu_squared
from fgrpo_secure.privacy.encode import EncodedVector, IntArray, Lattice
from fgrpo_secure.privacy.keystream import KEY_BYTES

DRAW_BYTES = 8
REWARD_STEPS = 1000  # lattice steps of half a reward range: rounding moves a reward by at most a 2,000th of it


@dataclass(frozen=True, slots=True)
class EncodedSum:
    """Integers, shape (d + scores,): a sum over units, each with an exact L2 norm of at most `bound`. Still secret."""

    values: IntArray = field(repr=False)
    bound: int


def sampled(units: Sequence[str], rate: float | None, source: Entropy) -> list[str]:
    """The units that take part in a step: all, or a Poisson sample that nobody else sees.

    **Why** Each unit is drawn by itself, under its name: no unit's presence moves another's draw. The chance is `rate`
    rounded down to a multiple of 2^-64. The result may be empty; its noise is added all the same.
    """
    if rate is None:
        return list(units)
    # In integers and down: a float comparison could take a unit in at a higher rate than was accounted.
    limit = math.floor(Fraction(rate) * (1 << 8 * DRAW_BYTES))
    return [unit for unit in units if int.from_bytes(source.bytes(DRAW_BYTES, unit), "big") < limit]


def total(vectors: Iterable[EncodedVector], scores: EncodedVector, lattice: Lattice) -> EncodedSum:
    """The sum of the units' vectors and of the client's scores, which are public or noised already.

    **Claim** L2 sensitivity at most `lattice.integer_bound` when one unit is taken away, exactly.
    **Why** Each vector has that bound by its type, integers add without rounding, and nothing rescales the sum.
    ValueError if a vector carries another bound.
    """
    values = scores.values.copy()
    for vector in vectors:
        if vector.bound != lattice.integer_bound:
            raise ValueError("a unit's vector has another bound than this lattice's")
        values += vector.values
    return EncodedSum(values, lattice.integer_bound)


def reward_variance(noise_multiplier: float) -> int:
    """The lattice variance of the noise on a sum of clipped rewards, whose lattice bound is `REWARD_STEPS`."""
    return math.ceil((Fraction(noise_multiplier) * REWARD_STEPS) ** 2 + LEMMA_VARIANCE)


def reward_charge(noise_multiplier: float | None) -> Fraction:
    """mu^2 of one noised reward sum; 0 if there is none."""
    return (
        Fraction(0) if noise_multiplier is None else round_mu_squared(REWARD_STEPS, reward_variance(noise_multiplier))
    )


def noised_rewards(
    means: Iterable[float], limits: tuple[float, float], noise_multiplier: float, expected: float, entropy: Entropy
) -> tuple[float, float]:
    """The mean reward of a step from one clipped mean per unit, with noise, and that noise's deviation.

    `expected` is the public number of units to divide by. Units that are missing count as the middle of `limits`.

    **Claim** mu^2 is `reward_charge(noise_multiplier)` when one unit is taken away.
    **Why** A unit's mean, centred on the public middle, is at most REWARD_STEPS in magnitude, as an integer.
    """
    low, high = limits
    middle, half = low / 2 + high / 2, high / 2 - low / 2
    # A unit whose rewards are no numbers counts as the public middle, like one that is not there. The division is by
    # the expected number of units: the true one is a secret of the sample.
    steps = (round(min(1.0, max(-1.0, (mean - middle) / half)) * REWARD_STEPS) for mean in means if not np.isnan(mean))
    variance = reward_variance(noise_multiplier)
    noise = discrete_gaussian.sample(discrete_gaussian.table(variance), 1, entropy.bytes(KEY_BYTES, "rewards"))
    unit = half / REWARD_STEPS / expected
    return middle + (sum(steps) + int(noise[0])) * unit, math.sqrt(variance) * unit
