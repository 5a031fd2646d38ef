"""From a configuration and a model to everything public that is fixed before a run: cost, thresholds, noise.

`fgrpo plan` prints it, the server opens rounds by it, and every client computes it again for itself.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial

from fgrpo_secure import gain
from fgrpo_secure.config.schema import AdaptiveClip, Config
from fgrpo_secure.plan import adaptive_clip, division, round_settings, schedule
from fgrpo_secure.plan import cost as planner
from fgrpo_secure.plan import terms as client_policy
from fgrpo_secure.plan.adapter_shape import AdapterShape
from fgrpo_secure.plan.cost import InfeasiblePlan, PrivacyPlan
from fgrpo_secure.plan.round_settings import RoundSettings
from fgrpo_secure.plan.terms import RunTerms
from fgrpo_secure.privacy import crosscheck as accountants
from fgrpo_secure.privacy.accounting import Slack, round_mu_squared
from fgrpo_secure.privacy.crosscheck import Noise
from fgrpo_secure.privacy.discrete_gaussian import largest_sample
from fgrpo_secure.privacy.encode import Lattice, required_ring_bits
from fgrpo_secure.privacy.noise import MIN_SHARE_VARIANCE, NoisePlan
from fgrpo_secure.privacy.sizing import HEADROOM, Claim
from protocols import labels, params
from protocols.errors import Refused
from protocols.params import Adversary, Parameters
from protocols.roster import Roster
from protocols.wire import HybridPlan, RoundPlan

ID_BYTES = 5  # of a client id on the wire, at most
ROUNDING = Fraction(1, 10**9)  # rounds of another length get their noise from a multiplier that is a float


def plan(config: Config, adapter: AdapterShape) -> PrivacyPlan:
    """The plan of a run that trains an adapter of this shape.

    Where rounds differ in length ('alternate') it is the plan of the kind of round that costs more, with the claim
    of both kinds together. Raises Infeasible or InfeasiblePlan, naming the nearest feasible
    setting.
    """
    everybody = config.clients_total
    lengths = [adapter.dimension(kind) for kind in (0, 1)]
    plans = [_plan(config, adapter, length, everybody, everybody, *_asked(config)) for length in lengths]
    costliest = _costliest(plans)
    if lengths[0] == lengths[1] or costliest.claim is None:
        return costliest
    if config.privacy.unit == "client":
        costliest = _composed(config, costliest, costliest.claim, [each.lattice for each in plans])
    return replace(costliest, verdict=planner.verdict(costliest.trained, costliest.useful_dimension, costliest.claim))


def replan(config: Config, adapter: AdapterShape, first: PrivacyPlan, count: int, enrolled: int) -> PrivacyPlan:
    """The plan of the remaining rounds when `count` clients may take part and the roster has `enrolled`.

    `first` is the plan that the run began with: a round may cost no client more than then (less if the schedule now
    takes each of them more often), so that the budget still covers the run. Thresholds, floor and noise shares are
    those of the new cohort. Raises InfeasiblePlan, naming the nearest feasible setting.
    """
    if count == enrolled == config.clients_total:
        return first
    wanted = schedule.size(config, count)
    if count < max(1, wanted):
        raise InfeasiblePlan(f"{count} clients may take part, a round needs {wanted}", f"clients_per_round = {count}")
    if first.claim is None or config.privacy.unit != "client":  # inside a client nothing changes with the others
        return _replanned(config, adapter, count, enrolled, *_asked(config))
    participation_ratio = schedule.rounds_per_client(config, count) / first.rounds_per_client
    multiplier = first.claim.noise_multiplier * math.sqrt(max(1.0, participation_ratio))
    return _replanned(config, adapter, count, enrolled, None, multiplier)


def _asked(config: Config) -> tuple[float | None, float | None]:
    """(epsilon, noise multiplier), one of them None; both without differential privacy."""
    private = config.privacy
    return (None, None) if private.unit == "none" else (private.epsilon, private.noise_multiplier)


def _reserved(config: Config) -> int:
    """Sessions that the budget pays for beside the rounds. A trusted server sees who spoils a sum, and repeats none."""
    return (
        0 if config.aggregation.mode == "plain" or config.privacy.unit == "none" else config.privacy.reserved_sessions
    )


def _replanned(
    config: Config, adapter: AdapterShape, count: int, enrolled: int, epsilon: float | None, multiplier: float | None
) -> PrivacyPlan:
    lengths = {adapter.dimension(0), adapter.dimension(1)}
    return _costliest([_plan(config, adapter, each, count, enrolled, epsilon, multiplier) for each in lengths])


def _costliest(plans: list[PrivacyPlan]) -> PrivacyPlan:
    """The plan of the kind of round that is charged most, with the traffic of the longer kind: the two may differ.

    Kinds of different length train different factors, so that their coordinates add up.
    """
    most = max(plans, key=lambda found: (found.noise.charge if found.noise else 0, found.ring_bits))
    longer = max(plans, key=lambda found: found.longest)
    trained = sum({each.lattice.dimension for each in plans})
    return replace(most, longest=longer.longest, traffic=longer.traffic, trained=trained)


def _composed(config: Config, costliest: PrivacyPlan, claim: Claim, lattices: list[Lattice]) -> PrivacyPlan:
    """`costliest` with what even and odd rounds cost together."""
    even, odd = (_charge(costliest, lattice) for lattice in lattices)
    spent = max(taken[0] * even + taken[1] * odd for taken in schedule.parities(config))
    spent += costliest.reserved * max(even, odd)
    longest = max(lattices, key=lambda lattice: lattice.length)
    slack = Slack.of(claim.rounds, longest.length, config.cohort, MIN_SHARE_VARIANCE)
    mu, limit = math.sqrt(spent), min(claim.budget, spent * (1 + HEADROOM))
    exact = replace(
        claim,
        epsilon=slack.epsilon(math.sqrt(limit), claim.parts.planned),
        mu=mu,
        slack=slack,
        budget=limit,
    )
    return replace(costliest, claim=exact)


def _charge(privacy: PrivacyPlan, lattice: Lattice) -> Fraction:
    """mu squared of a round on `lattice`, which has the plan's noise multiplier, with the fewest survivors."""
    if privacy.noise is None:
        return Fraction(0)
    honest = privacy.noise.floor - privacy.noise.colluders
    return round_mu_squared(lattice.integer_bound, honest * share_variance(privacy, lattice))


def _plan(
    config: Config,
    adapter: AdapterShape,
    dimension: int,
    count: int,
    enrolled: int,
    epsilon: float | None,
    multiplier: float | None,
) -> PrivacyPlan:
    found = planner.plan(
        planner.PlanRequest(
            rounds=config.federation.rounds,
            clients=count,
            enrolled=enrolled,
            clients_per_round=schedule.size(config, count),
            rounds_per_client=schedule.rounds_per_client(config, count),
            max_rounds_per_client=config.federation.max_rounds_per_client,
            shards=schedule.shard_count(config, count),
            dimension=dimension,
            unit=config.privacy.unit,
            units=_units(config),
            epsilon=epsilon,
            noise_multiplier=multiplier,
            delta=config.privacy.delta,
            clip_norm=config.privacy.clip_norm,
            adversary=_adversary(config),
            max_corrupt=config.aggregation.max_corrupt,
            max_dropout=config.aggregation.max_dropout,
            mean_weight=gain.reference_weight(config.weighting),
            broadcast_bytes=_broadcast_bytes(config, adapter, count),
            post_quantum=config.aggregation.post_quantum,
            scores=round_settings.score_count(config.privacy.adaptive_clip),
            reserved=_reserved(config),
        )
    )
    _check_clip(config.privacy.adaptive_clip, found)
    return found


def _check_clip(rule: AdaptiveClip | None, found: PrivacyPlan) -> None:
    """InfeasiblePlan where noise alone would toss an adaptive clip norm about."""
    deviation = found.share_deviation
    if rule is None or not deviation or rule.learning_rate <= adaptive_clip.steadiest(deviation):
        return
    raise InfeasiblePlan(
        f"noise of deviation {deviation:.3g} on the fraction of clients within the clip norm would move it by "
        f"{rule.learning_rate * deviation:.0%} a round at learning_rate = {rule.learning_rate:g}",
        f"privacy.adaptive_clip.learning_rate = {adaptive_clip.steadiest(deviation) * 0.99:.3g}, or more clients",
    )


def _units(config: Config) -> planner.Units | None:
    settings = round_settings.for_round(config, 0, 0)
    if settings.units is None:
        return None
    return planner.Units(
        per_client=settings.units.units_per_client,
        rounds=schedule.rounds_per_unit(config),
        releases=settings.releases,
        local=settings.units.mode == "local",
        rate=settings.units.sampling_rate,
        reward_charge=settings.reward_charge,
    )


def _broadcast_bytes(config: Config, adapter: AdapterShape, count: int) -> int:
    """What every client of a round is sent besides the protocol's later messages: the round plan and the adapter."""
    settings = round_settings.for_round(config, 0, 0).encode()
    largest = -(-schedule.size(config, count) // schedule.shard_count(config, count))
    return adapter.file_bytes + len(settings) + ID_BYTES * largest


def demands(config: Config, privacy: PrivacyPlan) -> RunTerms:
    """What the clients of a trial insist on: the plan that they computed for themselves, and nothing weaker."""
    return RunTerms(
        config.privacy.unit,
        None if privacy.noise is None else _releases(privacy) * privacy.release_charge * (1 + ROUNDING),
        _adversary(config) or Adversary.HONEST_BUT_CURIOUS,  # a plain run asks its clients for no threshold
        config.aggregation.max_corrupt,
        config.aggregation.max_dropout,
        min_cohort=privacy.parameters.cohort,
        min_survivors=privacy.parameters.floor,
        post_quantum=config.aggregation.post_quantum,
        aggregation=config.aggregation.mode,
        units=round_settings.unit_terms(config),
        fixed_charge=privacy.round_charge,
        adaptive_clip=config.privacy.adaptive_clip,
        first_clip_norm=None if config.privacy.adaptive_clip is None else config.privacy.clip_norm,
        expected=partial(settings_of_round, config, privacy),
    )


def settings_of_round(
    config: Config, privacy: PrivacyPlan, training_round: int, dimension: int, shares: tuple[float, ...]
) -> RoundSettings:
    """The settings of a round whose vector has `dimension` coordinates, after rounds that published `shares`."""
    scores = round_settings.score_count(config.privacy.adaptive_clip)
    variance = share_variance(privacy, Lattice.build(dimension, config.privacy.clip_norm, scores))
    return round_settings.for_round(config, training_round, variance, shares)


def _releases(privacy: PrivacyPlan) -> int:
    return privacy.units.releases if privacy.units else 1


def _adversary(config: Config) -> Adversary | None:
    """Whom the aggregation withstands; None in a plain run: nobody."""
    return None if config.aggregation.mode == "plain" else Adversary(config.aggregation.adversary)


def crosscheck(privacy: PrivacyPlan) -> dict[str, object]:
    """The claim by other accountants, by public name. Takes seconds: it imports and composes.

    Null without differential privacy, where the claim is beyond what they can state, and where it rests on secret
    sampling: that claim is dp-accounting's own. The integer formulas know one kind of release: a claim that also
    pays for noised rewards, or for several releases a round, has none of theirs.
    """
    if privacy.claim is None or privacy.noise is None or privacy.claim.sampling is not None:
        return accountants.NOTHING.facts()
    claim, shares = privacy.claim, privacy.noise
    honest = Noise(
        privacy.lattice.integer_bound, privacy.lattice.length, shares.floor - shares.colluders, shares.share_variance
    )
    multiplier = math.sqrt(claim.rounds) / claim.mu  # of one release that stands for all that a round makes
    planned = claim.parts.planned
    single = math.isclose(claim.rounds * shares.charge, claim.mu**2, rel_tol=1e-9)
    return accountants.figures(claim.epsilon, multiplier, honest if single else None, claim.rounds, planned).facts()


def open_round(
    config: Config,
    privacy: PrivacyPlan,
    roster: Roster,
    loaded: Mapping[str, bytes],
    training_round: int,
    session_number: int,
    dimension: int,
    shard: tuple[int, ...],
    run: bytes,
    shares: tuple[float, ...] = (),
) -> RoundPlan:
    """The plan of one session: the public facts of training round `training_round` for the clients of one shard.

    Every shard's clients add the share that the smallest one needs: in a larger shard that is no less noise. `run` is
    the run's identity. `shares`: what rounds before this one released for an adaptive clip norm.
    """
    parameters = parameters_of(config, privacy, len(roster), len(shard))
    scores = round_settings.score_count(config.privacy.adaptive_clip)
    settings = settings_of_round(config, privacy, training_round, dimension, shares)
    largest_noise = largest_sample(settings.upload_variance)
    kind = HybridPlan if config.aggregation.post_quantum else RoundPlan
    return kind(
        version=labels.VERSION,
        run=run,
        session_number=session_number,
        roster_digest=roster.digest,
        roster_version=roster.version,
        cohort=shard,
        context=tuple(sorted(loaded.items())),
        settings=settings.encode(),
        vectors=(("update", dimension), ("scores", scores)),
        ring_bits=required_ring_bits(
            settings.upload_lattice(dimension), parameters.cohort, largest_noise, settings.vectors_per_client
        ),
        adversary=parameters.adversary,
        colluders=parameters.colluders,
        quorum=parameters.quorum,
        threshold=parameters.threshold,
        floor=parameters.floor,
        neighbours=parameters.neighbours,
    )


def parameters_of(config: Config, privacy: PrivacyPlan, roster_size: int, size: int) -> Parameters:
    """Thresholds of a session of `size` clients, under a roster of `roster_size`."""
    if size == privacy.parameters.cohort:
        return privacy.parameters
    corrupt, dropout = config.aggregation.max_corrupt, config.aggregation.max_dropout
    return params.derive(privacy.parameters.adversary, roster_size, size, corrupt, dropout)


def divided(config: Config, whole: PrivacyPlan, count: int, enrolled: int) -> tuple[PrivacyPlan, RunTerms] | None:
    """How a run goes on after a liar spoiled a session: its plan and what clients insist on; None if it cannot."""
    found = division.plan(config, whole, count, enrolled)
    return None if found is None else (found, demands(config, found))


def check_shard(
    config: Config,
    roster: Roster,
    clients: tuple[int, ...],
    client: int,
    small: PrivacyPlan | None,
    round_plan: RoundPlan,
) -> bool:
    """Whether the plan is for the client's shard of a divided round; False for its set of a whole one, else Refused.

    `clients` may take part by the client's own roster and date; `small` is how it would divide a round, if it can.
    """
    training_round = client_policy.training_round(round_plan)
    if training_round >= config.federation.rounds:
        raise Refused("the plan is for a round that this run does not have")
    return division.is_shard(config, small, roster.digest, training_round, clients, client, round_plan.cohort)


def share_variance(privacy: PrivacyPlan, lattice: Lattice) -> int:
    """The noise share of a round with this lattice: the plan's noise multiplier, whatever the round's length."""
    if privacy.claim is None or privacy.noise is None:
        return 0
    if lattice == privacy.lattice:
        return privacy.noise.share_variance
    floor, colluders = privacy.noise.floor, privacy.noise.colluders
    return NoisePlan.build(lattice, privacy.claim.noise_multiplier, floor, colluders).share_variance
