"""Clients that do not exist: keys put in the place of others', rosters that nobody signed, cohorts of one."""

from dataclasses import replace

from protocols import params
from protocols.errors import ProtocolError
from protocols.identity import Identity
from protocols.member import accept_roster
from protocols.params import Adversary
from protocols.roster import Entry, Roster, sign_roster
from protocols.wire import Step
from threat_model import views, world
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.lone_victim import LoneVictim
from threat_model.world import Wire, World

READ = "every value of the victim was recovered"


def key_substitution() -> Outcome:
    """Puts own keys in the place of every other client's, under the real server's real plan."""
    at = world.build()
    return _play(LoneVictim(at, at.ids[2], at.plan))


def sybil_cohort() -> Outcome:
    """Shows a later roster with clients of its own making, and plans a cohort of the victim and these."""
    at = world.build()
    victim, liar = at.ids[2], Identity.from_seed(world.invented("liar"))
    sybils = {3 * place + 100: Identity.from_seed(world.invented("sybil", place)) for place in range(5)}
    entries = tuple(Entry(client, f"hospital {client}", sybil.public) for client, sybil in sybils.items())
    forged = Roster(2, at.roster.authority, (*at.roster.members, *entries))
    body = sign_roster(liar, replace(forged, authority=liar.public))
    try:
        accepted = accept_roster(at.roster, _claiming(body, forged), at.server.public)
    except ProtocolError as refusal:
        return Outcome(False, f"the victim kept its roster: {refusal}")
    at.roster = accepted
    at.seat(victim)
    numbers = params.derive(Adversary.LYING_SERVER, len(accepted), 6, 0.1, 0.17)
    plan = world.plan_for(accepted, (victim, *sybils), numbers, dict(at.plan.context))
    at.seat(victim, min_survivors=plan.floor)
    return _play(LoneVictim(at, victim, plan, sybils))


def _claiming(body: bytes, forged: Roster) -> bytes:
    """The forged roster under the liar's signature, which is all it has."""
    import msgspec

    tag, _, signature, handovers = msgspec.msgpack.decode(body)
    return msgspec.msgpack.encode([tag, forged._encoded, signature, handovers])


def _play(session: LoneVictim) -> Outcome:
    try:
        read = session.read()
    except ProtocolError as refusal:
        return Outcome(False, f"the victim stopped: {refusal}")
    return Outcome(views.reads(session.world, session.victim, read), READ)
