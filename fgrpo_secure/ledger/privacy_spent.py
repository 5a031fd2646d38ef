"""What a ledger's entries amount to, as epsilon for the unit that spent most: the reading of an odometer.

Of record in a run's summary and statement, and what `fgrpo verify` computes again from files alone.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, cast

from fgrpo_secure.config.schema import Config
from fgrpo_secure.ledger.store import Ledger
from fgrpo_secure.plan import schedule
from fgrpo_secure.privacy.odometer import Odometer
from fgrpo_secure.privacy.sampled import Sampling
from fgrpo_secure.privacy.sizing import Claim

BLOCK = "block"  # the fact of a settled entry that names the block of units its round was for, where there are several


@dataclass(frozen=True)
class Terms:
    """How charges are read: in how many public blocks units take part, and by which Poisson sampling, if any.

    `budgets` is how many units' budgets the server's ledger holds: more than blocks where the clients
    of a round follow a schedule of blocks, too.
    `odometer` is a unit's, from the plan: its levels were fixed before the run.
    """

    blocks: int
    sampling: Sampling | None
    budgets: int
    odometer: Odometer

    @staticmethod
    def of(claim: Claim, config: Config) -> "Terms":
        """The terms under which `claim` was made."""
        return Terms(config.unit_blocks, claim.sampling, schedule.unit_budgets(config), claim.odometer)


def facts(training_round: int, blocks: int) -> dict[str, int]:
    """What a settled entry adds, for its clients to witness: which block of units the round was for."""
    return {BLOCK: training_round % blocks} if blocks > 1 else {}


def most(ledger: Ledger) -> Fraction:
    """See `most_of_entries`."""
    return most_of_entries(ledger.entries())


def most_of_entries(entries: Sequence[Mapping[str, Any]]) -> Fraction:
    """The largest sum of mu^2 that the units of any one block paid.

    A unit is in one block only and pays for no other, so no unit paid more. Only clients that witnessed an entry vouch
    for its block: what was not settled counts for every block.
    """
    latest = {str(entry["session"]): entry for entry in entries if "session" in entry}
    anybodys, sums = Fraction(0), defaultdict[int, Fraction](Fraction)
    for entry in latest.values():
        charge, added = Fraction(str(entry["charge"])), cast("Mapping[str, int]", entry.get("facts", {}))
        if entry["kind"] == "settled" and BLOCK in added:
            sums[added[BLOCK]] += charge
        else:
            anybodys += charge
    return anybodys + max(sums.values(), default=Fraction(0))


def epsilon(ledger: Ledger, terms: Terms) -> float:
    """What the whole ledger amounts to; see `epsilon_of_entries`."""
    return epsilon_of_entries(ledger.entries(), ledger.budget(), terms)


def epsilon_of_entries(entries: Sequence[Mapping[str, Any]], whole: Fraction, terms: Terms) -> float:
    """What some entries of a ledger with the budget `whole` amount to: epsilon at the delta of the plan that `terms`
    are from, valid however the run ended.

    Where clients follow a schedule of blocks the ledger does not say who was in which round: what is known is that
    no client lets itself be charged beyond its own budget.
    """
    spent, budget = most_of_entries(entries), whole / terms.budgets
    if terms.budgets > terms.blocks:
        spent = min(spent, budget)
    return replace(terms.odometer, budget=budget).read(spent)
