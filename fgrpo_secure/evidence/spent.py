"""What a ledger's entries amount to, as epsilon for the unit that spent most.

Of record in a run's summary and statement, and what `fgrpo verify` computes again from files alone.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

from fgrpo_secure import schedule
from fgrpo_secure.config import Config
from fgrpo_secure.privacy.accounting import epsilon_of
from fgrpo_secure.privacy.ledger import Ledger
from fgrpo_secure.privacy.sampled import Sampling
from fgrpo_secure.privacy.sizing import Claim

TURN = "turn"  # the fact of a settled entry that says whose turn its round was, where units take turns


@dataclass(frozen=True)
class Terms:
    """How charges are read: in how many public turns units take part, and by which secret coins, if by any.

    `budgets` is how many units' budgets the server's ledger holds: more than turns where clients take turns, too.
    """

    turns: int
    sampling: Sampling | None
    budgets: int

    @staticmethod
    def of(claim: Claim, config: Config) -> "Terms":
        """Those of a plan's claim."""
        return Terms(config.unit_blocks, claim.sampling, schedule.unit_budgets(config))

    def stated(self) -> dict[str, Any]:
        """As a statement's mechanism names them."""
        coins = self.sampling
        sampling = coins and {"rate": coins.rate, "noise_multiplier": coins.multiplier, "releases": coins.releases}
        return {"turns": self.turns, "sampling": sampling, "budgets": self.budgets}

    @staticmethod
    def read(mechanism: Mapping[str, Any]) -> "Terms":
        """From a statement whose form was checked."""
        coins = mechanism["sampling"]
        sampling = coins and Sampling(coins["rate"], coins["noise_multiplier"], coins["releases"])
        return Terms(mechanism["turns"], sampling, mechanism["budgets"])


def facts(training_round: int, turns: int) -> dict[str, int]:
    """What a settled entry adds, for its clients to witness: whose turn the round was."""
    return {TURN: training_round % turns} if turns > 1 else {}


def most(ledger: Ledger) -> Fraction:
    """The sum of mu^2 that the units of one turn paid, of the turn that paid most.

    A unit is in one turn only and pays for no other, so no unit paid more. Only clients that witnessed an entry vouch
    for its turn: what was not settled counts for every turn.
    """
    latest = {str(entry["session"]): entry for entry in ledger.entries() if "session" in entry}
    anybodys, sums = Fraction(0), defaultdict[int, Fraction](Fraction)
    for entry in latest.values():
        charge, added = Fraction(str(entry["charge"])), cast("Mapping[str, int]", entry.get("facts", {}))
        if entry["kind"] == "settled" and TURN in added:
            sums[added[TURN]] += charge
        else:
            anybodys += charge
    return anybodys + max(sums.values(), default=Fraction(0))


def epsilon(ledger: Ledger, terms: Terms, delta: float) -> float:
    """`most` as epsilon at `delta`.

    Where clients take turns the ledger does not say who was in which round: what is known is that no client lets
    itself be charged beyond its own budget.
    """
    spent, budget = most(ledger), ledger.budget() / terms.budgets
    if terms.budgets > terms.turns:
        spent = min(spent, budget)
    return amounts_to(spent, budget, terms.sampling, delta)


def amounts_to(spent: Fraction, budget: Fraction, sampling: Sampling | None, delta: float) -> float:
    """A sum of charges, from a budget for one unit, as epsilon.

    With secret sampling a charge is the share of the budget that a round's releases have, fixed before the run: it
    says how many releases there were, and privacy loss distributions say what those amount to.
    """
    if not spent:
        return 0.0
    if sampling is None:
        return epsilon_of(math.sqrt(spent), delta)
    return sampling.epsilon(delta, math.ceil(spent / budget * sampling.releases))
