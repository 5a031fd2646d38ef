"""The noise stage: each client adds its share of a discrete Gaussian before anything leaves it.

Shares are sized for the fewest honest survivors a round can end with. `NoisePlan` is where the noise a run
asks for becomes an integer variance, and where a variance becomes a charge: exact fractions, no floats.
"""

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from fgrpo_secure.entropy import Entropy
from fgrpo_secure.privacy import discrete_gaussian
from fgrpo_secure.privacy.accounting import LEMMA_VARIANCE, round_mu_squared
from fgrpo_secure.privacy.encode import EncodedVector, Lattice
from fgrpo_secure.privacy.keystream import KEY_BYTES
from fgrpo_secure.privacy.units import EncodedSum

MIN_SHARE_VARIANCE = 16  # below it, sums of discrete Gaussians need not be close to one: accounting.Slack

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class NoisedVector:
    """An encoded vector plus this client's noise share, shape (d + scores,): to be masked, not shown.

    `share_variance` is 0 only where the run has no differential privacy, or the update was noised before.
    """

    values: IntArray = field(repr=False)
    bound: int
    share_variance: int


def add_share(encoded: EncodedVector | EncodedSum, variance: int, entropy: Entropy) -> NoisedVector:
    """The vector plus independent discrete Gaussian noise of this lattice variance; ValueError below 16.

    **Claim** The sum over h honest clients has at least the noise that `NoisePlan` charges for h.
    **Why** The share is drawn in the ring, under a fresh key, before masking: dropping masks never drops
    noise.
    """
    if variance < MIN_SHARE_VARIANCE:
        raise ValueError(f"a share's variance is {variance}; it must be at least {MIN_SHARE_VARIANCE}")
    # Drawn at once and forgotten: a key that came twice would make the noise of two rounds cancel in their difference.
    key = entropy.bytes(KEY_BYTES, "share")
    noise = discrete_gaussian.sample(discrete_gaussian.table(variance), encoded.values.size, key)
    return NoisedVector(np.add(encoded.values, noise, out=noise), encoded.bound, variance)


def no_noise(encoded: EncodedVector | EncodedSum) -> NoisedVector:
    """The vector as it is: where there is no differential privacy, or a trusted server adds the noise; nowhere else."""
    return NoisedVector(encoded.values, encoded.bound, 0)


def noised_before(encoded: EncodedVector) -> NoisedVector:
    """The vector as it is, for updates made from noised gradients alone (privacy.mode = "local") and no others.

    **Why** No noise is needed: whatever is computed from noised sums and public numbers is post-processing.
    """
    return NoisedVector(encoded.values, encoded.bound, 0)


@dataclass(frozen=True, slots=True)
class NoisePlan:
    """The noise of one round: what every client adds, and what a round costs by how many of them survive.

    `floor` is the least number of survivors, `colluders` how many of them may know their own share.
    """

    integer_bound: int
    floor: int
    colluders: int
    share_variance: int

    @staticmethod
    def build(lattice: Lattice, noise_multiplier: float, floor: int, colluders: int) -> "NoisePlan":
        """The smallest shares with which `floor` survivors reach `noise_multiplier` (deviation over bound).

        ValueError if no honest survivor would remain, or if the noise is out of the sampler's range.
        """
        if not 0 < noise_multiplier < 1e9:
            raise ValueError(f"noise_multiplier is {noise_multiplier:g}; it must be above 0 and finite")
        if not 0 <= colluders < floor:
            raise ValueError(
                f"colluders is {colluders}; it must be at least 0 and below the floor of {floor} survivors"
            )
        # Plus the lemma's variance, which a charge takes off again; divided among those who are surely honest, and
        # rounded up: colluders know their own shares and take them off.
        wanted = Fraction(noise_multiplier) ** 2 * lattice.integer_bound**2 + LEMMA_VARIANCE
        variance = max(MIN_SHARE_VARIANCE, -(-wanted // (floor - colluders)))
        if variance > discrete_gaussian.MAX_VARIANCE:
            raise ValueError(
                f"noise_multiplier is {noise_multiplier:g}; {floor - colluders} honest survivors of "
                f"{lattice.length} coordinates can add at most "
                f"{largest_multiplier(lattice, floor, colluders):.4g}"
            )
        return NoisePlan(lattice.integer_bound, floor, colluders, variance)

    @property
    def charge(self) -> Fraction:
        """mu^2 of a round that ends with the fewest survivors: what is charged before it opens."""
        return self.settled(self.floor)

    def settled(self, survivors: int) -> Fraction:
        """mu^2 of a round that ended with `survivors`; ValueError below the floor, where no round may end."""
        if survivors < self.floor:
            raise ValueError(f"survivors is {survivors}; a round never ends with fewer than {self.floor}")
        return round_mu_squared(self.integer_bound, (survivors - self.colluders) * self.share_variance)


def largest_multiplier(lattice: Lattice, floor: int, colluders: int) -> float:
    """The largest noise multiplier that the sampler's largest variance can give."""
    most = (floor - colluders) * discrete_gaussian.MAX_VARIANCE - LEMMA_VARIANCE
    return float(most**0.5 / lattice.integer_bound)
