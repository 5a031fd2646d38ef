"""Seven clients and a server play one session in this process; one client is lost on the way.

The server learns the sum over the six others and nothing else: `python examples/play_a_session.py`. A real client keeps
its states durably (protocols/drive.py), so that it answers each step once.
"""

import os
import sys

import numpy as np

from protocols import client, labels, params, server, wire
from protocols.identity import Identity
from protocols.member import Limits, Member
from protocols.roster import Entry, Roster
from protocols.wire import Step

LYING, IDS = params.Adversary.LYING_SERVER, tuple(range(7))
authority, host, *keys = (Identity.from_seed(os.urandom(32)) for _ in range(9))
roster = Roster(1, authority.public, tuple(Entry(i, f"client {i}", keys[i].public) for i in IDS))
p = params.derive(LYING, roster_size=7, cohort=7, max_corrupt=0.1, max_dropout=0.2)
plan = wire.RoundPlan(
    labels.VERSION, os.urandom(16), 1, roster.digest, roster.version, IDS, (), b"{}", (("update", 4),), 32,
    LYING, p.colluders, p.quorum, p.threshold, p.floor, p.neighbours,
)  # fmt: skip
limits = Limits(LYING, 0.1, 0.2, min_cohort=7, min_survivors=6, last_session=0, today=20_000, run=plan.run)
members = {i: Member(i, keys[i], roster, host.public, limits) for i in IDS}
values = {i: {"update": i * np.arange(4)} for i in IDS}

STEPS = {
    Step.ANNOUNCE: lambda me, _, request: client.announce(me, request, {}, os.urandom(32)),
    Step.SHARE: lambda me, state, request: client.share(me, state, request, os.urandom(32)),
    Step.MASK: lambda me, state, request: client.mask(me, state, request, values[me.id]),
    Step.AGREE: client.agree,
    Step.UNMASK: client.unmask,
}
states = {}
inbox = server.open_session(host, plan, roster)
while not isinstance(inbox, server.Recovered):
    for i, request in inbox.outgoing.items():
        if (i, inbox.step) != (3, Step.MASK):  # client 3 is lost before it uploads
            states[i], answer = STEPS[inbox.step](members[i], states.get(i), request)
            inbox.receive(i, answer)
    inbox = inbox.close()
sys.stdout.write(f"survivors {inbox.survivors}, sum {inbox.totals['update'].tolist()}\n")
