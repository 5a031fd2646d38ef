"""Budget against noise: how much of it one unit's releases need, and what a given amount is a guarantee of.

`Units` says what is released of a unit, `Sizing` solves, `Claim` is the result. Everything is charged as if each
release had the fewest honest shares of noise that it can have.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.privacy.accounting import LARGEST_MU, Slack, mu_of
from fgrpo_secure.privacy.encode import Lattice
from fgrpo_secure.privacy.noise import MIN_SHARE_VARIANCE, NoisePlan, largest_multiplier
from fgrpo_secure.privacy.odometer import GRAPH_FAILURE, Delta, Odometer, group
from fgrpo_secure.privacy.sampled import Sampling, least_multiplier
from protocols.params import SPARSE, Adversary, Parameters

HEADROOM = Fraction(2, 10**9)  # of a budget over what its rounds cost: other rounds' noise comes from a rounded figure
SESSIONS_PER_ROUND = 3  # that an owner's policy allows: a round may need a second or a third


class InfeasiblePlan(UnusableInput):
    """No run can satisfy the request; `nearest` names the nearest one that can be satisfied."""

    def __init__(self, reason: str, nearest: str) -> None:
        super().__init__(f"{reason}; nearest feasible: {nearest}")
        self.reason = reason
        self.nearest = nearest


@dataclass(frozen=True, slots=True)
class Claim:
    """The guarantee against the server, for a client that takes part in `rounds` rounds.

    `budget` is the sum of mu^2 that a client's ledger allows.
    """

    epsilon: float
    delta: float
    mu: float
    noise_multiplier: float
    budget: Fraction
    rounds: int
    parts: Delta
    slack: Slack
    sampling: Sampling | None = None

    @property
    def odometer(self) -> Odometer:
        """What a unit's charges read, however the run ends."""
        return Odometer(self.budget, self.parts, self.slack, self.sampling)

    @property
    def delta_parts(self) -> dict[str, float]:
        """Every failure probability in `delta`, by name."""
        return self.parts.facts(self.slack, self.epsilon)

    @property
    def epsilon_replace_one(self) -> float | None:
        """epsilon when the unit's data may be exchanged for any other; None where it has no finite value."""
        if self.sampling is None:
            return self.for_group(2)  # taken away and put in: twice the bound, as for two units
        epsilon = self.slack.epsilon_by(self.sampling.epsilon_replace_one, self.parts.planned)
        return None if math.isinf(epsilon) else epsilon

    def for_group(self, size: int) -> float | None:
        """epsilon for `size` units together; None where it has no finite value, or sampling hides who was in."""
        if self.sampling is not None or size * self.mu > LARGEST_MU:
            return None
        epsilon = group(self.slack, self.mu, size, self.parts.planned)
        return None if math.isinf(epsilon) else epsilon


@dataclass(frozen=True, slots=True)
class Units:
    """Units inside a client: how many it holds at most, and what each releases in a round that it takes part in.

    `rounds` is how many rounds that are, `releases` the steps of such a round. `local`: a client adds all noise
    itself. `rate`: of the secret Poisson sampling of a step. `reward_charge`: mu^2 of a noised reward sum that
    is released with each step's gradient.
    """

    per_client: int
    rounds: int
    releases: int = 1
    local: bool = False
    rate: float | None = None
    reward_charge: Fraction = Fraction(0)


def sizing(
    adversary: Adversary | None, lattice: Lattice, parameters: Parameters, most: int, units: Units, delta: float
) -> "Sizing":
    """Noise for the least honest survivors; `most` may survive.

    What a trusted server or a client adds alone, nobody can lose or know.
    """
    # Noise that one party adds whole cannot be lost with those who drop out, nor be known to colluders.
    alone = adversary is None or units.local
    floor, colluders = (1, 0) if alone else (parameters.floor, parameters.colluders)
    sparse = SESSIONS_PER_ROUND * units.rounds if not alone and parameters.graph == SPARSE else 0
    try:
        parts = Delta.split(delta, sparse)
    except ValueError as problem:
        raise InfeasiblePlan(str(problem), f"privacy.delta above {2 * sparse * GRAPH_FAILURE:.3g}") from None
    return Sizing(lattice, 1 if units.local else most, floor, colluders, units, parts)


@dataclass(frozen=True, slots=True)
class Sizing:
    """Solves budget against noise for the releases that one unit takes part in."""

    lattice: Lattice
    shares: int
    floor: int
    colluders: int
    units: Units
    parts: Delta

    @property
    def delta(self) -> float:
        """What the noise is sized with."""
        return self.parts.planned

    @property
    def participations(self) -> int:
        """Releases that a unit takes part in."""
        return self.units.rounds * self.units.releases

    @property
    def slack(self) -> Slack:
        """The most that any number of survivors with any admissible variance can cost beyond GDP."""
        return Slack.of(self.participations, self.lattice.length, self.shares, MIN_SHARE_VARIANCE)

    def solve(self, epsilon: float | None, noise_multiplier: float | None) -> tuple[NoisePlan, Claim]:
        """The smallest noise that keeps within `epsilon`, or the claim of `noise_multiplier`."""
        if (epsilon is None) == (noise_multiplier is None):
            raise ValueError("give exactly one of epsilon and noise_multiplier")
        if epsilon is None:
            noise = self._noise(noise_multiplier or 0.0)
            return noise, self._claim(noise, None)
        if not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon is {epsilon:g}; it must be above 0 and finite")
        largest = self._largest_epsilon()
        if epsilon > largest:
            raise InfeasiblePlan(f"epsilon = {epsilon:g} cannot be stated at this delta", f"epsilon = {largest:g}")
        mu = self.slack.mu(epsilon, self.delta)
        noise = self._noise(self._multiplier(epsilon, mu))
        return noise, self._claim(noise, Fraction(mu) ** 2)

    def _multiplier(self, epsilon: float, mu: float) -> float:
        """The least noise multiplier of a gradient sum, after what a reward sum beside it costs."""
        if self.units.rate is None:
            # mu^2 adds up over releases; the rewards' noise has its part of each.
            joint = mu / math.sqrt(self.participations)
        else:
            left = self.slack.left(epsilon, self.delta)
            joint = 1 / least_multiplier(self.units.rate, self.participations, epsilon - 2 * self.slack.log_ratio, left)
        alone = joint**2 - float(self.units.reward_charge)
        if alone <= 0:
            least = 1 / joint
            raise InfeasiblePlan(
                f"the rewards' noise alone costs more than epsilon = {epsilon:g}",
                f"weighting.reward_noise_multiplier above {least:.3g}",
            )
        # Up: the charge of this multiplier, rounded, must not exceed the budget that it was solved for.
        return 1 / math.sqrt(alone) * (1 + 1e-12)

    def _noise(self, noise_multiplier: float) -> NoisePlan:
        largest = largest_multiplier(self.lattice, self.floor, self.colluders)
        if largest < noise_multiplier < math.inf:
            mu = math.sqrt(self.participations) / largest
            raise InfeasiblePlan(
                f"noise_multiplier = {noise_multiplier:.4g} is beyond the sampler's range",
                f"noise_multiplier = {largest:.4g} (epsilon = {self.slack.epsilon(mu, self.delta):.4g})",
            )
        return NoisePlan.build(self.lattice, noise_multiplier, self.floor, self.colluders)

    def _claim(self, noise: NoisePlan, budget: Fraction | None) -> Claim:
        """The claim of this noise; `budget` is the sum of mu^2 that was asked for, if one was."""
        release = noise.charge + self.units.reward_charge
        if self.units.rate is not None:
            return self._sampled_claim(noise, 1 / math.sqrt(release))
        needed = self.participations * release
        # No more than the rounds cost, although more was allowed: what stands in a ledger's budget, a server could have
        # spent.
        limit = needed * (1 + HEADROOM) if budget is None else min(budget, needed * (1 + HEADROOM))
        mu = math.sqrt(needed)
        epsilon = self._epsilon(math.sqrt(limit))
        if epsilon is None:
            largest = self.slack.mu(self._largest_epsilon(), self.delta)
            raise InfeasiblePlan(
                f"so little noise that no finite epsilon can be stated at delta = {self.delta:g}",
                f"noise_multiplier = {math.sqrt(self.participations) / largest:.4g}",
            )
        multiplier = 1 / math.sqrt(noise.charge)
        return self._stated(epsilon, mu, multiplier, limit)

    def _sampled_claim(self, noise: NoisePlan, joint_multiplier: float) -> Claim:
        """The claim of `participations` sampled releases; its mu is that of the same epsilon without sampling."""
        sampling = Sampling(self.units.rate or 1.0, joint_multiplier, self.participations)
        epsilon = self.slack.epsilon_by(sampling.epsilon, self.delta)
        # 0 where the grid sees no loss at all: a claim of nothing spent is none that this accountant can make.
        if not 0 < epsilon <= self._largest_epsilon():
            raise InfeasiblePlan(
                f"no finite epsilon above 0 can be stated for a noise multiplier of {joint_multiplier:.4g}",
                "a noise_multiplier between 0.3 and 1000",
            )
        mu = mu_of(epsilon, self.delta)
        return self._stated(epsilon, mu, 1 / math.sqrt(noise.charge), Fraction(mu) ** 2, sampling)

    def _stated(
        self, epsilon: float, mu: float, multiplier: float, budget: Fraction, sampling: Sampling | None = None
    ) -> Claim:
        total, rounds = self.parts.total, self.units.rounds
        return Claim(epsilon, total, mu, multiplier, budget, rounds, self.parts, self.slack, sampling)

    def _epsilon(self, mu: float) -> float | None:
        if mu > LARGEST_MU:
            return None
        epsilon = self.slack.epsilon(mu, self.delta)
        return None if math.isinf(epsilon) else epsilon

    def _largest_epsilon(self) -> float:
        """Where the distance of the sampler's table would use up a tenth of delta, rounded down."""
        return math.floor(math.log(self.delta / 10) - math.log(self.slack.distance))
