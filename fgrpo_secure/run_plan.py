"""From a configuration and a model to everything public that is fixed before a run: cost, thresholds, noise.

`fgrpo plan` prints it, the server opens rounds by it, and every client computes it again for itself.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from safetensors.torch import save

from fgrpo_secure import adaptive_clip, client_policy, gain, round_settings, schedule
from fgrpo_secure.adapters import Policy
from fgrpo_secure.client_policy import ClientPolicy
from fgrpo_secure.config import AdaptiveClip, Config
from fgrpo_secure.models import BaseModel
from fgrpo_secure.privacy import crosscheck as accountants
from fgrpo_secure.privacy import planner
from fgrpo_secure.privacy.accounting import LARGEST_MU, Slack, round_mu_squared
from fgrpo_secure.privacy.crosscheck import Noise
from fgrpo_secure.privacy.discrete_gaussian import largest_sample
from fgrpo_secure.privacy.encode import Lattice, required_ring_bits
from fgrpo_secure.privacy.noise import MIN_SHARE_VARIANCE, NoisePlan
from fgrpo_secure.privacy.planner import InfeasiblePlan, PrivacyPlan
from fgrpo_secure.privacy.sizing import Claim
from protocols import labels, params, shards
from protocols.errors import Refused
from protocols.params import Adversary, Parameters
from protocols.roster import Roster
from protocols.wire import HybridPlan, RoundPlan

ID_BYTES = 5  # of a client id on the wire, at most
ROUNDING = Fraction(1, 10**9)  # rounds of another length get their noise from a multiplier that is a float


def plan(config: Config, policy: Policy, rank: int | None = None) -> PrivacyPlan:
    """The plan of a run that trains `policy`'s adapter, or one that differs from it in its rank alone.

    Where rounds differ in length ('alternate') it is the plan of the kind of round that costs more, with the claim
    and the useful dimension of both kinds together. Raises Infeasible or InfeasiblePlan, naming the nearest feasible
    setting.
    """
    everybody = config.clients_total
    lengths = [policy.dimension(kind) * (rank or config.adapter.rank) // config.adapter.rank for kind in (0, 1)]
    plans = [_plan(config, policy, length, everybody, everybody, *_asked(config)) for length in lengths]
    dearest = _dearest(plans)
    if lengths[0] == lengths[1] or dearest.claim is None or config.privacy.unit != "client":
        return dearest
    return _composed(config, dearest, dearest.claim, [each.lattice for each in plans])


def replan(config: Config, policy: Policy, first: PrivacyPlan, count: int, enrolled: int) -> PrivacyPlan:
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
        return _replanned(config, policy, count, enrolled, *_asked(config))
    oftener = schedule.rounds_per_client(config, count) / first.rounds_per_client
    multiplier = first.claim.noise_multiplier * math.sqrt(max(1.0, oftener))
    return _replanned(config, policy, count, enrolled, None, multiplier)


def _asked(config: Config) -> tuple[float | None, float | None]:
    """(epsilon, noise multiplier), one of them None; both without differential privacy."""
    private = config.privacy
    return (None, None) if private.unit == "none" else (private.epsilon, private.noise_multiplier)


def _replanned(
    config: Config, policy: Policy, count: int, enrolled: int, epsilon: float | None, multiplier: float | None
) -> PrivacyPlan:
    lengths = {policy.dimension(0), policy.dimension(1)}
    return _dearest([_plan(config, policy, each, count, enrolled, epsilon, multiplier) for each in lengths])


def _dearest(plans: list[PrivacyPlan]) -> PrivacyPlan:
    return max(plans, key=lambda found: (found.noise.charge if found.noise else 0, found.ring_bits))


def _composed(config: Config, dearest: PrivacyPlan, claim: Claim, lattices: list[Lattice]) -> PrivacyPlan:
    """`dearest` with what even and odd rounds cost together, and with rounds shared between both kinds of factors."""
    even, odd = (_charge(dearest, lattice) for lattice in lattices)
    spent = max(taken[0] * even + taken[1] * odd for taken in schedule.parities(config))
    longest = max(lattices, key=lambda lattice: lattice.length)
    slack = Slack.of(claim.rounds, longest.length, config.cohort, MIN_SHARE_VARIANCE)
    mu = math.sqrt(spent)
    twice = slack.epsilon(2 * mu, claim.delta) if 2 * mu <= LARGEST_MU else math.inf
    exact = replace(
        claim,
        epsilon=slack.epsilon(mu, claim.delta),
        epsilon_replace_one=None if math.isinf(twice) else twice,
        mu=mu,
        budget=claim.budget if config.privacy.epsilon is not None else spent,
    )
    rounds = config.federation.rounds
    useful = (dearest.useful_dimension or 0.0) * (rounds // 2) / rounds  # the kind with fewer rounds learns least
    said = planner.verdict(longest.dimension, useful, exact)
    return replace(dearest, claim=exact, useful_dimension=useful, verdict=said)


def _charge(privacy: PrivacyPlan, lattice: Lattice) -> Fraction:
    """mu squared of a round on `lattice`, which has the plan's noise multiplier, with the fewest survivors."""
    if privacy.noise is None:
        return Fraction(0)
    honest = privacy.noise.floor - privacy.noise.colluders
    return round_mu_squared(lattice.integer_bound, honest * share_variance(privacy, lattice))


def _plan(
    config: Config,
    policy: Policy,
    dimension: int,
    count: int,
    enrolled: int,
    epsilon: float | None,
    multiplier: float | None,
) -> PrivacyPlan:
    found = planner.plan(
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
        broadcast_bytes=_broadcast_bytes(config, policy, count),
        post_quantum=config.aggregation.post_quantum,
        scores=round_settings.score_count(config.privacy.adaptive_clip),
    )
    _check_clip(config.privacy.adaptive_clip, found)
    return found


def _check_clip(rule: AdaptiveClip | None, found: PrivacyPlan) -> None:
    """InfeasiblePlan where noise alone would toss an adaptive clip norm about."""
    deviation = found.share_deviation
    if rule is None or not deviation or rule.learning_rate <= adaptive_clip.steadiest(deviation):
        return
    raise InfeasiblePlan(
        f"noise of deviation {deviation:.3g} on the share of clients within the clip norm would move it by "
        f"{rule.learning_rate * deviation:.0%} a round at learning_rate = {rule.learning_rate:g}",
        f"privacy.adaptive_clip.learning_rate = {adaptive_clip.steadiest(deviation) * 0.999:.3g}, or more clients",
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


def _broadcast_bytes(config: Config, policy: Policy, count: int) -> int:
    """What every client of a round is sent besides the protocol's later messages: the round plan and the adapter."""
    settings = round_settings.for_round(config, 0, 0).encode()
    largest = -(-schedule.size(config, count) // schedule.shard_count(config, count))
    return len(save(policy.full_state())) + len(settings) + ID_BYTES * largest


def demands(config: Config, privacy: PrivacyPlan) -> ClientPolicy:
    """What the clients of a trial insist on: the plan that they computed for themselves, and nothing weaker."""
    return ClientPolicy(
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
    )


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
    single = math.isclose(claim.rounds * shares.charge, claim.mu**2, rel_tol=1e-9)
    return accountants.figures(claim.epsilon, multiplier, honest if single else None, claim.rounds, claim.delta).facts()


def context(base: BaseModel, policy: Policy) -> dict[str, bytes]:
    """Digests of everything a client trains with; a round plan names exactly these."""
    return {
        "model": base.digest,
        "tokenizer": base.tokenizer_digest,
        "adapter": policy.adapter_digest(),
        "frozen": policy.frozen_digest(),
    }


def run_id(roster: Roster) -> bytes:
    """The 16 bytes that name a run in its plans and in its ledger's checkpoints."""
    return hashlib.sha256(roster.digest).digest()[:16]


def open_round(
    config: Config,
    privacy: PrivacyPlan,
    roster: Roster,
    loaded: Mapping[str, bytes],
    training_round: int,
    session_number: int,
    dimension: int,
    shard: tuple[int, ...],
    run: bytes | None = None,
    shares: tuple[float, ...] = (),
) -> RoundPlan:
    """The plan of one session: the public facts of training round `training_round` for the clients of one shard.

    Every shard's clients add the share that the smallest one needs: in a larger shard that is no less noise. `run` is
    the run's name; default: that of a run which began with this roster. `shares`: what rounds before this one released
    for an adaptive clip norm.
    """
    parameters = _parameters(config, privacy, len(roster), len(shard))
    scores = round_settings.score_count(config.privacy.adaptive_clip)
    variance = share_variance(privacy, Lattice.build(dimension, config.privacy.clip_norm, scores))
    settings = round_settings.for_round(config, training_round, variance, shares)
    largest_noise = largest_sample(settings.upload_variance)
    kind = HybridPlan if config.aggregation.post_quantum else RoundPlan
    return kind(
        version=labels.VERSION,
        run=run or run_id(roster),
        round=session_number,
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


def _parameters(config: Config, privacy: PrivacyPlan, roster_size: int, size: int) -> Parameters:
    if size == privacy.parameters.cohort:
        return privacy.parameters
    corrupt, dropout = config.aggregation.max_corrupt, config.aggregation.max_dropout
    return params.derive(privacy.parameters.adversary, roster_size, size, corrupt, dropout)


def check_shard(config: Config, roster: Roster, clients: tuple[int, ...], client: int, round_plan: RoundPlan) -> None:
    """Returns if the plan is for a round of this run and for the client's own shard of it; else raises Refused.

    `clients` may take part by the client's own roster and date.
    """
    training_round = client_policy.training_round(round_plan)
    if training_round >= config.federation.rounds:
        raise Refused("the plan is for a round that this run does not have")
    own_round = schedule.partition(config, roster.digest, training_round, clients)
    shards.refuse_other(client, round_plan.cohort, own_round)


def share_variance(privacy: PrivacyPlan, lattice: Lattice) -> int:
    """The noise share of a round with this lattice: the plan's noise multiplier, whatever the round's length."""
    if privacy.claim is None or privacy.noise is None:
        return 0
    if lattice == privacy.lattice:
        return privacy.noise.share_variance
    floor, colluders = privacy.noise.floor, privacy.noise.colluders
    return NoisePlan.build(lattice, privacy.claim.noise_multiplier, floor, colluders).share_variance
