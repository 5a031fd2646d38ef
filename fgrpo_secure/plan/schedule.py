"""Who takes part in which round: fixed before the run, so that the server cannot choose cohorts."""

from fgrpo_secure.config.schema import Config
from protocols import shards
from protocols.params import MAX_COMPLETE, Adversary
from protocols.roster import Roster


def clients(config: Config, roster: Roster, today: int) -> tuple[int, ...]:
    """Ascending ids of those among the run's clients who may take part today (days since 1970-01-01).

    Refused if the roster has expired.
    """
    return tuple(client for client in roster.active(today) if client < config.clients_total)


def cohort(config: Config, training_round: int, ids: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Ascending client ids of round `training_round` (from 0), out of `ids`, who may take part (default: all).

    'all' takes everybody; 'blocks' deals the ids in turn, so that over any stretch of rounds two clients differ by
    at most one participation as long as nobody leaves.
    """
    ids = tuple(range(config.clients_total)) if ids is None else ids
    if config.federation.schedule == "all":
        return ids
    first = training_round * config.cohort
    return tuple(sorted(ids[(first + offset) % len(ids)] for offset in range(config.cohort)))


def rounds_per_unit(config: Config) -> int:
    """The most rounds that any one unit inside a client takes part in over the whole run."""
    return min(rounds_per_client(config), -(-config.federation.rounds // config.unit_blocks))


def unit_budgets(config: Config) -> int:
    """How many units' budgets all rounds cost together: a server's ledger pays for every round, a unit for its own."""
    if config.federation.schedule == "all":
        return config.unit_blocks
    return max(config.unit_blocks, -(-config.federation.rounds // rounds_per_unit(config)))


def size(config: Config, count: int) -> int:
    """Clients of one round when `count` may take part."""
    return count if config.federation.schedule == "all" else config.cohort


def rounds_per_client(config: Config, count: int | None = None) -> int:
    """The most rounds that any one of `count` clients (default: all) takes part in over a whole run."""
    count = count or config.clients_total
    return -(-config.federation.rounds * size(config, count) // count)


def parities(config: Config) -> set[tuple[int, int]]:
    """(even rounds, odd rounds) that clients take part in over the whole run; every pair that occurs.

    Cohorts repeat after as many rounds as there are clients, and with their parity after twice as many.
    """
    turns, rest = divmod(config.federation.rounds, 2 * config.clients_total)
    taken = [[0, 0] for _ in range(config.clients_total)]
    for training_round in range(min(config.federation.rounds, 2 * config.clients_total)):
        times = turns + (training_round < rest)
        for client in cohort(config, training_round):
            taken[client][training_round % 2] += times
    return {(even, odd) for even, odd in taken}


def shard_count(config: Config, count: int | None = None) -> int:
    """How many sessions a round is split into when `count` may take part (default: all)."""
    most = config.aggregation.shard_size
    if most is None and config.aggregation.adversary == Adversary.LYING_SERVER.value:
        most = MAX_COMPLETE
    return 1 if most is None else shards.count(size(config, count or config.clients_total), most)


def partition(
    config: Config, roster_digest: bytes, training_round: int, ids: tuple[int, ...] | None = None
) -> tuple[tuple[int, ...], ...]:
    """The cohorts of a round's sessions: disjoint, ascending, together the `cohort` out of `ids`."""
    whole = cohort(config, training_round, ids)
    count = shard_count(config, None if ids is None else len(ids))
    return shards.partition(whole, count, roster_digest, training_round)
