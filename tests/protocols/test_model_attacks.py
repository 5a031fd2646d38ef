"""Attacks by crafted models and cut-out segments: tried on this code, and on a copy weakened in one place."""

import msgspec
import pytest

from protocols import wire
from protocols.errors import TooFewClients
from protocols.graph import Graph
from protocols.wire import Step

WEAKENED = pytest.mark.parametrize("weakened", [False, True], ids=["ours", "weakened"])


@WEAKENED
def test_giving_one_client_another_model(weakened, make_world, make_link, monkeypatch):
    """SECAGG.md F8. The victim is sent a plan with a model made for it, and even loads that model. Weakened: the
    session does not depend on the plan; then its upload enters the others' sum."""
    if weakened:
        monkeypatch.setattr(wire, "session_of", lambda plan: bytes(32))
    world = make_world()
    victim = world.ids[2]
    crafted = (("adapter", b"c" * 32), ("model", world.context["model"]))
    other = world.signed(msgspec.structs.replace(world.plan, context=crafted))

    def tamper(step, who, up, data):
        return other if (step, who, up) == (Step.ANNOUNCE, victim, False) else data

    world.drivers[victim]._context = lambda: dict(crafted)
    recovered, _ = world.run(make_link(world, tamper=tamper))
    assert (victim in recovered.survivors) is weakened


def test_a_ring_segment_cannot_be_cut_out_below_the_floor(make_world, make_link):
    """SECAGG.md 7, warning 2: a lying server that knows a ring calls everybody around a segment dropped. Against it
    there is no ring, and below the floor there is no sum."""
    world = make_world(clients=12, max_dropout=0.1)
    assert world.plan.parameters.graph == "complete"
    graph = Graph(world.plan, bytes(32), world.ids)
    assert all(graph.holders(i) == world.ids for i in world.ids)
    with pytest.raises(TooFewClients):
        world.run(make_link(world, {Step.MASK: set(world.ids[3:])}))
