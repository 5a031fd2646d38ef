"""Who takes part in which round: fixed before the run, so that the server cannot choose cohorts."""

from fgrpo_secure.config import Config


def cohort(config: Config, training_round: int) -> tuple[int, ...]:
    """Ascending client ids of round `training_round` (from 0).

    'all' takes everybody; 'blocks' deals the ids in turn, so that over any stretch of rounds two clients differ by
    at most one participation. Ids are those of the roster, 0 to clients - 1.
    """
    if config.federation.schedule == "all":
        return tuple(range(config.clients_total))
    size, total = config.cohort, config.clients_total
    first = training_round * size
    return tuple(sorted((first + offset) % total for offset in range(size)))


def rounds_per_unit(config: Config) -> int:
    """The most rounds that any one unit inside a client takes part in over the whole run."""
    return min(rounds_per_client(config), -(-config.federation.rounds // config.unit_blocks))


def rounds_per_client(config: Config) -> int:
    """The most rounds that any one client takes part in over the whole run."""
    return -(-config.federation.rounds * config.cohort // config.clients_total)
