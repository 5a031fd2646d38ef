"""On the sparse graph a client checks its neighbours' signatures as they come; a stranger's forged entry is found
before anything is opened.
"""

import msgspec
import pytest

from protocols import labels, member, wire
from protocols.errors import FaultyServer
from protocols.graph import Graph
from protocols.params import Adversary
from protocols.wire import Step

N, DEGREE = 13, 4


@pytest.fixture
def sparse(make_world, monkeypatch):
    """A small sparse session, which clients with their own bounds would refuse."""
    monkeypatch.setattr(member, "refuse_weaker", lambda *_: None)
    world = make_world(clients=N, adversary=Adversary.HONEST_BUT_CURIOUS, max_dropout=0.3, vectors=(("update", 3),))
    world.change_plan(neighbours=DEGREE, threshold=2)
    return world


class Forging:
    """Replaces one entry of what one client, or everybody, gets in a step: a neighbour's, or a stranger's."""

    def __init__(self, world, step, near, everybody=False):
        self.world, self.step, self.near, self.everybody = world, step, near, everybody
        self.me, self.forged, self._s1 = world.ids[0], None, b""

    def __call__(self, step, who, up, data):
        if up:
            return data
        if step is Step.SHARE and not self._s1:
            self._s1 = labels.digest(labels.HASH_ANNOUNCED, self._announcements(data) if self.step is step else data)
        if step is not self.step or not (self.everybody or who == self.me):
            return data
        return self._announcements(data) if step is Step.SHARE else self._roots(data)

    def _announcements(self, data):
        """The graph follows from the forged bytes: take the first entry whose forgery stands where it should."""
        message = wire.decode(wire.Announcements, data, 1 << 20)
        for at, entry in enumerate(message.entries[1:], 1):
            other = msgspec.structs.replace(entry, seal_key=entry.mask_key)
            entries = (*message.entries[:at], other, *message.entries[at + 1 :])
            changed = wire.encode(msgspec.structs.replace(message, entries=entries))
            if (entry.client in self._neighbours(labels.digest(labels.HASH_ANNOUNCED, changed))) == self.near:
                self.forged = entry.client
                return changed
        raise AssertionError("no such client")

    def _roots(self, data):
        message = wire.decode(wire.Deliveries, data, 1 << 20)
        roots = wire.decode(wire.Roots, message.roots, 1 << 20)
        neighbours = self._neighbours(self._s1)
        others = [i for i, entry in enumerate(roots.entries) if entry.dealer != self.me]
        at = next(i for i in others if (roots.entries[i].dealer in neighbours) == self.near)
        other = msgspec.structs.replace(roots.entries[at], seed_commitment=bytes(32))
        entries = (*roots.entries[:at], other, *roots.entries[at + 1 :])
        self.forged = other.dealer
        return wire.encode(
            msgspec.structs.replace(message, roots=wire.encode(msgspec.structs.replace(roots, entries=entries)))
        )

    def _neighbours(self, s1):
        return Graph(self.world.plan, s1, self.world.ids).holders(self.me)


def refusal(world, make_link, forging):
    """What the watched client said, and in which step it stopped."""
    link = make_link(world, tamper=forging)
    steps = {}

    def watching(step, who, up, data):
        if who == forging.me and not up:
            steps["last"] = step
        return forging(step, who, up, data)

    link.tamper = watching
    world.run_quietly(link)
    return link, str(link.refusals.get(forging.me, "")), steps["last"]


@pytest.mark.parametrize(("step", "entry"), [(Step.SHARE, "announcement"), (Step.MASK, "root")])
def test_a_neighbours_forged_entry_is_refused_as_it_comes(step, entry, sparse, make_link):
    forging = Forging(sparse, step, near=True)
    _, said, stopped = refusal(sparse, make_link, forging)
    assert stopped is step
    assert f"{entry} that client {forging.forged} did not sign" in said


@pytest.mark.parametrize("step", [Step.SHARE, Step.MASK])
def test_a_strangers_forged_entry_shown_to_one_client_ends_its_part(step, sparse, make_link):
    """It answers under a view that nobody shares, and what it signs there counts nowhere."""
    forging = Forging(sparse, step, near=False)
    _, said, stopped = refusal(sparse, make_link, forging)
    assert (stopped, said) == (step, "")
    assert forging.forged not in Graph(sparse.plan, forging._s1, sparse.ids).holders(forging.me)


@pytest.mark.parametrize("step", [Step.SHARE, Step.MASK])
def test_a_forged_entry_shown_to_everybody_is_refused_by_the_client_it_names(step, sparse, make_link):
    forging = Forging(sparse, step, near=False, everybody=True)
    link, _, _ = refusal(sparse, make_link, forging)
    assert isinstance(link.refusals[forging.forged], FaultyServer)
    assert "changed this client's own" in str(link.refusals[forging.forged])
