"""The server of a running federation: what it holds between rounds, and how it conducts one.

A round is at most a few sessions: one that fails (too few clients, a sum beyond its bound) is on the ledger and the
next one takes a new number. No session number is ever used twice, not even after a crash.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from safetensors.torch import save

from fgrpo_secure import enrolment, entropy, plain, run_plan, schedule, server_round
from fgrpo_secure.adapters import Policy
from fgrpo_secure.apply import ServerOptimizer
from fgrpo_secure.client_policy import Admitted, ClientPolicy
from fgrpo_secure.config import Config
from fgrpo_secure.engines.embedded import Embedded
from fgrpo_secure.engines.frames import Costs
from fgrpo_secure.engines.signatures import SharedVerifier
from fgrpo_secure.entropy import Entropy
from fgrpo_secure.evidence import notes, witness
from fgrpo_secure.models import BaseModel
from fgrpo_secure.privacy.encode import SumOutOfBounds
from fgrpo_secure.privacy.ledger import Ledger, Ledgers
from fgrpo_secure.privacy.planner import PrivacyPlan
from fgrpo_secure.run_directory import RunDirectory, write_durably
from fgrpo_secure.server_round import Conclusion
from protocols import wire
from protocols.drive import Link, Traffic
from protocols.errors import FaultyClient, TooFewClients
from protocols.identity import Identity
from protocols.roster import Roster
from protocols.server import Recovered
from protocols.wire import RoundPlan, Step

LEDGER_OWNER = "server"  # a client that takes part in every round spends what this ledger shows


class SessionFailed(RuntimeError):
    """A session ended without a sum; the sentence says why."""


@dataclass(frozen=True)
class RoundResult:
    """What one finished round released and cost; nothing about any one client."""

    conclusion: Conclusion
    recovered: Recovered
    traffic: Traffic
    costs: Costs
    session_number: int
    cohort: int
    adapter_bytes: int
    seconds_server: float
    seconds_total: float


@dataclass
class Federation:
    """The server's resources. `ledger` is None without differential privacy: there is nothing to charge."""

    config: Config
    directory: RunDirectory
    base: BaseModel
    policy: Policy
    privacy: PrivacyPlan
    engine: Embedded
    roster: Roster
    identity: Identity
    ledger: Ledger | None
    demands: ClientPolicy
    optimizer: ServerOptimizer
    source: Entropy  # of a baseline's central noise; a server that is not trusted adds none
    clients: tuple[int, ...] | None = None  # who may take part since the last `renew`; None: all
    verify: SharedVerifier = field(default_factory=SharedVerifier)
    first_plan: PrivacyPlan = field(init=False)
    first_run: bytes = field(init=False)

    def __post_init__(self) -> None:
        first = enrolment.rosters(self.directory, enrolment.pins(self.directory).authority)[0]
        self.first_plan, self.first_run = self.privacy, run_plan.run_id(first)

    @staticmethod
    def open(
        config: Config, directory: RunDirectory, base: BaseModel, policy: Policy, engine: Embedded
    ) -> "Federation":
        """The server of the run in `directory`."""
        privacy = run_plan.plan(config, policy)
        ledgers = Ledgers(directory.ledger)
        return Federation(
            config,
            directory,
            base,
            policy,
            privacy,
            engine,
            enrolment.roster(directory),
            enrolment.server_identity(directory),
            None if privacy.claim is None else ledgers.open(LEDGER_OWNER, config.unit_blocks * privacy.claim.budget),
            run_plan.demands(config, privacy),
            ServerOptimizer(config.server),
            entropy.from_kind(config.run.entropy, config.run.seed).child("server"),
        )

    @property
    def run(self) -> bytes:
        """The run's name in plans and checkpoints."""
        return self.first_run

    def close(self) -> None:
        """Close the server's ledger; its file is complete then."""
        if self.ledger is not None:
            self.ledger.close()

    def epsilon_spent(self) -> float | None:
        """What the server has learned so far, as epsilon at the run's delta; None without differential privacy."""
        claim = self.privacy.claim
        if self.ledger is None or claim is None:
            return None
        return claim.epsilon_spent(min(self.ledger.spent(), claim.budget))  # of units in turns: the most of any

    def conduct(self, training_round: int, on_answer: Callable[[str, int, int], None]) -> RoundResult:
        """One session of a training round, up to the model's new vector, which is set.

        Raises SessionFailed, or BudgetExceeded before anything is opened.
        """
        started = entropy.stopwatch()
        plan, admitted = self._open(training_round)
        adapter = save(dict(self.policy.full_state()))
        self._charge(plan, admitted.charge)
        self.engine.begin(adapter, plan.round, self.directory.roster.read_bytes())
        link = CountingLink(self.engine, on_answer)
        server_started = entropy.processor_time()
        try:
            recovered, traffic = self._collect(plan, admitted, link)
            conclusion = server_round.conclude(
                recovered,
                admitted,
                self.policy.get_vector(training_round),
                self.policy.factors(training_round),
                self.optimizer,
            )
        except (TooFewClients, FaultyClient, SumOutOfBounds) as problem:
            self._abort(plan, refund=not link.saw_upload)
            raise SessionFailed(self._explain(problem)) from None
        finally:
            self.verify.forget()
        seconds_server = entropy.processor_time() - server_started - link.seconds_inside
        self._settle(plan, admitted, len(recovered.survivors))
        self._witness(plan, recovered.survivors)
        self.policy.set_vector(training_round, conclusion.vector)
        return RoundResult(
            conclusion,
            recovered,
            traffic,
            self.engine.finish(),
            plan.round,
            len(plan.cohort),
            len(adapter),
            seconds_server,
            entropy.stopwatch() - started,
        )

    def renew(self) -> str | None:
        """Take up a newer roster that was put into the run, and plan for those who may take part today.

        Between rounds. Gives the sentence to say if something changed. Raises Refused if the roster has expired, or
        InfeasiblePlan if too few are left.
        """
        said = None
        if self.directory.next_roster.exists():
            self.roster, said = enrolment.take_up(self.directory, self.roster, self.identity.public)
        clients = schedule.clients(self.config, self.roster, entropy.today())
        privacy = run_plan.replan(self.config, self.policy, self.first_plan, len(clients), len(self.roster))
        if clients != (self.clients or tuple(range(self.config.clients_total))):
            said = f"{said or 'who may take part has changed'}; {len(clients)} clients take part from now on"
        self.clients, self.privacy, self.demands = clients, privacy, run_plan.demands(self.config, privacy)
        return said

    def recover(self) -> None:
        """After a crash: the owners close their open sessions, then the server its own, refunded only if no masked
        vector of it can have left anybody."""
        sessions = [] if self.ledger is None else list(self.ledger.open_sessions())
        masked = self.engine.recover(sessions)
        if self.ledger is not None:
            for session in sessions:
                self.ledger.abort(session, refund=masked == 0)

    def _open(self, training_round: int) -> tuple[RoundPlan, Admitted]:
        dimension = self.policy.dimension(training_round)
        plan = run_plan.open_round(
            self.config,
            self.privacy,
            self.roster,
            run_plan.context(self.base, self.policy),
            training_round,
            self._next_session(),
            dimension,
            self.clients,
            self.run,
        )
        return plan, self.demands.admit(plan, dimension)

    def _collect(self, plan: RoundPlan, admitted: Admitted, link: Link) -> tuple[Recovered, Traffic]:
        if self.privacy.trusted_server:
            return plain.collect(self.identity, plan, admitted, link, self.source)
        return server_round.collect(self.identity, plan, self.roster, link, self.verify)

    def _next_session(self) -> int:
        """A number no session of this run had: written down before it is used."""
        path = self.directory.sessions
        number = int(path.read_text()) + 1 if path.exists() else 0
        write_durably(path, f"{number}\n".encode())
        return number

    def _charge(self, plan: RoundPlan, charge: Fraction) -> None:
        if self.ledger is not None:
            self.ledger.intent(wire.session_of(plan), plan.round, charge)

    def _witness(self, plan: RoundPlan, survivors: Sequence[int]) -> None:
        """Show the survivors the ledger with this session settled, and keep the checkpoint with their signatures."""
        if self.ledger is None or self.privacy.trusted_server:
            return
        session = wire.session_of(plan)
        origin = witness.origin(self.identity.public, plan.run)
        note = self.ledger.checkpoint(origin, witness.signer(self.identity, witness.SERVER))
        signed = notes.last_signed(self.directory.notes)
        seen = {client: signed.get(witness.client_name(client), 0) for client in survivors}
        for _ in range(2):  # after a crash a client may have signed what was never kept here: it says how much
            proof = {size: witness.exhibit(self.ledger, note, size, session) for size in set(seen.values())}
            said = self.engine.witness(session, {client: proof[size] for client, size in seen.items()})
            lines = "".join(each.line for each in said if each.line is not None)
            stale = {each.client: each.seen for each in said if each.line is None and each.seen != seen[each.client]}
            note += lines
            seen = {client: size for client, size in stale.items() if 0 < size <= self.ledger.size()}
            if not seen:
                break
        notes.keep(self.directory.notes, self.ledger.size(), note)

    def _settle(self, plan: RoundPlan, admitted: Admitted, survivors: int) -> None:
        if self.ledger is not None:
            self.ledger.settle(wire.session_of(plan), survivors, admitted.settled(survivors))

    def _abort(self, plan: RoundPlan, refund: bool) -> None:
        if self.ledger is not None:
            self.ledger.abort(wire.session_of(plan), refund=refund)

    def _explain(self, problem: Exception) -> str:
        reasons = sorted(set(self.engine.refusals.values()))
        refused = f"; {len(self.engine.refusals)} clients refused: {'; '.join(reasons)}" if reasons else ""
        return f"{problem}{refused}"


class CountingLink:
    """The engine as the protocol's link: tells an observer how far a step is, and whether a mask was ever sent."""

    def __init__(self, engine: Embedded, on_answer: Callable[[str, int, int], None]) -> None:
        self._engine = engine
        self._on_answer = on_answer
        self.saw_upload = False
        self.seconds_inside = 0.0  # processor time that is not the server's: hosts may live in this process

    def exchange(self, step: Step, outgoing: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
        """See `protocols.drive.Link`."""
        total, done = len(outgoing), 0
        self._on_answer(step.value, 0, total)
        answers = iter(self._engine.exchange(step.value, outgoing))
        while True:
            entered = entropy.processor_time()
            answer = next(answers, None)
            self.seconds_inside += entropy.processor_time() - entered
            if answer is None:
                return
            done += 1
            self.saw_upload = self.saw_upload or step is Step.MASK
            self._on_answer(step.value, done, total)
            yield answer
