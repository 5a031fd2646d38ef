"""A client as its owner configured it, and the checks by which it accepts or refuses a plan.

The server may be stricter than the client's limits, never weaker: every threshold is derived again here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from protocols import labels, wire
from protocols.errors import BadSignature, FaultyServer, Malformed, Refused
from protocols.identity import Identity, Verify, verify_signature
from protocols.kem import Encapsulate, encapsulate
from protocols.params import Adversary, refuse_weaker
from protocols.roster import Roster, renew
from protocols.wire import RoundPlan, SignedPlan

MAX_SESSION_STEP = 1024  # a server may skip numbers after crashes; it may not use them up


@dataclass(frozen=True)
class Limits:
    """The owner's policy. `run` is the run that the owner joined; `last_session` is the highest session number that it
    accepted in it from this server, -1 if none; `today` counts days since 1970-01-01 (UTC).

    `post_quantum` demands hybrid sessions; without it either kind will do.
    """

    adversary: Adversary
    max_corrupt: float
    max_dropout: float
    min_cohort: int
    min_survivors: int
    last_session: int
    today: int
    run: bytes
    post_quantum: bool = False


@dataclass(frozen=True)
class Member:
    """One client: its enrolled identity, the roster it trusts, and the server it answers to (Ed25519 key)."""

    id: int
    identity: Identity
    roster: Roster
    server_key: bytes
    limits: Limits
    verify: Verify = verify_signature
    encapsulate: Encapsulate = encapsulate

    def __post_init__(self) -> None:
        if self.id not in self.roster or self.roster.public(self.id) != self.identity.public:
            raise ValueError(f"the roster does not enrol this identity as client {self.id}")
        # A server that is the authority enrols whom it likes; one that is a client counts among the honest.
        if self.roster.names_key(self.server_key):
            raise ValueError("the server must not be the authority that signs rosters, nor a client")


def open_plan(member: Member, plan_bytes: bytes, context: Mapping[str, bytes]) -> RoundPlan:
    """The plan in the server's signed bytes, if this client may take part in it.

    `context` maps names to the digests of what the caller really loaded; the plan must name exactly these.
    Raises FaultyServer if the bytes or the signature are wrong, Refused if policy or context do not allow it.
    """
    try:
        signed = wire.decode(SignedPlan, plan_bytes, wire.MAX_PLAN)
        member.verify(member.server_key, labels.SIGN_PLAN, wire.encode(signed.plan), signed.signature)
    except Malformed as error:
        raise FaultyServer(f"sent no plan: {error}") from None
    except BadSignature:
        raise FaultyServer("sent a plan that it did not sign") from None
    plan = signed.plan
    _check_form(plan)
    _check_roster(member, plan)
    _check_policy(member, plan)
    # Compared with what was really loaded: a server that gives one client another model reads that client off the sum.
    if dict(plan.context) != dict(context):
        raise Refused(f"the plan does not name what this client loaded: {_differing(plan, context)}")
    return plan


def accept_roster(known: Roster, shown: bytes, server_key: bytes) -> Roster:
    """What a client makes of a roster that its server shows between rounds: the next one, or the known one again.

    Raises FaultyServer for what this client's authority did not sign; Refused for a roster older than the known one,
    that may not follow it, or that makes the server one of those it names.
    """
    try:
        later = renew(known, shown)
    except Malformed as error:
        raise FaultyServer(f"sent no roster: {error}") from None
    except BadSignature:
        raise FaultyServer("sent a roster that the authority did not sign") from None
    if later.names_key(server_key):
        raise Refused(f"roster version {later.version} makes the server its authority or one of its clients")
    return later


def _check_form(plan: RoundPlan) -> None:
    # A downgrade to rules that this client does not check is refused, not negotiated.
    if plan.version != labels.VERSION:
        raise Refused(f"the plan is for protocol version {plan.version}, not {labels.VERSION}")
    if not wire.ascending(plan.cohort):
        raise FaultyServer("sent a cohort that is not ascending")
    # A name twice is one mask key twice: the two vectors' difference would leave in the clear.
    for names in ([name for name, _ in plan.vectors], [name for name, _ in plan.context]):
        if len(set(names)) != len(names):
            raise FaultyServer("sent a plan that uses a name twice")
    if not plan.vectors:
        raise FaultyServer("sent a plan without vectors")


def _check_roster(member: Member, plan: RoundPlan) -> None:
    # Both: another roster under the same version would have other people believed.
    if (plan.roster_digest, plan.roster_version) != (member.roster.digest, member.roster.version):
        raise Refused(f"the plan uses another roster than version {member.roster.version}")
    # Clients that the server invented (a Sybil attack) would make a cohort of the victim and nobody.
    if any(client not in member.roster for client in plan.cohort):
        raise FaultyServer("put clients into the cohort that the roster does not enrol")
    if member.id not in plan.cohort:
        raise FaultyServer("sent a plan to a client outside its cohort")
    # By this client's own clock: a server would wake enrolments whose keys were stolen since.
    expired = set(plan.cohort).difference(member.roster.active(member.limits.today))
    if expired:
        raise Refused(f"the cohort has clients whose enrolment has expired: {', '.join(map(str, sorted(expired)))}")


def refuse_other_session(limits: Limits, plan: RoundPlan) -> None:
    """Returns if the plan is of the run that was joined, and its number the next or one soon after; else Refused."""
    # Another run keeps other books: a server that gives one federation two names would have two ledgers signed.
    if plan.run != limits.run:
        raise Refused("the plan is for a run that this client has not joined")
    # Numbers only grow: a plan replayed, or varied a little, would have the same data contribute again.
    if plan.session_number <= limits.last_session:
        raise Refused(f"session {plan.session_number} does not come after session {limits.last_session}")
    # One plan with a huge number would be the last that this client ever takes part in.
    if plan.session_number > limits.last_session + MAX_SESSION_STEP:
        raise Refused(
            f"session {plan.session_number} is more than {MAX_SESSION_STEP} after session {limits.last_session}"
        )


def _check_policy(member: Member, plan: RoundPlan) -> None:
    limits = member.limits
    refuse_other_session(limits, plan)
    # The sparse graph and smaller thresholds are right against a server that follows the rules, and open to one that
    # does not.
    if limits.adversary is Adversary.LYING_SERVER and plan.adversary is not Adversary.LYING_SERVER:
        raise Refused("the plan trusts the server to be honest; this client does not")
    if limits.post_quantum and not plan.post_quantum:
        raise Refused("the plan agrees on keys without ML-KEM-768; this client demands post_quantum")
    if len(plan.cohort) < limits.min_cohort:
        raise Refused(f"a cohort of {len(plan.cohort)} is below this client's {limits.min_cohort}")
    if plan.floor < limits.min_survivors:
        raise Refused(f"a floor of {plan.floor} survivors is below this client's {limits.min_survivors}")
    refuse_weaker(plan.parameters, len(member.roster), limits.max_corrupt, limits.max_dropout)


def _differing(plan: RoundPlan, context: Mapping[str, bytes]) -> str:
    """Only this client's own names are shown: the plan's may hold anything, and errors end up in logs."""
    offered = dict(plan.context)
    names = sorted(name for name in context if offered.get(name) != context[name])
    unknown = len(set(offered) - set(context))
    return ", ".join(names + [f"{unknown} names unknown here"] * bool(unknown))
