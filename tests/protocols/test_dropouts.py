"""Clients may vanish at any step: while the floor holds, the sum is that of the survivors, exactly."""

import itertools

import numpy as np
import pytest

from protocols.errors import TooFewClients
from protocols.params import Adversary
from protocols.wire import Step

STEPS = list(Step)
ADVERSARIES = list(Adversary)


def assert_exact(world, recovered, lost_before_upload):
    survivors = tuple(i for i in world.ids if i not in lost_before_upload)
    assert recovered.survivors == survivors
    for name, total in world.plain_sum(survivors).items():
        assert recovered.totals[name].dtype == np.int64
        assert np.array_equal(recovered.totals[name], total)


def before_upload(lost):
    return set().union(*(clients for step, clients in lost.items() if step not in (Step.AGREE, Step.UNMASK)))


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_without_dropouts_the_sum_is_everybodys(adversary, make_world):
    world = make_world(adversary=adversary)
    recovered, traffic = world.run()
    assert_exact(world, recovered, set())
    assert recovered.dropped == ()
    assert recovered.blamed == {}
    assert traffic.answered == dict.fromkeys(STEPS, 6)


@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize(("first", "second"), list(itertools.combinations_with_replacement(STEPS, 2)))
def test_one_client_lost_at_each_of_two_steps(adversary, first, second, make_world, make_link):
    world = make_world(adversary=adversary)
    lost = {step: set() for step in STEPS}
    lost[first].add(world.ids[1])
    lost[second].add(world.ids[4])
    recovered, _ = world.run(make_link(world, lost))
    assert_exact(world, recovered, before_upload(lost))
    sharers = set(world.ids) - lost[Step.ANNOUNCE] - lost[Step.SHARE]
    assert set(recovered.dropped) == sharers - set(recovered.survivors)


def test_every_pattern_of_dropouts_in_the_mask_step(make_world, make_link):
    """All ways to lose up to two of six, first and last ids included: the signs of pair masks all occur."""
    for count in range(3):
        for gone in itertools.combinations(range(6), count):
            world = make_world(seed=count)
            lost = {world.ids[i] for i in gone}
            recovered, _ = world.run(make_link(world, {Step.MASK: lost}))
            assert_exact(world, recovered, lost)


@pytest.mark.parametrize("bits", [8, 31, 32, 33, 62])
def test_every_ring_width_sums_exactly(bits, make_world, make_link):
    world = make_world(ring_bits=bits, vectors=(("a", 1), ("b", 100), ("c", 3)))
    recovered, _ = world.run(make_link(world, {Step.MASK: {world.ids[0]}}))
    assert_exact(world, recovered, {world.ids[0]})


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_one_dropout_too_many_ends_the_session_with_nothing(step, adversary, make_world, make_link):
    world = make_world(adversary=adversary)
    p = world.plan
    least = {Step.AGREE: max(p.quorum, p.threshold), Step.UNMASK: p.threshold}.get(step, p.floor)
    gone = set(world.ids[: 6 - least + 1])
    with pytest.raises(TooFewClients) as caught:
        world.run(make_link(world, {step: gone}))
    assert (caught.value.step, caught.value.have, caught.value.need) == (step.value, least - 1, least)


@pytest.fixture(scope="module")
def sparse_lost():
    """Dropouts at several steps of a sparse session; 12 of 202 may go."""
    return {
        Step.ANNOUNCE: {0, 50},
        Step.SHARE: {7, 120},
        Step.MASK: {3, 4, 5, 201},
        Step.AGREE: {9},
        Step.UNMASK: {11},
    }


def test_dropouts_on_the_sparse_graph(sparse_lost, make_world, make_link):
    world = make_world(
        clients=202,
        adversary=Adversary.HONEST_BUT_CURIOUS,
        max_corrupt=0.02,
        max_dropout=0.06,
        vectors=(("update", 3),),
    )
    assert world.plan.parameters.graph == "sparse"
    lost = {step: {world.ids[i] for i in places} for step, places in sparse_lost.items()}
    recovered, _ = world.run(make_link(world, lost))
    assert_exact(world, recovered, before_upload(lost))
    assert len(recovered.dropped) == 4


def test_the_sum_wraps_around_the_ring_and_nothing_else(make_world):
    world = make_world(ring_bits=8, vectors=(("update", 2),))
    for i in world.ids:
        world.values[i] = {"update": np.array([100, -100])}
    recovered, _ = world.run()
    assert recovered.totals["update"].tolist() == [(600 + 128) % 256 - 128, (-600 + 128) % 256 - 128]
