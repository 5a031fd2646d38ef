"""Plays the clients of a stored session again: same identities, randomness and values."""

import numpy as np

from protocols import client, wire
from protocols.identity import Identity
from protocols.member import Limits, Member
from protocols.params import Adversary
from protocols.roster import open_roster


def of_hex(text):
    return bytes.fromhex(text)


def build_member(session, client_id, **changed):
    server = Identity.from_seed(of_hex(session["server"]))
    authority = Identity.from_seed(of_hex(session["authority"]))
    roster = open_roster(of_hex(session["roster"]), authority.public, 3)
    limits = Limits(Adversary.LYING_SERVER, **{"run": run_of(session), **session["limits"], **changed})
    identity = Identity.from_seed(of_hex(session["identities"][str(client_id)]))
    return Member(client_id, identity, roster, server.public, limits)


def run_of(session):
    request = next(iter(session["requests"]["announce"].values()))
    return wire.decode(wire.SignedPlan, of_hex(request), wire.MAX_PLAN).plan.run


def context_of(session):
    return {name: of_hex(value) for name, value in session["context"].items()}


def act(session, member, state, step, request):
    """One step of one client on one request, with the stored randomness and values."""
    me = str(member.id)
    if step == "announce":
        randomness = of_hex(session["announce_randomness"][me])
        return client.announce(member, request, context_of(session), randomness)
    if step == "share":
        return client.share(member, state, request, of_hex(session["share_randomness"][me]))
    if step == "mask":
        values = {name: np.array(v, np.int64) for name, v in session["values"][me].items()}
        return client.mask(member, state, request, values)
    return (client.agree if step == "agree" else client.unmask)(member, state, request)
