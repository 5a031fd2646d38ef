"""The traffic that the planner states is what a session of the real protocol sends."""

import hashlib

import numpy as np
import pytest

from fgrpo_secure.entropy import OsEntropy
from fgrpo_secure.plan import traffic
from protocols import labels, params, wire
from protocols.drive import ClientDriver, MemoryStore, conduct
from protocols.identity import Identity
from protocols.member import Limits, Member
from protocols.params import Adversary
from protocols.roster import Entry, Roster

BITS, VECTORS = 19, (("update", 300), ("scores", 2))


class Direct:
    """A link that calls each client's driver."""

    def __init__(self, drivers):
        self.drivers = drivers

    def exchange(self, step, outgoing):
        zeros = {name: np.zeros(length, np.int64) for name, length in VECTORS}
        for client in outgoing:
            yield client, self.drivers[client].handle(step, outgoing[client], lambda plan: zeros)


def seeded(*names):
    return hashlib.sha256(repr(names).encode()).digest()


@pytest.mark.parametrize("post_quantum", [False, True])
@pytest.mark.parametrize(("adversary", "clients"), [(Adversary.LYING_SERVER, 6), (Adversary.HONEST_BUT_CURIOUS, 24)])
def test_stated_bytes_are_those_of_a_real_session_within_two_percent(adversary, clients, post_quantum):
    authority, server = Identity.from_seed(seeded("authority")), Identity.from_seed(seeded("server"))
    identities = [Identity.from_seed(seeded(i)) for i in range(clients)]
    roster = Roster(
        1, authority.public, tuple(Entry(i, f"client {i}", each.public) for i, each in enumerate(identities))
    )
    p = params.derive(adversary, clients, clients, 0.05, 0.1)
    kind = wire.HybridPlan if post_quantum else wire.RoundPlan
    plan = kind(
        labels.VERSION, bytes(16), 1, roster.digest, 1, tuple(range(clients)), (), b"{}", VECTORS, BITS, adversary,
        p.colluders, p.quorum, p.threshold, p.floor, p.neighbours,
    )  # fmt: skip
    limits = Limits(adversary, 0.05, 0.1, clients, p.floor, 0, 0, plan.run)
    drivers = {
        i: ClientDriver(
            Member(i, each, roster, server.public, limits),
            MemoryStore(),
            OsEntropy().bytes,
            dict,
        )
        for i, each in enumerate(identities)
    }
    _, measured = conduct(server, plan, roster, Direct(drivers))
    opening = measured.down.pop(wire.Step.ANNOUNCE) // clients
    stated = traffic.per_round(p, tuple(length for _, length in VECTORS), BITS, opening, post_quantum)
    assert stated.up == pytest.approx(sum(measured.up.values()) / clients, rel=0.02)
    assert stated.down == pytest.approx(opening + sum(measured.down.values()) / clients, rel=0.02)
