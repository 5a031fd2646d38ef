"""What a configuration costs and whether it can learn, before anything runs.

From plain numbers to thresholds, noise, ring, (epsilon, delta) and a verdict. Everything is charged as if
each round ended with the fewest survivors; rounds that end better cost less, and the ledger then shows it.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from fgrpo_secure.privacy import discrete_gaussian, traffic
from fgrpo_secure.privacy.accounting import LARGEST_MU, Slack, checked_delta, epsilon_of
from fgrpo_secure.privacy.encode import Lattice, required_ring_bits
from fgrpo_secure.privacy.noise import MIN_SHARE_VARIANCE, NoisePlan, largest_multiplier
from fgrpo_secure.privacy.traffic import Traffic
from protocols import params, ring
from protocols.params import Adversary, Parameters

CAN_LEARN = "can learn"
SAFE_RATIO = 10  # useful dimension over dimension from which learning was seen to be safe
NO_SECURE_AGGREGATION = (
    "no secure aggregation: the server sees every client's update in the clear; a baseline, not for data that matters"
)
LARGEST_ADVISED = 100.0  # no advice goes beyond an epsilon that protects nobody


class InfeasiblePlan(ValueError):
    """No run can satisfy the request; `nearest` names the nearest one that can be satisfied."""

    def __init__(self, reason: str, nearest: str) -> None:
        super().__init__(f"{reason}; nearest feasible: {nearest}")
        self.reason = reason
        self.nearest = nearest


@dataclass(frozen=True, slots=True)
class Claim:
    """The guarantee against the server, for a client that takes part in `rounds` rounds.

    `budget` is the sum of mu^2 that a client's ledger allows; `epsilon_replace_one` is None where it has no
    finite value.
    """

    epsilon: float
    epsilon_replace_one: float | None
    delta: float
    mu: float
    noise_multiplier: float
    budget: Fraction
    rounds: int


@dataclass(frozen=True, slots=True)
class PrivacyPlan:
    """A feasible run. `noise`, `claim` and `useful_dimension` are None without differential privacy."""

    rounds: int
    rounds_per_client: int
    parameters: Parameters
    lattice: Lattice
    noise: NoisePlan | None
    claim: Claim | None
    ring_bits: int
    traffic: Traffic
    useful_dimension: float | None
    verdict: str
    warnings: tuple[str, ...]

    @property
    def trusted_server(self) -> bool:
        """Whether this is the baseline without secure aggregation, in which no quorum opens anything."""
        return self.parameters.quorum == 0

    @property
    def share_variance(self) -> int:
        """The lattice variance of each client's noise share; 0 without privacy."""
        return 0 if self.noise is None else self.noise.share_variance

    def facts(self) -> dict[str, object]:
        """Everything by its public name; null where there is no differential privacy."""
        claim = self.claim
        return {
            "privacy.unit": "none" if claim is None else "client",
            "privacy.epsilon_server": None if self.trusted_server else claim and claim.epsilon,
            "privacy.epsilon_release": claim and claim.epsilon,
            "privacy.epsilon_replace_one": claim and claim.epsilon_replace_one,
            "privacy.delta": claim and claim.delta,
            "privacy.noise_multiplier": claim and claim.noise_multiplier,
            "privacy.mu_server": claim and claim.mu,
            "privacy.share_variance": self.share_variance,
            "privacy.rounds_per_client": self.rounds_per_client,
            **self._aggregation(),
            "bytes.up_per_client_per_round": self.traffic.up,
            "bytes.down_per_client_per_round": self.traffic.down,
            "adapter.dimension": self.lattice.dimension,
            "adapter.useful_dimension": self.useful_dimension,
            "verdict": self.verdict,
            "warnings": list(self.warnings),
        }

    def _aggregation(self) -> dict[str, object]:
        """What protects the sum; null where nothing does."""
        p = self.parameters
        facts: dict[str, object] = {
            "aggregation.adversary": p.adversary.value,
            "aggregation.colluders": p.colluders,
            "aggregation.quorum": p.quorum,
            "aggregation.neighbours": p.neighbours,
            "aggregation.threshold": p.threshold,
            "aggregation.graph": p.graph,
        }
        if self.trusted_server:
            facts = {**dict.fromkeys(facts), "aggregation.adversary": "none"}
        return {
            "aggregation.mode": "plain" if self.trusted_server else "secure",
            **facts,
            "aggregation.ring_bits": self.ring_bits,
            "aggregation.minimum_survivors": p.floor,
        }


def plan(
    *,
    rounds: int,
    clients: int,
    clients_per_round: int,
    rounds_per_client: int,
    dimension: int,
    unit: str,
    delta: float,
    clip_norm: float,
    adversary: Adversary | None,
    max_corrupt: float,
    max_dropout: float,
    mean_weight: float,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    max_rounds_per_client: int | None = None,
    scores: int = 2,
    broadcast_bytes: int = 0,
) -> PrivacyPlan:
    """The plan for `rounds` rounds with `clients_per_round` of `clients` clients in each.

    `unit` is "client", with one of `epsilon` (the most to spend against the server, at `delta`) and `noise_multiplier`
    (deviation of the honest noise over the norm bound at the fewest survivors), or "none". `adversary` None: a trusted
    server adds all noise. `rounds_per_client` is how often the schedule takes its busiest client, `mean_weight` an
    average client's public weight. Raises InfeasiblePlan, or ValueError for numbers that mean nothing.
    """
    _check_unit(unit, mean_weight)
    _check_schedule(rounds, clients, clients_per_round, rounds_per_client, max_rounds_per_client)
    lattice = Lattice.build(dimension, clip_norm, scores)
    parameters = _parameters(adversary, clients, clients_per_round, max_corrupt, max_dropout)
    noise, claim = None, None
    if unit == "client":
        sizing = _sizing(adversary, lattice, parameters, rounds_per_client, delta)
        noise, claim = sizing.solve(epsilon, noise_multiplier)
    bits = _ring_bits(lattice, clients_per_round, noise)
    useful = _useful_dimension(noise, rounds, clients_per_round, adversary, mean_weight)
    return PrivacyPlan(
        rounds=rounds,
        rounds_per_client=rounds_per_client,
        parameters=parameters,
        lattice=lattice,
        noise=noise,
        claim=claim,
        ring_bits=bits,
        traffic=_traffic(adversary, parameters, (dimension, scores), bits, broadcast_bytes),
        useful_dimension=useful,
        verdict=_verdict(dimension, useful, claim),
        warnings=(() if adversary else (NO_SECURE_AGGREGATION,)) + _warnings(clients, claim),
    )


def _check_unit(unit: str, mean_weight: float) -> None:
    if unit not in ("client", "none"):
        raise ValueError(f"unit is {unit!r}; allowed are 'client' and 'none'")
    if not 0 < mean_weight <= 1:
        raise ValueError(f"mean_weight is {mean_weight:g}; it must be above 0 and at most 1")


def _ring_bits(lattice: Lattice, cohort: int, noise: NoisePlan | None) -> int:
    variance = 0 if noise is None else noise.share_variance
    try:
        return required_ring_bits(lattice, cohort, discrete_gaussian.largest_sample(variance))
    except ValueError as error:
        raise InfeasiblePlan(str(error), "fewer clients per round, or less noise") from None


def _check_schedule(rounds: int, clients: int, cohort: int, busiest: int, most: int | None) -> None:
    """Raises InfeasiblePlan if the busiest client would take part in more than `most` rounds."""
    if min(rounds, clients, cohort, busiest, 1 if most is None else most) < 1 or cohort > clients:
        raise ValueError(
            f"rounds = {rounds}, clients = {clients}, clients_per_round = {cohort}, max_rounds_per_client = "
            f"{most}: all must be at least 1, and a cohort no larger than all clients"
        )
    if rounds * cohort > clients * busiest or busiest > rounds:
        raise ValueError(f"rounds_per_client is {busiest}; no such schedule has {rounds} rounds of {cohort}")
    if most is not None and busiest > most:
        raise InfeasiblePlan(
            f"{rounds} rounds of {cohort} clients need {rounds * cohort} participations; "
            f"{clients} clients of at most {most} rounds each have {clients * most}",
            f"rounds = {clients * most // cohort}, or max_rounds_per_client = {busiest}",
        )


def _sizing(
    adversary: Adversary | None, lattice: Lattice, parameters: Parameters, participations: int, delta: float
) -> "_Sizing":
    """Noise for the least honest survivors; of a trusted server's noise nobody can lose or know a share."""
    floor, colluders = (1, 0) if adversary is None else (parameters.floor, parameters.colluders)
    return _Sizing(lattice, parameters.cohort, floor, colluders, participations, checked_delta(delta))


def _traffic(
    adversary: Adversary | None, parameters: Parameters, lengths: tuple[int, ...], bits: int, broadcast: int
) -> Traffic:
    if adversary is None:
        return Traffic(ring.packed_size(sum(lengths), bits), broadcast)
    return traffic.per_round(parameters, lengths, bits, broadcast)


def _parameters(adversary: Adversary | None, clients: int, cohort: int, corrupt: float, dropout: float) -> Parameters:
    if adversary is None:  # no thresholds: there is nothing to open
        floor = cohort - math.floor(Fraction(str(dropout)) * cohort)
        return Parameters(Adversary.HONEST_BUT_CURIOUS, cohort, 0, 0, 0, 0, floor)
    try:
        return params.derive(adversary, clients, cohort, corrupt, dropout)
    except params.Infeasible as error:
        raise InfeasiblePlan(error.reason, error.nearest) from None


@dataclass(frozen=True, slots=True)
class _Sizing:
    """Solves budget against noise for one client's `participations` rounds."""

    lattice: Lattice
    cohort: int
    floor: int
    colluders: int
    participations: int
    delta: float

    @property
    def slack(self) -> Slack:
        """The most that any number of survivors with any admissible variance can cost beyond GDP."""
        return Slack.of(self.participations, self.lattice.length, self.cohort, MIN_SHARE_VARIANCE)

    def solve(self, epsilon: float | None, noise_multiplier: float | None) -> tuple[NoisePlan, Claim]:
        """The smallest noise that keeps within `epsilon`, or the claim of `noise_multiplier`."""
        if (epsilon is None) == (noise_multiplier is None):
            raise ValueError("give exactly one of epsilon and noise_multiplier")
        if epsilon is None:
            noise = self._noise(noise_multiplier or 0.0)
            return noise, self._claim(noise, self.participations * noise.charge)
        if not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon is {epsilon:g}; it must be above 0 and finite")
        largest = self._largest_epsilon()
        if epsilon > largest:
            raise InfeasiblePlan(f"epsilon = {epsilon:g} cannot be stated at this delta", f"epsilon = {largest:g}")
        mu = self.slack.mu(epsilon, self.delta)
        noise = self._noise(math.sqrt(self.participations) / mu * (1 + 1e-12))
        return noise, self._claim(noise, Fraction(mu) ** 2)

    def _noise(self, noise_multiplier: float) -> NoisePlan:
        largest = largest_multiplier(self.lattice, self.floor, self.colluders)
        if largest < noise_multiplier < math.inf:
            mu = math.sqrt(self.participations) / largest
            raise InfeasiblePlan(
                f"noise_multiplier = {noise_multiplier:.4g} is beyond the sampler's range",
                f"noise_multiplier = {largest:.4g} (epsilon = {self.slack.epsilon(mu, self.delta):.4g})",
            )
        return NoisePlan.build(self.lattice, noise_multiplier, self.floor, self.colluders)

    def _claim(self, noise: NoisePlan, budget: Fraction) -> Claim:
        mu = math.sqrt(self.participations * noise.charge)
        epsilon = self._epsilon(mu)
        if epsilon is None:
            largest = self.slack.mu(self._largest_epsilon(), self.delta)
            raise InfeasiblePlan(
                f"so little noise that no finite epsilon can be stated at delta = {self.delta:g}",
                f"noise_multiplier = {math.sqrt(self.participations) / largest:.4g}",
            )
        multiplier = 1 / math.sqrt(noise.charge)
        return Claim(epsilon, self._epsilon(2 * mu), self.delta, mu, multiplier, budget, self.participations)

    def _epsilon(self, mu: float) -> float | None:
        if mu > LARGEST_MU:
            return None
        epsilon = self.slack.epsilon(mu, self.delta)
        return None if math.isinf(epsilon) else epsilon

    def _largest_epsilon(self) -> float:
        """Where the distance of the sampler's table would use up a tenth of delta, rounded down."""
        return math.floor(math.log(self.delta / 10) - math.log(self.slack.distance))


def _useful_dimension(
    noise: NoisePlan | None, rounds: int, cohort: int, adversary: Adversary | None, mean_weight: float
) -> float | None:
    """How many coordinates all rounds together lift above the noise that is added when all are present.

    rounds * (survivors * mean weight)^2 / z^2, if clipped updates agree in direction: an upper bound.
    """
    if noise is None:
        return None
    shares = 1 if adversary is None else cohort
    z_squared = (shares * noise.share_variance) / noise.integer_bound**2
    return rounds * (cohort * mean_weight) ** 2 / z_squared


def _verdict(dimension: int, useful: float | None, claim: Claim | None) -> str:
    if useful is None or claim is None or useful >= SAFE_RATIO * dimension:
        return CAN_LEARN
    remedy = f"at most {max(1, int(useful / SAFE_RATIO)):,} dimensions, or more clients per round"
    enough = claim.mu * math.sqrt(SAFE_RATIO * dimension / useful)  # useful dimension grows with mu^2
    if enough <= LARGEST_MU and (epsilon := epsilon_of(enough, claim.delta)) <= LARGEST_ADVISED:
        remedy += f", or epsilon = {epsilon:.3g}"
    leaves = f"the noise leaves {useful:,.0f} useful dimensions for an adapter of {dimension:,}"
    if useful >= dimension:
        return f"may learn: {leaves}, {useful / dimension:.1f} times as many; {remedy} would make it safe"
    return f"cannot learn: {leaves}; {remedy} would let it"


def _warnings(clients: int, claim: Claim | None) -> tuple[str, ...]:
    if claim is None or claim.delta * clients < 1:
        return ()
    warning = (
        f"delta = {claim.delta:g} is not below 1 / clients = {1 / clients:.3g}: "
        "it would allow one client's data to be published outright"
    )
    return (warning,)
