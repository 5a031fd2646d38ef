"""From a clipped update and its scores to integers, with one norm bound over all of them together, and back.

Precision is fixed, not the number of bits: the update is scaled so that a clipped one has norm KAPPA *
sqrt(d) on the integer lattice. The integer bound, the noise and its table then depend on the dimension
alone, not on the clip norm. Formulas: Kairouz, Liu, Steinke 2021 (arXiv 2102.06387), Theorem 1, with beta =
exp(-1/2).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fgrpo_secure.entropy import Entropy
from fgrpo_secure.privacy.clip import ClippedUpdate, checked_clip_norm
from fgrpo_secure.privacy.keystream import KEY_BYTES, Keystream, pieces

KAPPA = 5.0  # lattice steps per coordinate, root mean square: rounding costs 0.5 % of the noise
SCORE_SCALE = 0.1  # a score coordinate's largest share of the clip norm
MAX_DIMENSION = 1 << 32
ATTEMPTS = 8
SUM_TAIL_BITS = 40
MIN_RING_BITS = 8
MAX_RING_BITS = 62

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


class SumOutOfBounds(ValueError):
    """A sum longer than honest clients' updates and noise can make it: somebody lied."""

    def __init__(self, survivors: int, bound: int) -> None:
        super().__init__(f"the sum of {survivors} clients exceeds its norm bound of {bound} lattice steps")
        self.survivors = survivors
        self.bound = bound


@dataclass(frozen=True, slots=True)
class Lattice:
    """The public scaling of a round. `integer_bound` is the L2 bound B over update and scores together."""

    dimension: int
    clip_norm: float
    scale: float
    scores: int
    score_scale: float
    integer_bound: int

    @staticmethod
    def build(dimension: int, clip_norm: float, scores: int = 2) -> "Lattice":
        """The lattice for updates of shape (dimension,) and `scores` extra coordinates, or ValueError."""
        if not 1 <= dimension <= MAX_DIMENSION:
            raise ValueError(f"dimension is {dimension}; allowed are 1 to {MAX_DIMENSION}")
        if not 0 <= scores <= 64:
            raise ValueError(f"scores is {scores}; allowed are 0 to 64")
        scale = KAPPA * math.sqrt(dimension) / checked_clip_norm(clip_norm)
        radius = KAPPA * math.sqrt(dimension * (1 + scores * SCORE_SCALE**2))
        bound = rounded_norm_bound(radius, dimension + scores)
        return Lattice(dimension, clip_norm, scale, scores, SCORE_SCALE, bound)

    @property
    def length(self) -> int:
        """Coordinates of the encoded vector: update and scores."""
        return self.dimension + self.scores

    @property
    def score_radius(self) -> float:
        """The largest magnitude of a score coordinate, in lattice steps."""
        return KAPPA * math.sqrt(self.dimension) * self.score_scale


@dataclass(frozen=True, slots=True)
class Score:
    """One secret number with the public range that it is kept in."""

    value: float = field(repr=False)
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class EncodedVector:
    """Integers, shape (d + scores,), whose exact L2 norm is at most `bound`. Still secret."""

    values: IntArray = field(repr=False)
    bound: int


@dataclass(frozen=True, slots=True)
class DecodedSum:
    """A sum over clients in the units of the update and of each score."""

    update_sum: FloatArray = field(repr=False)
    score_sums: tuple[float, ...] = field(repr=False)


def rounded_norm_bound(radius: float, length: int) -> int:
    """B(R, D): the norm that random rounding of a vector of norm R keeps with probability 1 - exp(-1/2)."""
    # Rounding moves each coordinate by less than 1: this one holds for every draw, and is the smaller one for short
    # vectors.
    always = radius + math.sqrt(length)
    usually = math.sqrt(radius**2 + length / 4 + radius + math.sqrt(length) / 2)
    return math.ceil(min(always, usually))


def to_ring(clipped: ClippedUpdate, scores: Sequence[Score], lattice: Lattice, rounding: Entropy) -> EncodedVector:
    """The update and its scores as integers, rounded up or down at random so that the mean is exact.

    **Claim** L2 sensitivity at most `lattice.integer_bound` under replace-with-zero, over all coordinates
    together.
    **Why** Nothing is returned whose integers were not checked exactly; no float above has a part in the
    proof. ValueError if the update has another length or clip norm than the lattice, or the scores another
    number.
    """
    if clipped.values.shape != (lattice.dimension,) or clipped.bound != lattice.clip_norm:
        raise ValueError("the clipped update does not have this lattice's dimension and clip norm")
    if len(scores) != lattice.scores:
        raise ValueError(f"{len(scores)} scores; this lattice has {lattice.scores}")
    bound = lattice.integer_bound
    if not np.max(np.abs(clipped.values)) <= clipped.bound:  # false for NaN too, which has no integer
        return EncodedVector(np.zeros(lattice.length, np.int64), bound)
    tail = np.array([_coordinate(score, lattice) for score in scores])
    # So often and no more: an update for which rounding hardly ever fits would be seen by its client's silence.
    for attempt in range(ATTEMPTS):
        rounded = _round_at_random(clipped.values, lattice.scale, tail, rounding.bytes(KEY_BYTES, "rounding", attempt))
        if within(rounded, bound):
            return EncodedVector(rounded, bound)
    # Never longer than the exact vector.
    truncated = np.trunc(np.append(clipped.values * lattice.scale, tail)).astype(np.int64)
    return EncodedVector(truncated if within(truncated, bound) else np.zeros_like(truncated), bound)


def from_ring(total: IntArray, lattice: Lattice, score_ranges: Sequence[tuple[float, float]], count: int) -> DecodedSum:
    """The sums over `count` clients, from the sum of their encoded vectors, shape (d + scores,)."""
    if total.shape != (lattice.length,) or len(score_ranges) != lattice.scores:
        raise ValueError("the sum or the score ranges do not have this lattice's length")
    sums = []
    for raw, (low, high) in zip(total[lattice.dimension :], score_ranges, strict=True):
        middle, half = _centre(low, high)
        # Every survivor's score was centred before it was encoded: `count` middles come back.
        sums.append(count * middle + float(raw) / lattice.score_radius * half)
    return DecodedSum(total[: lattice.dimension] / lattice.scale, tuple(sums))


def within(values: IntArray, bound: int) -> bool:
    """Whether the exact L2 norm of integers is at most `bound`, without overflow for any int64 input."""
    if values.size == 0:
        return True
    # Before any square: that of a larger entry wraps, and a vector far beyond the bound would pass for a short one.
    if int(values.max()) > bound or int(values.min()) < -bound:
        return False
    step = (2**63 - 1) // max(1, bound * bound)  # so many squares of at most bound^2 fit an int64
    if step == 0:
        return sum(int(value) ** 2 for value in values) <= bound * bound
    parts = (values[start : start + step] for start in range(0, values.size, step))
    squares = sum(int(np.dot(part, part)) for part in parts)
    return squares <= bound * bound


def sum_bound(lattice: Lattice, survivors: int, share_variance: int, vectors: int = 1) -> int:
    """The norm, in lattice steps, that a sum of honest vectors exceeds with probability <= 2^-40.

    Each survivor sent the sum of at most `vectors` vectors. Every vector has norm at most B; the noise of
    variance V = survivors * share_variance is sub-Gaussian in each of the D coordinates, so its squared norm
    exceeds V * (D + 2 sqrt(D x) + 2 x) with probability at most exp(-x) (Hsu, Kakade, Zhang 2012, Theorem 2.1).
    """
    x = SUM_TAIL_BITS * math.log(2)
    tail = lattice.length + 2 * math.sqrt(lattice.length * x) + 2 * x
    return survivors * vectors * lattice.integer_bound + math.ceil(math.sqrt(survivors * share_variance * tail))


def check_sum(total: IntArray, lattice: Lattice, survivors: int, share_variance: int, vectors: int = 1) -> None:
    """Returns if `total`, shape (d + scores,), can be a sum of honest clients; else raises SumOutOfBounds.

    **Why** The ring accepts any value, so a lying client's upload is bounded by nothing else.
    """
    bound = sum_bound(lattice, survivors, share_variance, vectors)
    if not within(total, bound):
        raise SumOutOfBounds(survivors, bound)


def required_ring_bits(lattice: Lattice, cohort: int, largest_noise: int, vectors: int = 1) -> int:
    """The fewest ring bits (at least 8) in which no sum over `cohort` honest clients ever wraps around.

    Each client sends the sum of at most `vectors` encoded vectors and one noise share.
    `largest_noise` is the largest magnitude that one noise sample can have (0 without noise). ValueError
    above 62.
    """
    largest = cohort * (vectors * lattice.integer_bound + largest_noise)
    bits = max(MIN_RING_BITS, largest.bit_length() + 1)  # largest < 2^(bits - 1)
    if bits > MAX_RING_BITS:
        raise ValueError(f"the sum of {cohort} vectors needs {bits} ring bits; at most {MAX_RING_BITS} are allowed")
    return bits


def _coordinate(score: Score, lattice: Lattice) -> float:
    """A score on the lattice: centred on its public midpoint, within `score_radius`; 0 if not a number."""
    middle, half = _centre(score.low, score.high)
    # A gain that is no number is sent as none: a client that fell silent over it would tell (`visible-failure`).
    if half == 0.0 or math.isnan(score.value):
        return 0.0
    return min(1.0, max(-1.0, (score.value - middle) / half)) * lattice.score_radius


def _centre(low: float, high: float) -> tuple[float, float]:
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"a score's range is {low:g} to {high:g}; it must be finite and ascending")
    return low / 2 + high / 2, high / 2 - low / 2


def _round_at_random(values: FloatArray, scale: float, tail: FloatArray, key: bytes) -> IntArray:
    """floor(x + u) of all `values` times `scale` and, after them, of `tail`; u uniform on multiples of 2^-32: up with
    the probability of the fractional part."""
    stream = Keystream(key)
    rounded = np.empty(values.size + tail.size, np.int64)
    # Scaled piece by piece: a vector of them all would be one more in the memory of a client with a big adapter.
    for piece in pieces(values.size):
        _round_piece(values[piece] * scale, stream, rounded[piece])
    _round_piece(tail, stream, rounded[values.size :])
    return rounded


def _round_piece(exact: FloatArray, stream: Keystream, out: IntArray) -> None:
    # Up with the probability of the fraction, so that the mean is exact. Rounding to nearest would bias what all
    # clients round alike.
    np.copyto(out, np.floor(exact + stream.words32(exact.size) * 2.0**-32), casting="unsafe")
