"""One round at the server, stage by stage: each is a frozen type that only the function before it makes.

    Opened      plans of the round's sessions, one for each shard
      charge      the ledger holds what they cost at worst, on disk
    Charged
      gather      each session runs to its sum or its failure
    Gathered
      conclude    the sum over all shards -> mean -> the next adapter's vector; or the round is aborted
    Concluded
      settle      the ledger's entry: who survived, at what price, what was released
    Settled
      witness     the survivors see the ledger and sign it
    Witnessed

**Why** types: what is settled was charged before anybody was asked, and what is witnessed was settled. Code that skips
a stage does not type-check; nothing here could be called in another order by mistake.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from fgrpo_secure.ledger import clip_norm_history as clip_norms
from fgrpo_secure.ledger import cosigning, privacy_spent, released
from fgrpo_secure.ledger.store import Ledger
from fgrpo_secure.plan.terms import Admitted
from fgrpo_secure.privacy.encode import SumOutOfBounds
from fgrpo_secure.server import round as server_round
from fgrpo_secure.server.round import Conclusion
from fgrpo_secure.server.shard_sums import ShardSums
from fgrpo_secure.server.showing import Showing
from protocols import wire
from protocols.identity import Identity
from protocols.wire import RoundPlan


class SessionFailed(RuntimeError):
    """All sessions of a round ended without a sum; the sentence says why."""


class TooFewWilling(SessionFailed):
    """So many clients refuse, by their own policies, that no session of this round can end with a sum."""


class NobodyLeft(SessionFailed):
    """In each shard somebody paid for two sessions that a liar spoiled: nobody is asked for a third."""


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A session that was planned, and the plan as its clients are to understand it."""

    plan: RoundPlan
    admitted: Admitted

    @property
    def name(self) -> bytes:
        """The session's identifier."""
        return wire.session_of(self.plan)


@dataclass(frozen=True, slots=True)
class Opened:
    """The sessions of a round, one for each shard, each under a number that none had before. Nobody knows of them."""

    training_round: int
    sessions: tuple[OpenedSession, ...]

    @property
    def number(self) -> int:
        """The first session's number, which stands for the round."""
        return self.sessions[0].plan.session_number


@dataclass(frozen=True, slots=True)
class Charged:
    """A round that the ledger was charged for, at its worst. From here on its clients may be asked."""

    opened: Opened

    @property
    def entry(self) -> bytes:
        """The session under which the ledger keeps the round."""
        return self.opened.sessions[0].name


@dataclass(frozen=True, slots=True)
class Gathered:
    """A round whose sessions are over: the sums of those that ended, the reasons of those that did not."""

    charged: Charged
    sums: ShardSums


@dataclass(frozen=True, slots=True)
class Concluded:
    """A round with the next vector. Nothing of it has been published."""

    gathered: Gathered
    conclusion: Conclusion


@dataclass(frozen=True, slots=True)
class Settled:
    """A round that is on the ledger at the price of the noise that was there."""

    concluded: Concluded


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A round that its survivors saw on the ledger. Its vector may be published."""

    settled: Settled

    @property
    def conclusion(self) -> Conclusion:
        """What the round came to."""
        return self.settled.concluded.conclusion


def charge(opened: Opened, ledger: Ledger | None, identity: Identity) -> Charged:
    """One entry per round, under its first session: what a client pays, which is in one of the shards.

    It names the other sessions, so that after a crash the owners can be asked about all of them. `ledger` is None
    without differential privacy: there is nothing to charge. Raises BudgetExceeded.
    """
    if ledger is not None:
        signed = {each.name: server_round.signed_plan(identity, each.plan) for each in opened.sessions}
        first, *others = signed
        costliest = max(each.admitted.charge for each in opened.sessions)
        ledger.intent(first, opened.number, costliest, cosigning.opening_facts(others), signed)
    return Charged(opened)


def gather(charged: Charged, run: Callable[[tuple[OpenedSession, ...]], ShardSums]) -> Gathered:
    """`run` takes each shard's session to its sum or its failure, and adds up what they ended with."""
    return Gathered(charged, run(charged.opened.sessions))


def conclude(
    gathered: Gathered,
    ledger: Ledger | None,
    step: Callable[[ShardSums, Admitted], Conclusion],
    unwilling: Callable[[RoundPlan], bool],
) -> Concluded:
    """The new vector from the shards that ended; the sum over all of them must keep within its own bound, too.

    `step` makes it. Otherwise the round is aborted on the ledger, and raises SessionFailed, or TooFewWilling if
    `unwilling` is true of each session's plan.
    """
    sums, sessions = gathered.sums, gathered.charged.opened.sessions
    if not sums.survivors:
        _abort(gathered.charged, ledger, refund=sums.charge == 0)
        refused = all(unwilling(each.plan) for each in sessions)
        raise (TooFewWilling if refused else SessionFailed)("; ".join(sums.failures))
    try:
        return Concluded(gathered, step(sums, sessions[0].admitted))
    except SumOutOfBounds as problem:
        _abort(gathered.charged, ledger, refund=False)
        raise SessionFailed(str(problem)) from None


def settle(concluded: Concluded, ledger: Ledger | None, blocks: int) -> Settled:
    """Write what the round cost, who survived, and what it released. `blocks`: how many the units are divided into."""
    if ledger is not None:
        gathered, conclusion = concluded.gathered, concluded.conclusion
        sums, training_round = gathered.sums, gathered.charged.opened.training_round
        ended, mean = cosigning.end_facts(training_round, sums.ended), conclusion.mean
        facts: dict[str, str | int] = {**ended, **privacy_spent.facts(training_round, blocks)}
        facts |= released.facts(mean.mean_weight, mean.mean_gain, float(np.linalg.norm(mean.update)))
        facts |= clip_norms.facts(conclusion.fraction_within)
        ledger.settle(gathered.charged.entry, len(sums.survivors), sums.charge, facts)
    return Settled(concluded)


def witness(settled: Settled, showing: Showing | None) -> Witnessed:
    """Show the survivors the ledger with this round settled, and keep the checkpoint with their signatures.

    `showing` is None where there is no ledger, or nobody who could judge it.
    """
    if showing is not None:
        showing.keep(showing.signed(settled.concluded.gathered.sums.ended))
    return Witnessed(settled)


def failed_charge(session: OpenedSession, asked: bool) -> Fraction:
    """What a session without a sum costs: all of it once its clients were asked for masked vectors."""
    return session.admitted.charge if asked else Fraction(0)


def _abort(charged: Charged, ledger: Ledger | None, refund: bool) -> None:
    if ledger is not None:
        ledger.abort(charged.entry, refund=refund)
