"""Schedules: fixed before the run and fair."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fgrpo_secure.config.schema import Config
from fgrpo_secure.plan.schedule import cohort, rounds_per_client


def config(clients, per_round, rounds):
    return Config.model_validate(
        {
            "client": [{"name": "a", "task": "add", "count": clients}],
            "federation": {
                "rounds": rounds,
                "clients_per_round": per_round,
                "schedule": "all" if per_round == clients else "blocks",
            },
        }
    )


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30))
def test_nobody_takes_part_more_often_than_stated_and_nobody_is_left_behind(clients, per_round, rounds):
    run = config(clients, min(clients, per_round), rounds)
    cohorts = [cohort(run, training_round) for training_round in range(rounds)]
    counts = Counter(client for members in cohorts for client in members)
    for members in cohorts:
        assert list(members) == sorted(set(members))
        assert len(members) == run.cohort
        assert set(members) <= set(range(clients))
    assert max(counts.values()) == rounds_per_client(run)
    assert max(counts.values()) - min(counts[client] for client in range(clients)) <= 1
