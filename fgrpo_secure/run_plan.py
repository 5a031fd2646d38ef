"""From a configuration and a model to everything public that is fixed before a run: cost, thresholds, noise.

`fgrpo plan` prints it, the server opens rounds by it, and every client computes it again for itself.
"""

import hashlib
from collections.abc import Mapping

from fgrpo_secure import client_policy, gain, round_settings, schedule
from fgrpo_secure.adapters import Policy
from fgrpo_secure.client_policy import ClientPolicy
from fgrpo_secure.config import Config
from fgrpo_secure.models import BaseModel
from fgrpo_secure.privacy import planner
from fgrpo_secure.privacy.planner import PrivacyPlan
from protocols import labels
from protocols.params import Adversary
from protocols.roster import Roster
from protocols.wire import RoundPlan


def plan(config: Config, dimension: int) -> PrivacyPlan:
    """The plan of a run whose rounds send `dimension` adapter coordinates.

    Raises Infeasible or InfeasiblePlan, naming the nearest feasible setting.
    """
    return planner.plan(
        rounds=config.federation.rounds,
        clients=config.clients_total,
        clients_per_round=config.cohort,
        rounds_per_client=schedule.rounds_per_client(config),
        max_rounds_per_client=config.federation.max_rounds_per_client,
        dimension=dimension,
        unit=config.privacy.unit,
        epsilon=config.privacy.epsilon,
        noise_multiplier=config.privacy.noise_multiplier,
        delta=config.privacy.delta,
        clip_norm=config.privacy.clip_norm,
        adversary=Adversary(config.aggregation.adversary),
        max_corrupt=config.aggregation.max_corrupt,
        max_dropout=config.aggregation.max_dropout,
        mean_weight=gain.reference_weight(config.weighting),
    )


def demands(config: Config, privacy: PrivacyPlan) -> ClientPolicy:
    """What the clients of a trial insist on: the plan that they computed for themselves, and nothing weaker."""
    return ClientPolicy(
        config.privacy.unit,
        Adversary(config.aggregation.adversary),
        config.aggregation.max_corrupt,
        config.aggregation.max_dropout,
        min_cohort=config.cohort,
        min_survivors=privacy.parameters.floor,
    )


def context(base: BaseModel, policy: Policy) -> dict[str, bytes]:
    """Digests of everything a client trains with; a round plan names exactly these."""
    return {
        "model": base.digest,
        "tokenizer": base.tokenizer_digest,
        "adapter": policy.adapter_digest(),
        "frozen": policy.frozen_digest(),
    }


def open_round(
    config: Config,
    privacy: PrivacyPlan,
    roster: Roster,
    loaded: Mapping[str, bytes],
    training_round: int,
    session_number: int,
    dimension: int,
) -> RoundPlan:
    """The plan of one session: the public facts of training round `training_round`."""
    settings = round_settings.for_round(config, training_round, privacy.share_variance)
    parameters = privacy.parameters
    return RoundPlan(
        version=labels.VERSION,
        run=hashlib.sha256(roster.digest).digest()[:16],
        round=session_number,
        roster_digest=roster.digest,
        roster_version=roster.version,
        cohort=schedule.cohort(config, training_round),
        context=tuple(sorted(loaded.items())),
        settings=settings.encode(),
        vectors=(("update", dimension), ("scores", client_policy.SCORES)),
        ring_bits=privacy.ring_bits,
        adversary=parameters.adversary,
        colluders=parameters.colluders,
        quorum=parameters.quorum,
        threshold=parameters.threshold,
        floor=parameters.floor,
        neighbours=parameters.neighbours,
    )
