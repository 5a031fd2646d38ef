"""Who is named, against brute force; and that nobody honest ever is while at most c lie."""

import time
from itertools import combinations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import culprits, shards
from protocols.culprits import named, suspects
from protocols.recovery import Recovered
from protocols.transcript import Failed

CLIENTS = st.integers(0, 8)
GROUPS = st.lists(st.frozensets(CLIENTS, min_size=1, max_size=5), max_size=7)


def brute_force(groups, most):
    """The clients common to all sets of at most `most` that meet all groups; nobody if there is no such set."""
    everybody = sorted(set().union(*groups))
    sets = [
        frozenset(chosen)
        for count in range(most + 1)
        for chosen in combinations(everybody, count)
        if all(group.intersection(chosen) for group in groups)
    ]
    return frozenset.intersection(*sets) if sets else frozenset()


@settings(max_examples=600)
@given(GROUPS, st.integers(0, 4))
def test_the_named_are_those_of_brute_force(groups, most):
    assert named(groups, most) == brute_force(groups, most)


@settings(max_examples=300)
@given(st.lists(st.frozensets(CLIENTS, min_size=2, max_size=2), max_size=14), st.integers(0, 4))
def test_the_named_among_complaints_are_those_of_brute_force(pairs, most):
    assert named(pairs, most) == brute_force(pairs, most)


@settings(max_examples=400)
@given(st.data(), st.integers(1, 4))
def test_nobody_honest_is_named_while_at_most_c_lie(data, colluders):
    """Whatever groups the liars bring about: each holds one of them."""
    everybody = range(20)
    liars = data.draw(st.frozensets(st.sampled_from(everybody), min_size=1, max_size=colluders))
    group = st.builds(
        lambda liar, beside: frozenset({liar, *beside}),
        st.sampled_from(sorted(liars)),
        st.frozensets(st.sampled_from(everybody), max_size=6),
    )
    assert named(data.draw(st.lists(group, max_size=12)), colluders) <= liars


def failed_groups(rng, victim, liars, rounds=20, stop_alone=True):
    """Shards of ten of forty clients; the liars misbehave exactly where the victim stands."""
    clients, failed = tuple(range(40)), []
    for number in range(rounds):
        dealt = shards.partition(clients, 4, rng.randbytes(32), number)
        failed += [frozenset(shard) for shard in dealt if victim in shard and liars.intersection(shard)]
        if failed and stop_alone and len(frozenset.intersection(*failed)) == 1:
            break
    return failed


@pytest.mark.parametrize("weakened", [True, False], ids=["intersection", "ours"])
def test_colluders_that_misbehave_beside_one_victim_do_not_frame_it(weakened):
    """Four of forty. Weakened: whoever stands in all failed groups is guilty; often that is the victim alone."""
    framed = 0
    for seed in range(60):
        rng = Random(seed)
        victim, *others = rng.sample(range(40), 5)
        failed = failed_groups(rng, victim, frozenset(others))
        found = frozenset.intersection(*failed) if weakened else named(failed, 4)
        framed += victim in found and len(found) == 1
    assert framed > 15 if weakened else framed == 0


def test_more_liars_than_assumed_name_nobody():
    assert named([frozenset([1]), frozenset([2])], 1) == frozenset()
    assert named([frozenset([1]), frozenset([2])], 2) == {1, 2}


def test_a_dealer_that_more_than_c_holders_accuse_is_named_and_c_accusers_name_nobody():
    for colluders in (1, 2, 5):
        accused = [frozenset([0, holder]) for holder in range(1, colluders + 2)]
        assert named(accused, colluders) == {0}
        assert named(accused[:-1], colluders) == frozenset()


def test_a_failed_shard_within_a_failed_shard_narrows_the_named_only_to_what_must_be():
    outer, inner = frozenset(range(10)), frozenset([3, 4])
    assert named([outer, inner], 1) == frozenset()
    assert named([outer, inner, frozenset([4, 9])], 1) == {4}


def test_an_empty_group_is_the_callers_mistake():
    with pytest.raises(ValueError, match="without clients"):
        named([frozenset()], 1)


def test_realistic_sizes_are_settled_at_once():
    """A thousand clients, a hundred liars who accuse and are accused, and forty failed shards."""
    rng = Random(7)
    liars = rng.sample(range(1000), 100)
    groups = [frozenset([liar, rng.randrange(1000)]) for liar in liars for _ in range(12)]
    groups += [frozenset([rng.choice(liars), *rng.sample(range(1000), 24)]) for _ in range(40)]
    groups = [group for group in groups if len(group) > 1]
    started = time.process_time()
    found = named(groups, 100)
    assert time.process_time() - started < 20
    assert found <= set(liars)


def test_a_puzzle_names_only_whom_everybody_can_see_and_ends(monkeypatch):
    """Liars choose whom they accuse. Work is bounded; what takes longer to show is not shown."""
    monkeypatch.setattr(culprits, "WORK", 2000)
    rng = Random(3)
    puzzle = [frozenset(rng.sample(range(60), 3)) for _ in range(120)]
    plain = [frozenset([100]), *(frozenset([101, 200 + i]) for i in range(21))]
    started = time.process_time()
    found = named(puzzle + plain, 20)
    assert time.process_time() - started < 2
    assert found in (frozenset(), {100, 101})
    assert named(plain, 20) == {100, 101}


def test_what_a_result_shows_becomes_groups():
    failed = Failed("too few", {3: "equivocated"}, ((5, 7), (5, 8), (9, 9)))
    groups = {frozenset([3]), frozenset([5, 7]), frozenset([5, 8])}
    assert suspects(failed) == groups
    assert suspects(Recovered({}, (1, 2), (), failed.blamed, failed.disputes)) == groups
