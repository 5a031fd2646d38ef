"""One owner's place in a host: its protocol client, its policy, its ledger, and the order in which they act.

announce: the plan is admitted and charged before any noise of the round is drawn.
mask:     the owner trains and contributes; the vector goes into the mask.
unmask:   a quorum has signed who survived; the charge settles at the noise those really added.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from fgrpo_secure import client_policy, client_round, entropy, plain, unit_round
from fgrpo_secure.adapters import Policy
from fgrpo_secure.client_policy import Admitted, ClientPolicy
from fgrpo_secure.client_round import Contribution
from fgrpo_secure.engines.frames import Witnessed
from fgrpo_secure.engines.signatures import SharedVerifier
from fgrpo_secure.enrolment import owner_store
from fgrpo_secure.entropy import Entropy
from fgrpo_secure.evidence import witness
from fgrpo_secure.evidence.witness import Unwitnessed
from fgrpo_secure.owner import Owner
from fgrpo_secure.owner_policy import Known, OwnerPolicy
from fgrpo_secure.owner_store import OwnerStore
from fgrpo_secure.owners_folder import LEDGERS
from fgrpo_secure.privacy import checkpoint_note
from fgrpo_secure.privacy.accounting import BudgetExceeded
from fgrpo_secure.privacy.encode import IntArray
from fgrpo_secure.privacy.ledger import Ledger, Ledgers
from fgrpo_secure.privacy.sizing import Claim
from fgrpo_secure.run_directory import RunDirectory
from protocols import wire
from protocols.drive import ClientDriver
from protocols.errors import ProtocolError, Refused
from protocols.identity import Identity
from protocols.member import Member
from protocols.wire import RoundPlan, SignedPlan, Step


@dataclass(frozen=True)
class Book:
    """The durable files of one host's owners: protocol state and budget ledgers."""

    store: OwnerStore
    ledgers: Ledgers

    @staticmethod
    def open(directory: RunDirectory, host: int) -> "Book":
        """The files of host number `host`."""
        path = owner_store(directory, host)
        return Book(OwnerStore(path), Ledgers(path.with_name(LEDGERS)))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything written inside is on disk afterwards. Ledgers first: a crash between the two over-charges."""
        with self.store.transaction(), self.ledgers.transaction():
            yield

    def close(self) -> None:
        """Close both files."""
        self.store.close()
        self.ledgers.close()


class Seat:
    """See the module. One seat serves its owner for a whole run; `claim` is None where nothing is charged.

    A round must be allowed twice: by what the run's configuration amounts to, and by the owner's file, `own`.
    """

    def __init__(
        self,
        owner: Owner,
        own: OwnerPolicy,
        identity: Identity,
        server_key: bytes,
        book: Book,
        claim: Claim | None,
        blocks: int,
        source: Entropy,
        verify: SharedVerifier,
        context: Callable[[], Mapping[str, bytes]],
    ) -> None:
        self._owner = owner
        self._own = own
        self._claim = claim
        self._identity = identity.public
        self._signer = witness.signer(identity, witness.client_name(owner.id))
        self._server_key = server_key
        self._store = book.store
        budget = None if claim is None else own.budget_for(claim)
        self._ledgers = () if budget is None else book.ledgers.open_turns(owner.id, budget, blocks)
        self._source = source
        self._verify = verify
        self._context = context
        self._policy: ClientPolicy | None = None
        self._check_shard: Callable[[RoundPlan], None] | None = None
        self._authority_signed, self._enrolled = False, 0
        self._driver: ClientDriver | None = None
        self._reset(0)

    @property
    def name(self) -> str:
        """The owner's name."""
        return self._owner.name

    @property
    def authority(self) -> bytes:
        """The public key that the owner's own file names as its authority."""
        return bytes.fromhex(self._own.trust.authority)

    def take_place(
        self,
        member: Member | None,
        policy: ClientPolicy | None,
        check_shard: Callable[[RoundPlan], None] | None,
        authority_signed: bool,
    ) -> None:
        """From now on the owner is `member`, and insists on `policy` and on its own shard; without them it takes no
        part. `check_shard` raises Refused for a plan with another cohort than the owner computes; `authority_signed`
        says whether the roster goes back to the owner's own `authority`.

        Between sessions only: a session ends under the identity that it began with.
        """
        self._policy, self._check_shard, self._authority_signed = policy, check_shard, authority_signed
        self._enrolled = 0 if member is None else len(member.roster)
        self._driver = None if member is None else ClientDriver(member, self._store, self._random, self._context)
        if member is not None:
            self._identity = member.identity.public
            self._signer = witness.signer(member.identity, witness.client_name(member.id))

    def begin(self, attempt: int) -> None:
        """Close and forget the session before; `attempt` numbers the one that comes.

        Closing comes first: what says whether a masked vector left is among the answers that are deleted.
        """
        self._close_open_sessions()
        self._store.forget_sessions(self._identity)
        self._reset(attempt)

    def _reset(self, attempt: int) -> None:
        self._attempt, self._calls = attempt, 0
        self._plan: RoundPlan | None = None
        self._admitted: Admitted | None = None
        self._contribution: Contribution | None = None
        self.rollouts_seconds = 0.0
        self.training_seconds = 0.0
        self.privacy_seconds = 0.0
        self.saved_seconds = 0.0

    def handle(self, step: Step, message: bytes, policy: Policy) -> bytes:
        """The owner's answer to one message. Raises Refused (public reasons) or blames somebody."""
        started, trained = entropy.processor_time(), self.training_seconds
        if self._driver is None:
            raise Refused("the roster does not enrol this client under a key that it holds")
        reply = self._driver.handle(step, message, lambda plan: self._contribute(plan, policy))
        if step is Step.ANNOUNCE:
            self._accept(wire.decode(SignedPlan, message, wire.MAX_PLAN).plan, policy)
        elif step is Step.UNMASK:
            self._settle()
        elapsed = entropy.processor_time() - started - (self.training_seconds - trained)
        self.privacy_seconds += elapsed
        self.saved_seconds += self._verify.saved_seconds()
        return reply

    def answer_in_the_clear(self, message: bytes, policy: Policy) -> bytes:
        """The owner's vector without noise or mask, for the baseline that trusts the server (`plain`).

        Only for a run whose own configuration says so: no message can ask for it. Raises Refused or blames somebody.
        """
        plan = plain.open_request(message, self._server_key, self._verify)
        self._accept(plan, policy)
        vector = np.concatenate(list(self._contribute(plan, policy).values()))
        if self._admitted is not None and self._contribution is not None:
            self._store.put_baseline(
                self._owner.id, self._admitted.settings.training_round, self._contribution.baseline
            )
        return plain.upload(vector, plan)

    def witness(self, session: bytes, exhibit: bytes) -> Witnessed:
        """This owner's signature line on the server's ledger, or none, with the reason in its own log."""
        settled, plan, admitted = None if self._driver is None else self._driver.settled, self._plan, self._admitted
        if settled is None or plan is None or admitted is None or settled.session != session:
            return Witnessed(self._owner.id, None, 0)
        origin, survivors = witness.origin(self._server_key, plan.run), len(settled.survivors)
        last = self._store.witnessed(self._identity, origin)
        settings = admitted.settings
        turns = settings.units.blocks if settings.units else 1
        figures = (survivors, admitted.settled(survivors), settings.training_round, turns)
        try:
            checkpoint = witness.examine(exhibit, self._server_key, origin, last, session, *figures)
        except Unwitnessed as reason:
            self._owner.write_log(f"session {self._attempt}: not signed: {reason}")
            return Witnessed(self._owner.id, None, last[0] if last else 0)
        line = checkpoint_note.signature_line(checkpoint, self._signer)
        note = witness.shown_note(exhibit) + line
        self._store.put_witnessed(self._identity, origin, checkpoint.size, checkpoint.root, note)
        return Witnessed(self._owner.id, line, checkpoint.size)

    def complain(self, problem: ProtocolError) -> None:
        """Note in the owner's own log why it takes no part, or keeps silent."""
        self._owner.write_log(f"session {self._attempt}: {problem}")

    def recover(self, sessions: Sequence[bytes]) -> bool:
        """Close what a crash left open: refunded unless a masked vector may have left.

        Whether one may have left in any of the server's open `sessions`, settled here or not.
        """
        self._close_open_sessions()
        return any(self._masked(session) or self._paid(session) for session in sessions)

    def _close_open_sessions(self) -> None:
        for ledger in self._ledgers:
            for session in ledger.open_sessions():
                ledger.abort(session, refund=not self._masked(session))

    def _paid(self, session: bytes) -> bool:
        """Closed with its charge, be it while another run of the same owners went on, which forgot the answers."""
        return any(ledger.is_paid(session) for ledger in self._ledgers)

    def _masked(self, session: bytes) -> bool:
        return self._store.reply(self._identity, session, Step.MASK) is not None

    def _accept(self, plan: RoundPlan, policy: Policy) -> None:
        """The driver has checked signature, roster and thresholds; here the privacy side agrees, and pays."""
        if self._policy is None or self._check_shard is None:
            raise Refused("the roster does not enrol this client under a key that it holds")
        self._check_shard(plan)
        dimension = policy.dimension(client_policy.training_round(plan))
        admitted = self._policy.admit(plan, dimension)
        session, ledger = wire.session_of(plan), self._ledger_of(admitted)
        charged = ledger is not None and ledger.is_open(session)
        sessions = sum(each.sessions() for each in self._ledgers) - charged
        self._own.admit(plan, admitted, Known(self._authority_signed, self._enrolled, sessions, self._claim))
        if ledger is not None and not charged:
            try:
                ledger.intent(session, plan.round, admitted.charge)
            except BudgetExceeded:
                raise Refused("privacy.epsilon: the privacy budget does not cover this round") from None
        self._plan, self._admitted = plan, admitted

    def _contribute(self, plan: RoundPlan, policy: Policy) -> Mapping[str, IntArray]:
        admitted = self._admitted
        if admitted is None or plan != self._plan:
            raise Refused("no plan was accepted for this session")
        training_round = admitted.settings.training_round
        past = self._store.baseline_before(self._owner.id, training_round)
        source = self._source.child("session", plan.round)
        contribute = client_round.contribute if admitted.settings.units is None else unit_round.contribute
        contribution = contribute(policy, self._owner, admitted.settings, admitted.lattice, past, source)
        self._contribution = contribution
        self.rollouts_seconds += contribution.seconds_rollouts
        self.training_seconds += contribution.seconds_training
        return client_policy.vectors(contribution.vector, admitted.lattice.dimension)

    def _settle(self) -> None:
        """A quorum signed who survived: only now may the charge go down to the noise that is really there."""
        settled = None if self._driver is None else self._driver.settled
        admitted, contribution = self._admitted, self._contribution
        if settled is None or admitted is None or contribution is None:
            return
        survivors, ledger = len(settled.survivors), self._ledger_of(admitted)
        if ledger is not None and ledger.is_open(settled.session):
            ledger.settle(settled.session, survivors, admitted.settled(survivors))
        self._store.put_baseline(self._owner.id, admitted.settings.training_round, contribution.baseline)
        self._contribution = None

    @property
    def _ledger(self) -> Ledger | None:
        """The ledger of the first turn, which is the only one unless units take turns."""
        return self._ledgers[0] if self._ledgers else None

    def _ledger_of(self, admitted: Admitted) -> Ledger | None:
        """The ledger of the units whose turn a round is: a budget for each of them, whoever they are."""
        if not self._ledgers:
            return None
        return self._ledgers[admitted.settings.training_round % len(self._ledgers)]

    def _random(self, count: int) -> bytes:
        """Fresh bytes for the protocol; every call has a label of its own."""
        self._calls += 1
        return self._source.bytes(count, "protocol", self._attempt, self._calls)
