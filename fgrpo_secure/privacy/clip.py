"""The first privacy stage: an update becomes one whose L2 norm is bounded, whatever the data did to it.

The integer check in `encode` is what the privacy proof rests on; this stage decides how much signal survives.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

SMALLEST_CLIP = 1e-100  # beyond these, scales and norms leave the range of normal floats
LARGEST_CLIP = 1e100


@dataclass(frozen=True, slots=True)
class Update:
    """What local training changed, shape (d,). Secret, and of any size."""

    values: FloatArray = field(repr=False)

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or self.values.dtype != np.float64:
            raise ValueError("an update must be a one-dimensional float64 array")

    @staticmethod
    def zero(dimension: int) -> "Update":
        """The update of a client that has nothing to say."""
        return Update(np.zeros(dimension))


@dataclass(frozen=True, slots=True)
class ClippedUpdate:
    """An update whose L2 norm is at most `bound`. Still secret."""

    values: FloatArray = field(repr=False)
    bound: float

    def times(self, weight: float) -> "ClippedUpdate":
        """The update times a weight, with the same bound.

        **Claim** Norm at most `bound`: the weight is above 0 and at most 1, else ValueError.
        **Why** Weights multiply *after* the clip. Before it, clipping would erase them; a weight above 1
        after it would break the bound. The message does not name the weight: it depends on data.
        """
        if not 0.0 < weight <= 1.0:
            raise ValueError("a weight must be above 0 and at most 1")
        return self if weight == 1.0 else ClippedUpdate(self.values * weight, self.bound)


def to_norm(update: Update, clip_norm: float) -> ClippedUpdate:
    """The update, shortened to L2 norm `clip_norm` if it is longer; zero if anything in it is not finite.

    **Claim** The exact norm of the result is at most `clip_norm`: the computed one is off by less than the
    slack.
    **Why** Scaling by the largest magnitude first keeps squares of huge or denormal numbers from
    overflowing or vanishing. Data must not be able to fail visibly, so no value raises; only a bad
    `clip_norm` does (ValueError).
    """
    checked_clip_norm(clip_norm)
    values = update.values
    largest = float(np.max(np.abs(values), initial=0.0))
    # A gradient that overflowed contributes nothing, like one of no data: an error here would tell which client it was.
    if largest == 0.0 or not math.isfinite(largest):
        return ClippedUpdate(np.zeros_like(values), clip_norm)
    # The dot product of d squares is off by at most d units in the last place; 16 more for square root, quotient and
    # product. So the float's word for "at most clip_norm" is true of the exact norm.
    slack = 1.0 - (values.size + 16) * 2.0**-52
    unit = values / largest
    unit_norm = math.sqrt(float(np.dot(unit, unit)))
    if unit_norm <= clip_norm / largest * slack:
        return ClippedUpdate(values, clip_norm)
    unit *= clip_norm / unit_norm * slack
    return ClippedUpdate(unit, clip_norm)


def checked_clip_norm(clip_norm: float) -> float:
    """`clip_norm` itself; ValueError unless it lies within the range that floats can scale by."""
    if not SMALLEST_CLIP <= clip_norm <= LARGEST_CLIP:
        raise ValueError(f"clip_norm is {clip_norm:g}; allowed are {SMALLEST_CLIP:g} to {LARGEST_CLIP:g}")
    return clip_norm
