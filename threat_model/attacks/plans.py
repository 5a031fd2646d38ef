"""Model inconsistency: one client is given another model, rate or seed than the others, so that the sum speaks of it.

The others' model is a dead one: whatever their data, its update is zero. Then the sum over all is the victim's own.
"""

import msgspec
import numpy as np

from protocols import drive, wire
from protocols.errors import ProtocolError
from protocols.wire import Step
from threat_model import views, world
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.world import Wire, World

LYING_SERVER = "lying server"


def another_model() -> Outcome:
    """Sends a dead model to everyone but the victim, under the plan that names the right one."""
    at, victim = _federation()
    for client in at.ids:
        if client != victim:
            at.loaded[client]["model"] = world.invented("dead model")
    return _conduct(at, victim, Wire(at))


def another_learning_rate() -> Outcome:
    """Signs a second plan for everyone but the victim, in which nobody learns."""
    return _two_plans(b'{"learning_rate":0}')


def another_seed() -> Outcome:
    """Signs a second plan for everyone but the victim, with a seed whose frozen factors leave nothing to learn."""
    return _two_plans(b'{"seed":7}')


def _federation() -> tuple[World, int]:
    at = world.build()
    victim = at.ids[2]
    for client in at.ids:
        if client != victim:
            at.values[client] = {name: np.zeros(length, np.int64) for name, length in at.plan.vectors}
    return at, victim


def _two_plans(settings: bytes) -> Outcome:
    """Each client is told the session of its own plan, all else is relayed as it is."""
    at, victim = _federation()
    other = msgspec.structs.replace(at.plan, settings=settings)
    first, second = wire.session_of(at.plan), wire.session_of(other)

    def tamper(step: Step, client: int, up: bool, message: bytes) -> bytes:
        if up or client == victim:
            return message
        return at.signed(other) if step is Step.ANNOUNCE else message.replace(first, second)

    return _conduct(at, victim, Wire(at, tamper=tamper))


def _conduct(at: World, victim: int, link: Wire) -> Outcome:
    try:
        recovered, _ = drive.conduct(at.server, at.plan, at.roster, link, verify=lambda *_: None)
    except ProtocolError as failure:
        reasons = sorted({str(refusal) for refusal in link.refusals.values()})
        return Outcome(False, f"{failure}; {reasons[0] if reasons else 'no client refused'}")
    right = views.reads(at, victim, recovered.totals)
    return Outcome(right, "the sum was the victim's update" if right else "the sum is noise")


ONE_PLAN = (
    Weakening(
        "protocols.wire",
        "    return labels.digest(labels.HASH_SESSION, encode(plan), plan.roster_digest)",
        "    return labels.digest(labels.HASH_SESSION, plan.run, plan.roster_digest)",
        "the session, and every key and signature in it, covers the whole plan",
    ),
)

ATTACKS = (
    Attack(
        "another-model-for-one-client",
        LYING_SERVER,
        "all clients of a round train the model that the plan names",
        (
            Weakening(
                "protocols.member",
                "    if dict(plan.context) != dict(context):\n",
                "    if False:\n",
                "a client compares the plan with what it really loaded",
            ),
        ),
        another_model,
    ),
    Attack(
        "another-rate-for-one-client",
        LYING_SERVER,
        "values of different plans never add up",
        ONE_PLAN,
        another_learning_rate,
    ),
    Attack(
        "another-seed-for-one-client", LYING_SERVER, "values of different plans never add up", ONE_PLAN, another_seed
    ),
)
