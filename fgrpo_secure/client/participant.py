"""One data owner as a party: its protocol client, its policy, its ledger, and the order in which they act.

    message -> known? the same bytes again
    plan    -> checked -> admitted by the run's terms and by the owner's own policy -> charged -> record   accept
    record  -> train on the owner's data                                                                   train
            -> announce ... share ...
    record  -> weigh, clip, encode, noise -> mask: from here on the charge stays                           mask
            -> agree -> a quorum has signed who survived: the charge settles at their noise                unmask
    books   -> the server's ledger shows every charged session of the run, at no less than it cost         witness

Nothing of a session lives in this object: every step reads the session's record (`session_records`), so that no order
of messages, and no other run of the same owner, can lend one session another's price. What training gave is kept in
memory alone, under the facts that it was made from.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from fgrpo_secure import entropy as entropies
from fgrpo_secure.client import own_limits, plain, unit_round
from fgrpo_secure.client import round as client_round
from fgrpo_secure.client.book import Book
from fgrpo_secure.client.owner import Owner
from fgrpo_secure.client.policy import ClientPolicy, Known
from fgrpo_secure.client.round import Contribution, Learned
from fgrpo_secure.client.session_records import SessionRecord, SessionRecords
from fgrpo_secure.client.witnessing import Signer
from fgrpo_secure.entropy import Entropy
from fgrpo_secure.gain import Baseline
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.ledger.store import Ledger
from fgrpo_secure.ledger.witnessed import Witnessed
from fgrpo_secure.plan import terms
from fgrpo_secure.plan.terms import Admitted, RunTerms
from fgrpo_secure.privacy.accounting import BudgetExceeded
from fgrpo_secure.privacy.encode import IntArray
from fgrpo_secure.privacy.sizing import Claim
from protocols import drive, wire
from protocols.drive import ClientDriver, Status
from protocols.errors import ProtocolError, Refused
from protocols.identity import Identity, Verify
from protocols.member import Member, refuse_other_session
from protocols.roster import Roster
from protocols.wire import RoundPlan, Step

NOT_ENROLLED = "the roster does not enrol this client under a key that it holds"


@dataclass(frozen=True)
class Membership:
    """Under whom and on what terms the owner takes part, by its own roster and date; see `Participant.assign`.

    `terms` are those of a whole round, `divided` of a shard of one, or None where none can be divided. `check_shard`
    says which of the two a plan is for, by the client's own computation; Refused if for neither.
    """

    member: Member
    terms: RunTerms
    divided: RunTerms | None
    check_shard: Callable[[RoundPlan], bool]
    authority_signed: bool


class Participant:
    """See the module. `claim` is None where nothing is charged.

    A round must be allowed twice: by what the run's configuration amounts to, and by the owner's file, `own`.
    """

    def __init__(
        self,
        owner: Owner,
        own: ClientPolicy,
        identity: Identity,
        server_key: bytes,
        book: Book,
        claim: Claim | None,
        blocks: int,
        source: Entropy,
        verify: Verify,
        context: Callable[[], Mapping[str, bytes]],
    ) -> None:
        self._owner = owner
        self._own = own
        self._identity = identity
        self._server_key = server_key
        self._book = book
        self._claim = claim
        self._verify = verify
        self._source = source
        self._context = context
        budget = None if claim is None else own.budget_for(claim)
        self._ledgers = () if budget is None else book.open_ledgers(owner.id, budget, blocks)
        self._membership: Membership | None = None
        self._trained: dict[tuple[bytes, ...], Learned | Contribution] = {}
        self._ready: dict[bytes, Contribution] = {}  # by session, of which it is good for no other
        self.reset_times()

    def reset_times(self) -> None:
        """Processor seconds that a simulation on one machine tells apart; nobody else ever sees them."""
        self.rollouts_seconds = self.training_seconds = self.privacy_seconds = self.saved_seconds = 0.0

    @property
    def name(self) -> str:
        """The owner's name."""
        return self._owner.name

    @property
    def authority(self) -> bytes:
        """The public key that the owner's own file names as its authority."""
        return bytes.fromhex(self._own.trust.authority)

    @property
    def ledgers(self) -> tuple[Ledger, ...]:
        """The owner's ledgers, one for each block of its units; none where nothing is charged."""
        return self._ledgers

    def assign(self, membership: Membership | None) -> None:
        """From now on the owner takes part on these terms; on none, it takes no part. Open sessions keep their roster:
        under another one none of their steps is answered."""
        self._membership = membership
        if membership is not None:
            self._identity = membership.member.identity

    # ------------------------------------------------------------------------------------------------------ sessions

    def answered(self, step: Step, message: bytes) -> bytes | None:
        """What this very message was answered with, whatever has happened since; None if it is new."""
        return drive.answered(self._records, self._identity.public, step, message)

    def began(self, message: bytes) -> bool:
        """Whether the session that this asks to begin is on record already, so that it may have trained."""
        with contextlib.suppress(ProtocolError):  # what is wrong with the message is said where it is accepted
            return self._records.record(self._identity.public, drive.session_in(Step.ANNOUNCE, message)) is not None
        return False

    def accept(self, message: bytes, adapted: AdaptedModel) -> RoundPlan:
        """The plan in the server's message, checked, admitted, charged and recorded. Durable with the caller's commit.

        Raises Refused with the rule that does not allow it, or blames the server.
        """
        plan = self._driver(Step.ANNOUNCE, message).open_plan(message)
        if self._records.status(self._identity.public, wire.session_of(plan)) is None:
            self._admit(plan, adapted)
        return plan

    def accept_in_the_clear(self, message: bytes, adapted: AdaptedModel) -> RoundPlan:
        """The plan of a round of the baseline that trusts the server (`plain`).

        Only for a run whose own configuration says so: no message can ask for it.
        """
        if self._membership is None:
            raise Refused(NOT_ENROLLED)
        plan, limits = plain.open_request(message, self._server_key, self._verify), self._membership.member.limits
        last = self._records.last_session(self._identity.public, self._server_key, limits.run)
        refuse_other_session(replace(limits, last_session=last), plan)
        self._admit(plan, adapted)
        return plan

    def train(self, plan: RoundPlan, adapted: AdaptedModel) -> None:
        """Train for an accepted plan. Takes as long as it takes, holds no lock, and writes nothing.

        What a client learned is used again when the round is repeated from the same adapter on the same settings.
        Below the client's unit noise is part of training, so that nothing is used again.
        """
        work, started = self.training(plan, adapted), entropies.processor_time()
        if work is None:
            return
        trained = work()
        self.keep(plan, trained)
        self.rollouts_seconds += trained.seconds_rollouts if isinstance(trained, Learned) else 0.0
        self.training_seconds += entropies.processor_time() - started

    def training(self, plan: RoundPlan, adapted: AdaptedModel) -> Callable[[], Learned | Contribution] | None:
        """The work that training for an accepted plan is, which reads no records; None where it is done already."""
        admitted = self._admitted(plan)
        if self._key(plan, admitted) in self._trained:
            return None
        owner, settings = self._owner, admitted.settings
        if settings.units is None:
            kept = self._book.store.moments_before(owner.id, plan.run, settings.training_round)
            ready = replace(owner, repeats=self._repeats(plan, admitted), moments=kept)
            return lambda: client_round.learn(adapted, ready.opened(), settings)
        past, source = self._past(plan, admitted), self._source.child("session", plan.session_number)
        most, lattice = self._own.rounds.max_weight, admitted.lattice
        return lambda: unit_round.contribute(adapted, owner.opened(), settings, lattice, past, most, source)

    def prepare(self, plan: RoundPlan) -> Contribution:
        """Have ready what an accepted plan's session leaves, before anybody asks for it.

        **Why** The time that this takes would tell: what was clipped or weighed, or that training had died and left an
        optimiser no moments to be written.
        """
        contribution = self._contribution(plan)
        self._book.store.put_moments(self._owner.id, plan.run, contribution.moments)
        self._ready = {wire.session_of(plan): contribution}
        return contribution

    def keep(self, plan: RoundPlan, trained: Learned | Contribution) -> None:
        """What training for a plan came to, in place of what was kept before."""
        self._trained.clear()
        self._trained[self._key(plan, self._admitted(plan))] = trained

    def announce(self, plan: RoundPlan, message: bytes) -> bytes:
        """The announcement for an accepted plan."""
        return self._driver(Step.ANNOUNCE, message).announce(plan, message)

    def handle(self, step: Step, message: bytes) -> bytes:
        """The owner's answer to a message of a later step. Raises Refused or blames somebody."""
        reply = self._driver(step, message).handle(step, message, self._vectors)
        if step is Step.UNMASK:
            self._settle(drive.session_in(step, message))
        return reply

    def answer_in_the_clear(self, plan: RoundPlan) -> bytes:
        """The vector of an accepted plain plan, without noise or mask."""
        session, contribution = wire.session_of(plan), self.prepare(plan)
        self._records.settle_in_the_clear(self._identity.public, session)
        self._book.store.put_baseline(self._owner.id, plan.run, terms.training_round(plan), contribution.history())
        return plain.upload(contribution.vector.values, plan)

    def witness(self, run: bytes, session: bytes, exhibit: bytes, roster: Roster) -> Witnessed:
        """This owner's line on the server's ledger, or none, with the reason in its own log; see `witnessing`.

        `roster` is the newest that was ever shown to it, also where that enrols it no more.
        """
        if not self._ledgers:
            return Witnessed(self._owner.id, None, 0)
        if not session:  # whoever signs a run's end has no session of it that could still cost something
            self.close_open(run)
        signer = Signer(
            self._owner.id, self._identity, self._server_key, self._book, self._ledgers, roster, self._owner.write_log
        )
        return signer.testify(run, session, exhibit, self._context()["adapter"])

    def note(self, line: str) -> None:
        """Tell the owner, and nobody else: why it takes no part, or keeps silent."""
        self._owner.write_log(line)

    # ------------------------------------------------------------------------------------------------------- closing

    def close_open(self, run: bytes) -> None:
        """End the open session of a run, if there is one: paid for if a masked vector may have left."""
        for session in self._records.open_sessions(self._identity.public, self._server_key, run):
            self._close(session)

    def recover(self, run: bytes, sessions: Sequence[bytes]) -> bool:
        """After a crash: end what is open in `run`. Whether a masked vector may have left in any of `sessions`.

        **Why** A session without a row is one that this owner never accepted: rows stay as long as the folder does.
        """
        self.close_open(run)
        known = [session for session in sessions if self._records.record(self._identity.public, session) is not None]
        return any(self._records.left(self._identity.public, session) for session in known)

    def close_orphans(self) -> None:
        """Charges whose session is over, or of which a crash left no row: refunded only if a row proves it."""
        for ledger in self._ledgers:
            for session in ledger.open_sessions():
                if self._records.status(self._identity.public, session) not in (Status.ACCEPTED, Status.MASKED):
                    ledger.abort(session, refund=not self._records.left(self._identity.public, session))

    def forget(self) -> None:
        """The run is over: nothing secret of it stays, here or on disk."""
        self._trained, self._ready = {}, {}
        self._records.forget_closed(self._identity.public)

    def _close(self, session: bytes) -> None:
        left = self._records.close(self._identity.public, session)
        for ledger in self._ledgers:
            if ledger.is_open(session):
                ledger.abort(session, refund=not left)

    # ------------------------------------------------------------------------------------------------------ one step

    @property
    def _records(self) -> SessionRecords:
        return self._book.store.sessions

    def _driver(self, step: Step, message: bytes) -> ClientDriver:
        """The protocol's driver for one message. Fresh bytes have the session and the step as their label."""
        if self._membership is None:
            raise Refused(NOT_ENROLLED)
        session = drive.session_in(step, message).hex()
        return ClientDriver(
            self._membership.member,
            self._records,
            lambda count: self._source.bytes(count, "protocol", session, step.value),
            self._context,
        )

    def _admit(self, plan: RoundPlan, adapted: AdaptedModel) -> None:
        """Protocol checks are done; here the privacy side agrees, and pays, before anything is drawn or trained."""
        membership = self._membership
        if membership is None:
            raise Refused(NOT_ENROLLED)
        if self._records.ended(self._identity.public, plan.run):
            raise Refused("the run is over: this client signed its end")
        in_shards = membership.check_shard(plan)
        demands = (membership.divided if in_shards else None) or membership.terms
        admitted = demands.admit(plan, adapted.dimension(terms.training_round(plan)))
        self._refuse_mixed_budgets(plan.run, admitted)
        sessions = sum(ledger.sessions() for ledger in self._ledgers)
        enrolled = len(membership.member.roster)
        known = Known(membership.authority_signed, enrolled, sessions, self._claim, len(self._owner.reward_functions))
        self._own.admit(plan, admitted, known)
        training_round = admitted.settings.training_round
        divides, which = membership.divided is not None, (plan.run, training_round)
        own_limits.refuse_repeats(self._records, self._identity.public, which, self._own.rounds, in_shards, divides)
        ledger, session = self._ledger_of(training_round), wire.session_of(plan)
        if ledger is not None and ledger.is_charged(session):
            # A crash between two files left the charge and no record: what was drawn for it may be known.
            raise Refused("this session was charged before, and a crash left no record of it")
        self.close_open(plan.run)  # one session at a time: the one before has no further step
        self._records.forget_closed(self._identity.public)
        if ledger is not None:
            try:
                ledger.intent(session, plan.session_number, admitted.charge)
            except BudgetExceeded:
                raise Refused("privacy.epsilon: the privacy budget does not cover this round") from None
        self._records.accept(self._identity.public, self._server_key, plan, training_round, admitted.fixed_charge)

    def _refuse_mixed_budgets(self, run: bytes, admitted: Admitted) -> None:
        own_limits.refuse_mixed_budgets(self._records, self._identity.public, run, admitted, self._ledgers)
        if len(self._ledgers) > 1:
            own_limits.refuse_other_deal(self._book.store, self._owner.id, run, self._owner.dealt_by)

    def _vectors(self, plan: RoundPlan) -> Mapping[str, IntArray]:
        """Called by the protocol on an accepted plan, when all that the server sent was checked."""
        session, admitted = wire.session_of(plan), self._admitted(plan)
        ledger = self._ledger_of(admitted.settings.training_round)
        if ledger is not None and not ledger.is_open(session):
            # A crash between two files may have given the charge back: without a charge no vector leaves.
            raise Refused("this session is not charged any more")
        # Again: sessions of two runs may be open at once, and neither had left when the other was accepted.
        self._refuse_mixed_budgets(plan.run, admitted)
        contribution = self._ready.pop(session, None) or self.prepare(plan)
        self._ready.clear()
        self._records.put_history(self._identity.public, session, contribution.history())
        return terms.vectors(contribution.vector, admitted.lattice.dimension)

    def _contribution(self, plan: RoundPlan) -> Contribution:
        """The vector of this session and the history after it: from what was learned, or zero in its full noise."""
        admitted = self._admitted(plan)
        found = self._trained.get(self._key(plan, admitted))
        if isinstance(found, Contribution):
            return found
        past, source = self._past(plan, admitted), self._source.child("session", plan.session_number)
        settings, lattice, most = admitted.settings, admitted.lattice, self._own.rounds.max_weight
        if settings.units is not None:
            return unit_round.untrained(settings, lattice, past, most, source)
        learned = client_round.missing(lattice.dimension) if found is None else found
        return client_round.privatise(learned, settings, lattice, past, most, source)

    def _settle(self, session: bytes) -> None:
        """A quorum signed who survived: only now may the charge go down to the noise that is really there."""
        record = self._record(session)
        outcome = drive.outcome(self._records, self._identity.public, session)
        if record.plan is None or outcome is None:
            return
        # From the list that this client signed with a quorum: the server's word could settle at noise that never was.
        survivors, ledger = len(outcome.survivors), self._ledger_of(record.training_round)
        if ledger is not None:
            self._records.keep_survivors(self._identity.public, session, outcome.survivors)
        if ledger is not None and ledger.is_open(session):
            ledger.settle(session, survivors, terms.read(record.plan, record.fixed_charge).settled(survivors))
        history = self._records.take_history(self._identity.public, session)
        if history is not None:
            self._book.store.put_baseline(self._owner.id, record.plan.run, record.training_round, history)

    def _past(self, plan: RoundPlan, admitted: Admitted) -> Baseline:
        return self._book.store.baseline_before(self._owner.id, plan.run, admitted.settings.training_round)

    def _record(self, session: bytes) -> SessionRecord:
        record = self._records.record(self._identity.public, session)
        if record is None:
            raise Refused("no plan was accepted for this session")
        return record

    def _admitted(self, plan: RoundPlan) -> Admitted:
        """The terms of a plan that was accepted, by its record."""
        return terms.read(plan, self._record(wire.session_of(plan)).fixed_charge)

    def _key(self, plan: RoundPlan, admitted: Admitted) -> tuple[bytes, ...]:
        """What was learned is good for these facts, and for no others."""
        if admitted.settings.units is not None:
            return (wire.session_of(plan),)
        loaded = [digest for _, digest in plan.context]
        return plan.run, plan.settings, self._repeats(plan, admitted).to_bytes(8, "big"), *loaded

    def _repeats(self, plan: RoundPlan, admitted: Admitted) -> int:
        """Without noise the same update sent twice is a difference of sums that shows it: a repeat trains afresh."""
        if admitted.settings.unit != "none":
            return 0
        return self._records.vectors_for(self._identity.public, dict(plan.context).get("adapter", b""))

    def _ledger_of(self, training_round: int) -> Ledger | None:
        """The ledger of the block of units that a round is for: one budget for each of them, whoever they are."""
        return self._ledgers[training_round % len(self._ledgers)] if self._ledgers else None
