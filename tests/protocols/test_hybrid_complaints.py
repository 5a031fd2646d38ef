"""What a client says of a pad that does not open, and what follows from it."""

import numpy as np
import pytest

from protocols import client, wire
from protocols.culprits import named, suspects
from protocols.errors import TooFewClients
from protocols.transcript import Recorder, recompute
from protocols.wire import Step


@pytest.fixture
def make_hybrid(make_world):
    return lambda **kwargs: make_world(post_quantum=True, **kwargs)


@pytest.mark.parametrize("accusers", [1, 2])
def test_pads_that_stop_so_many_that_the_floor_is_missed_leave_groups_for_anybody(
    liars, accusers, make_world, make_link, monkeypatch
):
    """n = 5, c = 1, and nobody may be lost: one accuser shows a pair, two show the dealer."""
    world = make_world(clients=5, max_dropout=0, post_quantum=True)
    culprit, victims = world.ids[0], set(world.ids[1 : 1 + accusers])
    liars.spoil_pads(monkeypatch, culprit, victims, liars.flipped("box"))
    recorder = Recorder()
    with pytest.raises(TooFewClients) as caught:
        world.run(make_link(world), record=recorder)
    failed = recompute(world.plan, world.roster, recorder.transcript.entries, world.verify)
    assert failed.disputes == tuple((culprit, victim) for victim in sorted(victims))
    assert named(suspects(failed), 1) == ({culprit} if accusers > 1 else frozenset())
    assert set(failed.blamed) == set(caught.value.blamed) == ({culprit} if accusers > 1 else set())


@pytest.mark.parametrize("fault", ["dealer", "name", "view", "classical"])
def test_a_complaint_about_what_was_not_dealt_accuses_nobody(fault, make_world, make_link):
    """Only a pad that the accused dealt to the accuser, in the server's view, can be complained about."""
    world = make_world(clients=7, post_quantum=fault != "classical")
    liar, accused = world.ids[3], world.ids[4] if fault == "dealer" else world.ids[0]

    def tamper(step, who, up, data):
        if (step, who, up) != (Step.MASK, liar, True):
            return data
        s2 = bytes(32) if fault == "view" else world_state(world, liar).s2
        name = world.ids[5] if fault == "name" else liar
        return world.sealed(liar, step, wire.Complaint(name, accused, s2))

    recovered, _ = world.run(make_link(world, tamper=tamper))
    assert_exact(world, recovered, {liar})
    assert recovered.disputes == ()
    assert set(recovered.blamed) == ({liar} if fault in ("dealer", "name") else set())


def test_a_false_complaint_costs_its_client_the_round_and_leaves_the_pair(make_hybrid, make_link):
    world = make_hybrid()
    liar, accused = world.ids[3], world.ids[0]

    def tamper(step, who, up, data):
        if (step, who, up) != (Step.MASK, liar, True):
            return data
        return world.sealed(liar, step, wire.Complaint(liar, accused, world_state(world, liar).s2))

    recovered, traffic = world.run(make_link(world, tamper=tamper))
    assert_exact(world, recovered, {liar})
    assert recovered.disputes == ((accused, liar),)
    assert recovered.blamed == {}
    assert traffic.answered[Step.MASK] == len(world.ids) - 1


def assert_exact(world, recovered, lost_before_upload):
    survivors = tuple(i for i in world.ids if i not in lost_before_upload)
    assert recovered.survivors == survivors
    for name, total in world.plain_sum(survivors).items():
        assert np.array_equal(recovered.totals[name], total)


def world_state(world, who):
    store = world.drivers[who]._store
    return client.decode_state(store.state(world.identities[who].public, wire.session_of(world.plan)))
