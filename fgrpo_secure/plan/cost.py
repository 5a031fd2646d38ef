"""What a configuration costs and whether it can learn, before anything runs.

From plain numbers to thresholds, noise, ring, (epsilon, delta) and a verdict. Everything is charged as if
each round ended with the fewest survivors; rounds that end better cost less, and the ledger then shows it.
"""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from fgrpo_secure.plan import traffic
from fgrpo_secure.plan.traffic import Traffic
from fgrpo_secure.privacy import discrete_gaussian
from fgrpo_secure.privacy.accounting import LARGEST_MU, epsilon_of
from fgrpo_secure.privacy.encode import Lattice, required_ring_bits
from fgrpo_secure.privacy.noise import NoisePlan
from fgrpo_secure.privacy.odometer import PARTS
from fgrpo_secure.privacy.sizing import Claim, sizing
from fgrpo_secure.privacy.sizing import InfeasiblePlan as InfeasiblePlan  # what `plan` raises
from fgrpo_secure.privacy.sizing import Units as Units  # what `plan` takes
from protocols import params, ring
from protocols import shards as sharding
from protocols.params import Adversary, Parameters

CAN_LEARN = "can learn"
SAFE_RATIO = 3  # useful over trained dimension from which every seed gained (docs/explanation/learning.md)
LEAST_RATIO = 0.5  # below it nothing was measured, and most of a sum is noise
NO_SECURE_AGGREGATION = (
    "no secure aggregation: the server sees every client's update in the clear; a baseline, not for data that matters"
)
SCORES = 2  # sums beside the update's: of weights and of gains
LARGEST_ADVISED = 100.0  # no advice goes beyond an epsilon that protects nobody


@dataclass(frozen=True, slots=True)
class PrivacyPlan:
    """A feasible run. `noise`, `claim` and `useful_dimension` are None without differential privacy.

    With several shards a round, `parameters`, `noise` and `claim` are those of the smallest one: a client's claim
    counts the noise of its own shard alone, because the server sees each shard's sum by itself.
    """

    rounds: int
    rounds_per_client: int
    shards: int
    parameters: Parameters
    lattice: Lattice
    longest: int  # of the vectors that rounds send, scores included; `lattice` is that of the kind that costs most
    trained: int  # coordinates that all rounds together train
    noise: NoisePlan | None
    claim: Claim | None
    ring_bits: int
    traffic: Traffic
    unit: str
    units: Units | None
    useful_dimension: float | None
    verdict: str
    warnings: tuple[str, ...]
    reserved: int  # sessions without a sum that the claim pays for besides

    @property
    def trusted_server(self) -> bool:
        """Whether this is the baseline without secure aggregation, in which no quorum opens anything."""
        return self.parameters.quorum == 0

    @property
    def share_variance(self) -> int:
        """The lattice variance of each client's noise share; 0 without privacy."""
        return 0 if self.noise is None else self.noise.share_variance

    @property
    def share_deviation(self) -> float | None:
        """What noise does to the fraction of clients within an adaptive clip norm, one deviation; None without either.

        Of all shards of a round together, when nobody is lost. The bit has half a unit of range around its middle.
        """
        if self.lattice.scores <= SCORES or self.noise is None:
            return None
        shares = 1 if self.trusted_server else self._cohort
        return math.sqrt(shares * self.share_variance) / (2 * self.lattice.score_radius * self._cohort)

    @property
    def _cohort(self) -> int:
        return self.shards * self.parameters.cohort

    @property
    def bit_cost(self) -> float | None:
        """By what fraction an adaptive clip's bit lengthens the joint bound, and with it all noise; None without."""
        if self.lattice.scores <= SCORES:
            return None
        without = Lattice.build(self.lattice.dimension, self.lattice.clip_norm, SCORES)
        return self.lattice.integer_bound / without.integer_bound - 1

    @property
    def _server_unprotected(self) -> bool:
        """Whether the server sees what no noise covers yet: in a plain run, unless clients add all noise themselves."""
        return self.trusted_server and not (self.units is not None and self.units.local)

    @property
    def release_charge(self) -> Fraction:
        """mu^2 of one release at its worst, for a unit that is in it; 0 without privacy."""
        if self.noise is None:
            return Fraction(0)
        return self.noise.charge + (self.units.reward_charge if self.units else 0)

    @property
    def round_charge(self) -> Fraction | None:
        """What a round costs a ledger whatever happens in it, if that is fixed before the run: with sampling."""
        if self.claim is None or self.units is None or self.units.rate is None:
            return None
        return self.claim.budget / (self.units.rounds + self.reserved)

    @property
    def reserved_epsilon(self) -> float | None:
        """How much of epsilon pays for sessions without a sum; None without privacy, or under secret sampling.

        If none comes, a run spends that much less.
        """
        if self.claim is None or self.claim.sampling is not None:
            return None
        if not self.reserved:
            return 0.0
        releases = self.units.releases if self.units else 1
        left = self.claim.mu**2 - self.reserved * releases * float(self.release_charge)
        return max(
            0.0, self.claim.epsilon - self.claim.slack.epsilon(math.sqrt(max(0.0, left)), self.claim.parts.planned)
        )

    def facts(self) -> dict[str, object]:
        """Everything by its public name; null where there is no differential privacy."""
        claim = self.claim
        return {
            "privacy.unit": self.unit,
            "privacy.mode": "local" if self.units and self.units.local else "distributed",
            "privacy.units_per_client": self.units.per_client if self.units else 1,
            "privacy.sampling_rate": (self.units and self.units.rate) or 1.0,
            "privacy.epsilon_server": None if self._server_unprotected else claim and claim.epsilon,
            "privacy.epsilon_release": claim and claim.epsilon,
            "privacy.epsilon_replace_one": claim and claim.epsilon_replace_one,
            "privacy.delta": claim and claim.delta,
            **{f"privacy.delta_parts.{name}": claim and claim.delta_parts[name] for name in PARTS},
            "privacy.epsilon_group_of_2": claim and claim.for_group(2),
            "privacy.epsilon_group_of_5": claim and claim.for_group(5),
            "privacy.noise_multiplier": claim and claim.noise_multiplier,
            "privacy.mu_server": claim and claim.mu,
            "privacy.share_variance": self.share_variance,
            "privacy.rounds_per_client": self.rounds_per_client,
            "privacy.reserved_sessions": self.reserved,
            "privacy.reserved_epsilon": self.reserved_epsilon,
            "privacy.adaptive_clip_cost": self.bit_cost,
            "privacy.adaptive_clip_deviation": self.share_deviation,
            "privacy.rounds_per_unit": self.units.rounds if self.units else self.rounds_per_client,
            **self._aggregation(),
            "bytes.up_per_client_per_round": self.traffic.up,
            "bytes.down_per_client_per_round": self.traffic.down,
            "adapter.dimension": self.longest - self.lattice.scores,
            "adapter.trained_dimension": self.trained,
            "adapter.useful_dimension": self.useful_dimension,
            "verdict": self.verdict,
            "warnings": list(self.warnings),
        }

    def _aggregation(self) -> dict[str, object]:
        """What protects the sum; null where nothing does."""
        p = self.parameters
        facts: dict[str, object] = {
            "aggregation.adversary": p.adversary.value,
            "aggregation.shards": self.shards,
            "aggregation.shard_size": p.cohort,
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
            "aggregation.post_quantum": self.traffic.post_quantum,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What a plan is asked for. One of `epsilon` and `noise_multiplier` is given, neither where nothing is protected.

    `clients` may take part, `clients_per_round` of them in each round, in `shards` sessions; `enrolled` are on the
    roster (default: `clients`). `rounds_per_client` is the most rounds of any one. `dimension` counts the coordinates
    of an update, `scores` the hidden scalars beside it. `adversary` None: the server is trusted. `max_corrupt` and
    `max_dropout` are fractions of roster and cohort. `mean_weight` is the clients' mean weight, above 0 and at most 1.
    `broadcast_bytes` reach every client of a round besides the protocol's messages. `units` lie inside clients.
    `reserved` sessions without a sum are to fit into the budget besides the rounds.
    """

    rounds: int
    clients: int
    clients_per_round: int
    rounds_per_client: int
    dimension: int
    unit: str
    delta: float
    clip_norm: float
    adversary: Adversary | None
    max_corrupt: float
    max_dropout: float
    mean_weight: float
    epsilon: float | None = None
    noise_multiplier: float | None = None
    max_rounds_per_client: int | None = None
    enrolled: int | None = None
    shards: int = 1
    broadcast_bytes: int = 0
    units: Units | None = None
    post_quantum: bool = False
    scores: int = SCORES
    reserved: int = 0


def plan(asked: PlanRequest) -> PrivacyPlan:
    """The plan of a run. Raises InfeasiblePlan, naming the nearest feasible setting, or ValueError."""
    _check_unit(asked)
    _check_schedule(asked)
    lattice = Lattice.build(asked.dimension, asked.clip_norm, asked.scores)
    each = asked.units or Units(1, asked.rounds_per_client)
    each = replace(each, rounds=each.rounds + asked.reserved)
    least, most = _shards(asked)
    private = asked.unit != "none"
    sized = sizing(asked.adversary, lattice, least, most.cohort, each, asked.delta) if private else None
    noise, claim = sized.solve(asked.epsilon, asked.noise_multiplier) if sized else (None, None)
    bits = _ring_bits(lattice, asked.clients_per_round, asked.shards, noise, asked.units)
    useful = _useful_dimension(noise, asked)
    return PrivacyPlan(
        rounds=asked.rounds,
        rounds_per_client=asked.rounds_per_client,
        shards=asked.shards,
        parameters=least,
        lattice=lattice,
        longest=lattice.length,
        trained=asked.dimension,
        noise=noise,
        claim=claim,
        ring_bits=bits,
        traffic=_traffic(asked, most, bits),
        unit=asked.unit,
        units=asked.units,
        useful_dimension=useful,
        verdict=verdict(asked.dimension, useful, claim),
        warnings=_warnings(asked.clients * each.per_client, asked.unit, claim, asked.adversary),
        reserved=asked.reserved,
    )


def _check_unit(asked: PlanRequest) -> None:
    unit, units = asked.unit, asked.units
    if unit not in ("client", "subject", "prompt_group", "none"):
        raise ValueError(f"unit is {unit!r}; allowed are 'client', 'subject', 'prompt_group' and 'none'")
    if (units is not None) != (unit in ("subject", "prompt_group")):
        raise ValueError(f"unit is {unit!r}: 'units' is for 'subject' and 'prompt_group', and for them only")
    if units is not None and min(units.per_client, units.rounds, units.releases) < 1:
        raise ValueError("units per client, rounds per unit and releases per round must be at least 1")
    if not 0 < asked.mean_weight <= 1:
        raise ValueError(f"mean_weight is {asked.mean_weight:g}; it must be above 0 and at most 1")


def _ring_bits(lattice: Lattice, cohort: int, shards: int, noise: NoisePlan | None, units: Units | None) -> int:
    """Ring bits for one shard's sum. The total over all shards must fit as well, because the server adds them."""
    local = units is not None and units.local
    variance = 0 if noise is None or local else noise.share_variance
    vectors = 1 if units is None or local else 1 + units.per_client
    try:
        largest = discrete_gaussian.largest_sample(variance)
        required_ring_bits(lattice, cohort, largest, vectors)
        return required_ring_bits(lattice, sharding.sizes(cohort, shards)[1], largest, vectors)
    except ValueError as error:
        raise InfeasiblePlan(str(error), "fewer clients per round, or less noise") from None


def _check_schedule(asked: PlanRequest) -> None:
    """Raises InfeasiblePlan if the busiest client would take part in more rounds than any may."""
    rounds, clients, cohort = asked.rounds, asked.clients, asked.clients_per_round
    busiest, most = asked.rounds_per_client, asked.max_rounds_per_client
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


def _traffic(asked: PlanRequest, parameters: Parameters, bits: int) -> Traffic:
    lengths = asked.dimension, asked.scores
    if asked.adversary is None:
        return Traffic(ring.packed_size(sum(lengths), bits), asked.broadcast_bytes)
    return traffic.per_round(parameters, lengths, bits, asked.broadcast_bytes, asked.post_quantum)


def _shards(asked: PlanRequest) -> tuple[Parameters, Parameters]:
    """Of the smallest and of the largest shard."""
    cohort, roster = asked.clients_per_round, max(asked.clients, asked.enrolled or 0)
    if asked.adversary is None:  # no thresholds: there is nothing to open
        floor = cohort - math.floor(Fraction(str(asked.max_dropout)) * cohort)
        return (Parameters(Adversary.HONEST_BUT_CURIOUS, cohort, 0, 0, 0, 0, floor),) * 2
    try:
        return sharding.derive(asked.adversary, roster, cohort, asked.shards, asked.max_corrupt, asked.max_dropout)
    except params.Infeasible as error:
        raise InfeasiblePlan(error.reason, error.nearest) from None


def _useful_dimension(noise: NoisePlan | None, asked: PlanRequest) -> float | None:
    """How many coordinates all rounds together lift above the noise that is added when all are present.

    releases * (units in one * mean weight)^2 / z^2, if clipped updates agree in direction: an upper bound.
    """
    if noise is None:
        return None
    rounds, cohort, units, mean_weight = asked.rounds, asked.clients_per_round, asked.units, asked.mean_weight
    local = units is not None and units.local
    shares = 1 if asked.adversary is None and not local else cohort
    z_squared = (shares * noise.share_variance) / noise.integer_bound**2
    if units is None:
        return rounds * (cohort * mean_weight) ** 2 / z_squared
    share = units.rate or units.rounds / rounds  # of a unit's presence in a release, by Poisson sampling or by blocks
    return rounds * units.releases * (cohort * units.per_client * share * mean_weight) ** 2 / z_squared


def verdict(dimension: int, useful: float | None, claim: Claim | None) -> str:
    """Whether an adapter of `dimension` can learn from `useful` dimensions, and if not, what would let it."""
    if useful is None or claim is None or useful >= SAFE_RATIO * dimension:
        return CAN_LEARN
    remedy = f"at most {max(1, int(useful / SAFE_RATIO)):,} dimensions, or more clients per round"
    # The useful dimension grows with mu^2 of a release. That is the claim's where units are not sampled; where they
    # are, a larger budget lowers the noise by less, and `advice` looks for it.
    enough = claim.mu * math.sqrt(SAFE_RATIO * dimension / useful)
    if (
        claim.sampling is None
        and enough <= LARGEST_MU
        and (epsilon := epsilon_of(enough, claim.parts.planned)) <= LARGEST_ADVISED
    ):
        remedy += f", or epsilon = {epsilon:.3g}"
    leaves = f"the noise leaves {useful:,.0f} useful dimensions for an adapter of {dimension:,}"
    if useful >= LEAST_RATIO * dimension:
        return f"may learn: {leaves}, {useful / dimension:.1f} times as many; {remedy} would make it safe"
    return f"cannot learn: {leaves}; {remedy} would let it"


def _warnings(units: int, unit: str, claim: Claim | None, adversary: Adversary | None) -> tuple[str, ...]:
    """`units` is how many there may be over all clients."""
    aggregation = () if adversary else (NO_SECURE_AGGREGATION,)
    if claim is None or claim.delta * units < 1:
        return aggregation
    warning = (
        f"delta = {claim.delta:g} is not below 1 / {unit}s = {1 / units:.3g}: "
        f"it would allow one {unit}'s data to be published outright"
    )
    return (*aggregation, warning)
