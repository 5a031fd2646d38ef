"""A clip norm that follows a quantile of the clients' update norms (Andrew, Thakkar, McMahan, Ramaswamy 2021).

Each client says whether its update was within the round's clip norm. That bit is one more coordinate of the vector
that is bounded, noised and masked as a whole, so the round's charge covers it; nothing about norms leaves a client in
another way. What follows is post-processing of the noised fraction of clients within: the clip norm moves up while
too few are within, and down while too many are (arXiv 1905.03871, Algorithm 1). The server publishes every round's
fraction in the plan of the next one, and each client computes the announced clip norm again.
"""

import math
from collections.abc import Sequence

import numpy as np

from fgrpo_secure.config.schema import AdaptiveClip
from fgrpo_secure.privacy.clip import LARGEST_CLIP, SMALLEST_CLIP, Update
from fgrpo_secure.privacy.encode import Score

LARGEST_STEP = 0.1  # of the clip norm's logarithm in a round, that noise alone may cause (one standard deviation)
ROUNDING = 1e-9  # exponentials of other machines differ in their last digits


def bit(update: Update, clip_norm: float) -> Score:
    """Whether an update is within the clip norm: 1 or 0 with its public range; the middle, which encodes to zero, if
    there is no finite update to judge.
    """
    largest = float(np.max(np.abs(update.values), initial=0.0))
    if not math.isfinite(largest):
        return missing()
    norm = largest * float(np.linalg.norm(update.values / largest)) if largest else 0.0
    return Score(float(norm <= clip_norm), 0.0, 1.0)


def missing() -> Score:
    """What a client sends whose round was unusable: zero on the lattice."""
    return Score(0.5, 0.0, 1.0)


def fraction_within(bit_sum: float, survivors: int) -> float:
    """The noised fraction of survivors whose update was within the clip norm, cut to 0 to 1, where the true one is."""
    return min(1.0, max(0.0, bit_sum / survivors))


def clip_norm(rule: AdaptiveClip, first: float, fractions: Sequence[float]) -> float:
    """The clip norm after rounds with these noised fractions; the first round's is `first`.

    C <- C exp(-learning_rate (fraction - quantile)), never further from `first` than the factor `rule.range`.
    """
    low, high = max(SMALLEST_CLIP, first / rule.range), min(LARGEST_CLIP, first * rule.range)
    norm = first
    for fraction in fractions:
        norm = min(high, max(low, norm * math.exp(-rule.learning_rate * (fraction - rule.quantile))))
    return norm


def agrees(announced: float, rule: AdaptiveClip, first: float, fractions: Sequence[float]) -> bool:
    """Whether an announced clip norm is the one that these fractions lead to."""
    return math.isclose(announced, clip_norm(rule, first, fractions), rel_tol=ROUNDING)


def steadiest(deviation: float) -> float:
    """The largest learning rate at which noise of this deviation does not toss the clip norm about."""
    return LARGEST_STEP / deviation
