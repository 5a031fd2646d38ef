"""Clients that do not exist: keys put in the place of others', and rosters that the authority did not sign."""

import numpy as np

from protocols import labels, params, wire
from protocols.errors import ProtocolError
from protocols.identity import Identity
from protocols.member import accept_roster
from protocols.params import Adversary
from protocols.roster import Entry, Roster, sign_roster
from threat_model import views, world
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.lone_victim import LoneVictim
from threat_model.world import Wire

READ = "every value of the victim was recovered"


def key_substitution() -> Outcome:
    """Puts own keys in the place of every other client's, under the real server's real plan."""
    at = world.build()
    return _play(LoneVictim(at, at.ids[2], at.plan))


def forged_plan() -> Outcome:
    """Conducts a session in the server's place, under a key of its own, and takes the sum."""
    at = world.build()
    at.server = Identity.from_seed(world.invented("impostor"))
    link = Wire(at)
    try:
        recovered, _ = at.run(link)
    except ProtocolError as failure:
        return Outcome(False, f"{failure}; {next(iter(link.refusals.values()))}")
    truth = {name: sum(at.values[client][name] for client in at.ids) for name, _ in at.plan.vectors}
    right = all(np.array_equal(recovered.totals[name], total) for name, total in truth.items())
    return Outcome(right, "the impostor has the sum")


def sybil_cohort() -> Outcome:
    """Shows a later roster with clients of its own making, and plans a cohort of the victim and these."""
    at = world.build()
    victim, liar = at.ids[2], Identity.from_seed(world.invented("liar"))
    sybils = {3 * place + 100: Identity.from_seed(world.invented("sybil", place)) for place in range(5)}
    entries = tuple(Entry(client, f"hospital {client}", sybil.public) for client, sybil in sybils.items())
    members = (*at.roster.members, *entries)
    body = wire.encode(("roster", labels.VERSION, 2, at.roster.authority, members, (), (), None))
    forged = wire.encode(("signed roster", body, liar.sign(labels.SIGN_ROSTER, body), ()))
    try:
        accepted = accept_roster(at.roster, forged, at.server.public)
    except ProtocolError as refusal:
        return Outcome(False, f"the victim kept its roster: {refusal}")
    at.roster = accepted
    at.join(victim)
    numbers = params.derive(Adversary.LYING_SERVER, len(accepted), 6, 0.1, 0.17)
    plan = world.plan_for(accepted, (victim, *sybils), numbers, dict(at.plan.context))
    at.join(victim, min_survivors=plan.floor)
    return _play(LoneVictim(at, victim, plan, sybils))


def revoked_identities() -> Outcome:
    """Shows the roster of before five stolen identities were revoked, and plays these five."""
    at = world.build()
    victim, authority = at.ids[2], Identity.from_seed(world.invented("identity", "authority"))
    stolen = {client: at.identities[client] for client in at.ids if client != victim}
    before = sign_roster(authority, at.roster)
    members = tuple(entry for entry in at.roster.members if entry.id not in stolen)
    known = Roster(2, at.roster.authority, members, tuple(stolen))
    try:
        at.roster = accept_roster(known, before, at.server.public)
    except ProtocolError as refusal:
        return Outcome(False, f"the victim kept its roster: {refusal}")
    at.join(victim)
    return _play(LoneVictim(at, victim, at.plan, stolen))


def _play(session: LoneVictim) -> Outcome:
    try:
        read = session.read()
    except ProtocolError as refusal:
        return Outcome(False, f"the victim stopped: {refusal}")
    return Outcome(views.reads(session.world, session.victim, read), READ)


ATTACKS = (
    Attack(
        "key-substitution",
        "network, lying server",
        "a pair key is shared with an enrolled client and nobody else",
        (
            Weakening(
                "protocols.client",
                "member.verify(member.roster.public(entry.client), labels.SIGN_ANNOUNCEMENT, payload, entry.signature)",
                "pass",
                "every announced key carries its client's signature",
            ),
            Weakening(
                "protocols.client",
                "member.verify(member.roster.public(entry.dealer), labels.SIGN_DEAL, payload, entry.signature)",
                "pass",
                "every deal carries its dealer's signature over the announced keys",
            ),
        ),
        key_substitution,
    ),
    Attack(
        "forged-plan",
        "network",
        "clients answer the server whose key they know, and nobody else",
        (
            Weakening(
                "protocols.member",
                "member.verify(member.server_key, labels.SIGN_PLAN, wire.encode(signed.plan), signed.signature)",
                "pass",
                "the server signed the plan",
            ),
        ),
        forged_plan,
    ),
    Attack(
        "sybil-cohort",
        "lying server",
        "nobody takes part whom the authority did not enrol",
        (
            Weakening(
                "protocols.roster",
                "    verify_signature(signer, labels.SIGN_ROSTER, signed.body, signed.signature)\n",
                "",
                "the pinned authority signed the roster",
            ),
        ),
        sybil_cohort,
    ),
    Attack(
        "revoked-identities",
        "lying server with 5 stolen identities",
        "whoever was revoked stays out",
        (
            Weakening(
                "protocols.roster",
                "    if body.version < at_least_version:\n",
                "    if False:\n",
                "a roster's version only grows",
            ),
            Weakening(
                "protocols.roster",
                "    later.check_succeeds(known)\n",
                "",
                "a later roster forgets no revocation",
            ),
        ),
        revoked_identities,
    ),
)
