"""How a run goes on after a session that a liar spoiled: its cohort in disjoint shards, each with its own floor and
whole noise.

    one cohort --a sum beyond its bound, a deal that does not open--> c + 1 shards, for the rest of the run

Of c + 1 disjoint shards one holds no liar, while at most c lie; so the run finishes, if that many shards of the least
size fit into the cohort. With one liar two shards learn most: more of them add more noise than they save clients.

**Why** the shards are fixed by the roster alone, and not drawn again each round: whoever stands with a liar would
otherwise be somebody else every round, and each of them would pay for a session without a sum. A new roster, which the
authority signs, draws others. The whole cohort contains its shards, so that sets of one adapter are nested or disjoint.
"""

from dataclasses import replace

from fgrpo_secure.config.schema import Config
from fgrpo_secure.plan import schedule
from fgrpo_secure.plan.cost import PrivacyPlan
from fgrpo_secure.privacy.noise import NoisePlan
from protocols import params, shards
from protocols.errors import Refused
from protocols.params import Infeasible, Parameters

KEY = 2**32  # in place of a training round's number, which is smaller
# Spoiled sessions that a client pays for under an honest server, which opens no shard in which one paid for so many.
# What a lying one gets is bounded by each client's own books, over both forms: a round and `max_repeats` repeats.
MOST_PAID = 2


def plan(config: Config, whole: PrivacyPlan, count: int, enrolled: int) -> PrivacyPlan | None:
    """The plan of the smallest shard, when `count` clients may take part and the roster has `enrolled`.

    None where a cohort cannot be divided: it is below twice the least size of a shard, it is in shards from the start
    (those of the next round are others), or nothing is aggregated securely.
    """
    if whole.trusted_server or whole.shards > 1:
        return None
    cohort = schedule.size(config, count)
    for parts in range(min(whole.parameters.colluders + 1, cohort), 1, -1):
        found = _in_parts(config, whole, parts, max(count, enrolled), cohort)
        if found is not None:
            return found
    return None


def facts(config: Config, whole: PrivacyPlan) -> dict[str, object]:
    """What `fgrpo plan` says of it, by public name."""
    small = plan(config, whole, config.clients_total, config.clients_total)
    if whole.trusted_server:
        return {"aggregation.shards_after_failure": None, "aggregation.after_failure": "nothing is opened in secret"}
    if small is not None:
        after = f"goes on in {small.shards} shards of {small.parameters.cohort} or more clients after a spoiled session"
    elif whole.shards > 1:
        after = "goes on with the other shards of a round after a spoiled session"
    else:
        after = (
            f"{schedule.size(config, config.clients_total)} clients are too few for two shards: the run ends, with "
            f"what it has, after {MOST_PAID} spoiled sessions"
        )
    shards_after = small.shards if small is not None else None
    return {"aggregation.shards_after_failure": shards_after, "aggregation.after_failure": after}


def partition(
    config: Config, divided: PrivacyPlan, roster_digest: bytes, training_round: int, ids: tuple[int, ...] | None
) -> tuple[tuple[int, ...], ...]:
    """The shards of a round's cohort out of `ids`, once the run goes on in shards."""
    cohort = schedule.cohort(config, training_round, ids)
    return shards.partition(cohort, divided.shards, roster_digest, KEY)


def is_shard(
    config: Config,
    divided: PrivacyPlan | None,
    roster_digest: bytes,
    training_round: int,
    ids: tuple[int, ...],
    client: int,
    cohort: tuple[int, ...],
) -> bool:
    """Whether `cohort` is the client's shard of a divided round; False if it is its set of a whole one.

    Refused for any other: a server that chose sets would read differences between their sums.
    """
    own_round = schedule.partition(config, roster_digest, training_round, ids)
    if divided is None or (client in cohort and cohort in own_round):
        shards.refuse_other(client, cohort, own_round)
        return False
    shards.refuse_other(client, cohort, partition(config, divided, roster_digest, training_round, ids))
    return True


def refuse_whole(left_in_round: bool, repeated: int, is_divided: bool, can_divide: bool) -> None:
    """Refused for a second repeat with the whole cohort, where that can be divided.

    By what the client paid itself: `left_in_round` says that a vector of it left for this round, `repeated` for how
    many repeats of rounds in this run one did. The first repeat may follow a crash; who asks for another one, with
    everybody again, risks a second payment of the same people for the same liar.
    """
    if left_in_round and repeated >= MOST_PAID - 1 and can_divide and not is_divided:
        raise Refused("the plan repeats a round with its whole cohort again; this client goes on in a shard of it only")


def least(whole: Parameters, divided: PrivacyPlan | None) -> Parameters:
    """The smaller numbers of the two: what an owner must be content with for a run to go on in shards."""
    if divided is None:
        return whole
    small = divided.parameters
    return replace(
        whole,
        cohort=min(whole.cohort, small.cohort),
        quorum=min(whole.quorum, small.quorum),
        threshold=min(whole.threshold, small.threshold),
        floor=min(whole.floor, small.floor),
    )


def _in_parts(config: Config, whole: PrivacyPlan, parts: int, roster: int, cohort: int) -> PrivacyPlan | None:
    adversary = whole.parameters.adversary
    corrupt, dropout = config.aggregation.max_corrupt, config.aggregation.max_dropout
    try:
        small, _ = (params.derive(adversary, roster, size, corrupt, dropout) for size in shards.sizes(cohort, parts))
        noise = whole.noise
        if noise is not None and whole.claim is not None and not (whole.units is not None and whole.units.local):
            multiplier = whole.claim.noise_multiplier
            noise = NoisePlan.build(whole.lattice, multiplier, small.floor, small.colluders)
    except (Infeasible, ValueError):
        return None
    return replace(whole, shards=parts, parameters=small, noise=noise)
