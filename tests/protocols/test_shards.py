"""The shards of a large round: disjoint, balanced, and nobody's choice."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import shards
from protocols.errors import Refused
from protocols.params import Adversary, Infeasible, derive

ROSTER = bytes(range(32))


@given(st.integers(1, 300), st.integers(1, 40), st.binary(min_size=32, max_size=32), st.integers(0, 2**40))
def test_shards_are_the_cohort_without_overlap_and_differ_by_at_most_one(clients, most, roster, round_number):
    cohort = tuple(range(5, 5 + 3 * clients, 3))
    parts = shards.partition(cohort, shards.count(clients, most), roster, round_number)
    assert sorted(client for part in parts for client in part) == list(cohort)
    assert {len(part) for part in parts} == set(shards.sizes(clients, len(parts)))
    assert max(map(len, parts)) <= most
    assert all(part == tuple(sorted(part)) for part in parts)


def test_roster_round_and_number_of_shards_each_change_the_partition():
    cohort = tuple(range(60))
    parts = {
        shards.partition(cohort, 3, ROSTER, 0),
        shards.partition(cohort, 3, ROSTER, 1),
        shards.partition(cohort, 3, bytes(32), 0),
        shards.partition(cohort, 4, ROSTER, 0)[:3],
    }
    assert len(parts) == 4


def test_a_client_stands_with_every_other_equally_often():
    """Over 2,000 rounds of 12 clients in 3 shards: 3 of 11 others each time, within 5 standard errors."""
    rounds, p = 2000, 3 / 11
    met = Counter(
        other
        for at in range(rounds)
        for part in shards.partition(tuple(range(12)), 3, ROSTER, at)
        if 0 in part
        for other in part
        if other
    )
    assert all(abs(met[other] / rounds - p) < 5 * (p * (1 - p) / rounds) ** 0.5 for other in range(1, 12))


def test_a_client_refuses_every_cohort_but_its_own_shard():
    parts = shards.partition(tuple(range(24)), 3, ROSTER, 0)
    me = parts[1][0]
    shards.refuse_other(me, parts[1], parts)
    swapped = tuple(sorted((*parts[1][:-1], parts[0][0])))
    for cohort in (parts[0], parts[2], swapped, parts[1][:-1], tuple(range(24))):
        with pytest.raises(Refused, match="not this client's shard"):
            shards.refuse_other(me, cohort, parts)


@pytest.mark.parametrize("clients", [1001, 3000, 10_000])
def test_a_shard_withstands_all_colluders_of_the_roster(clients):
    """Exact, for every place that the colluders may take: two quorums, or two sets of holders, share an honest one."""
    for size in set(shards.sizes(clients, shards.count(clients, 1000))):
        got = derive(Adversary.LYING_SERVER, clients, size, 0.05, 0.1)
        colluders = -(-clients * 5 // 100)
        assert got.colluders == colluders
        assert 2 * got.quorum - size > colluders
        assert 2 * got.threshold - size > colluders
        assert got.floor - colluders >= 3
        assert got.floor == size - size // 10


def test_partitions_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="do not make"):
        shards.partition((1, 2), 3, ROSTER, 0)
    with pytest.raises(ValueError, match="at least one"):
        shards.count(0, 5)


@settings(max_examples=25)  # each derives parameters some dozen times
@given(
    st.sampled_from(Adversary),
    st.integers(10, 4000),
    st.integers(4, 60),
    st.integers(0, 400),
    st.integers(0, 90),
    st.integers(0, 5000),
)
def test_infeasible_shards_name_a_setting_that_really_works(adversary, cohort, most, gamma, delta, more):
    asked = {"shard_size": most, "max_corrupt": gamma / 1000, "max_dropout": delta / 100}

    def attempt(shard_size, max_corrupt, max_dropout):
        parts = shards.count(cohort, shard_size)
        return shards.derive(adversary, cohort + more, cohort, parts, max_corrupt, max_dropout)

    try:
        attempt(**asked)
    except Infeasible as error:
        changes = dict(part.split(" = ") for part in error.nearest.split(", ") if " = " in part)
        if (shards.count(cohort, most) == 1 and "cohort" in changes) or not changes:
            return
        named = {name: int(value) if name == "shard_size" else float(value) for name, value in changes.items()}
        for got in attempt(**(asked | named)):
            assert 2 * got.quorum > got.cohort + got.colluders
            assert got.cohort <= 1000


@pytest.mark.parametrize(
    ("cohort", "count", "corrupt", "dropout", "size"), [(60, 12, 0.05, 0.1, 6), (30, 3, 0.05, 0.4, 15)]
)
def test_the_smallest_shards_that_work_are_named_first(cohort, count, corrupt, dropout, size):
    with pytest.raises(Infeasible) as caught:
        shards.derive(Adversary.LYING_SERVER, cohort, cohort, count, corrupt, dropout)
    assert caught.value.nearest == f"shard_size = {size}"


@given(n=st.integers(4, 60), parts=st.lists(st.integers(1, 3), min_size=1, max_size=3), number=st.integers(0, 2**40))
def test_sets_of_refined_shards_are_disjoint_or_nested_and_none_is_lost(n, parts, number):
    """Two that overlap would show, in their difference, a set that nobody agreed to."""
    cohort = tuple(range(n))
    levels, seen = [(cohort,)], [cohort]
    for count in parts:
        if min(map(len, levels[-1])) < count:
            break
        levels.append(shards.refine(levels[-1], count, bytes(32), number))
        assert sorted(client for shard in levels[-1] for client in shard) == list(cohort)
        for own, other in ((set(shard), set(each)) for shard in levels[-1] for each in seen):
            assert own.isdisjoint(other) or own <= other or own >= other
        seen += levels[-1]
