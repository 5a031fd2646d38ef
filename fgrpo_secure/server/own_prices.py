"""What the server's own ledger charges for every session that ended, and whom: what clients' signatures are over.

An auditor computes the same from configuration and rosters (`evidence.derived_plans`) and believes no server. Here the
server believes its own ledger, to tell a client's good line from one that would spoil the note of all.
"""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from fgrpo_secure.ledger import cosigning
from fgrpo_secure.ledger.store import Ledger
from fgrpo_secure.ledger.testimony import Priced
from fgrpo_secure.plan import terms
from fgrpo_secure.plan.terms import Admitted
from protocols import wire
from protocols.wire import RoundPlan


def read(ledger: Ledger, fixed_charge: Fraction | None) -> list[Priced]:
    """Every session of every round that ended. `fixed_charge` is what a round costs where sampled rounds share it."""
    plans, opened = ledger.plans(), {}
    found: list[Priced] = []
    for entry in ledger.entries():
        if entry["kind"] == "intent":
            opened[entry["session"]] = entry
        elif entry["kind"] in ("settled", "aborted"):
            found += _priced(opened[entry["session"]], entry, plans, fixed_charge)
    return found


def _priced(
    opened: Mapping[str, Any], end: Mapping[str, Any], plans: Mapping[str, bytes], fixed_charge: Fraction | None
) -> Iterator[Priced]:
    read_plans = {session: _read(plans[session], fixed_charge) for session in cosigning.sessions(opened)}
    most = sum(len(plan.cohort) for plan, _ in read_plans.values())
    survivors = cosigning.survivors_of(end, most) if end["kind"] == "settled" else {}
    for session, (plan, admitted) in read_plans.items():
        ids = survivors.get(session)
        yield Priced(
            number=plan.session_number,
            session=session,
            opened=int(opened["position"]),
            ended=int(end["position"]),
            cohort=frozenset(plan.cohort),
            survivors=None if ids is None else frozenset(ids),
            settled=Fraction(0) if ids is None else admitted.settled(len(ids)),
            full=admitted.settled(plan.floor),
            refunded=Fraction(end["charge"]) == 0,
        )


@lru_cache(maxsize=1024)  # read again for every round, and reading one validates a whole configuration
def _read(signed: bytes, fixed_charge: Fraction | None) -> tuple[RoundPlan, Admitted]:
    plan = wire.decode(wire.SignedPlan, signed, wire.MAX_PLAN).plan
    return plan, terms.read(plan, fixed_charge)
