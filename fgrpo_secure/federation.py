"""The server of a running federation: what it holds between rounds, and how it conducts one.

A round is one session, or one for each of its shards. One that fails (too few clients, a sum beyond its bound) is on
the ledger; if all fail, the round is tried again under new numbers. No session number is ever used twice, not even
after a crash.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from safetensors.torch import save

from fgrpo_secure import enrolment, entropy, plain, run_plan, schedule, server_round
from fgrpo_secure.adapters import Policy
from fgrpo_secure.apply import ServerOptimizer
from fgrpo_secure.averaging import IterateAverage
from fgrpo_secure.client_policy import Admitted, ClientPolicy
from fgrpo_secure.config import Config
from fgrpo_secure.engines.embedded import Embedded
from fgrpo_secure.engines.frames import Costs
from fgrpo_secure.engines.signatures import SharedVerifier
from fgrpo_secure.entropy import Entropy
from fgrpo_secure.evidence import clip_norms, notes, spent, witness
from fgrpo_secure.gathered import Gathered
from fgrpo_secure.models import BaseModel
from fgrpo_secure.privacy.encode import SumOutOfBounds
from fgrpo_secure.privacy.ledger import Ledger, Ledgers
from fgrpo_secure.privacy.planner import PrivacyPlan
from fgrpo_secure.run_directory import RunDirectory, RunDirectoryError, write_durably
from fgrpo_secure.server_round import Conclusion
from protocols import wire
from protocols.drive import Link, Traffic
from protocols.errors import FaultyClient, TooFewClients
from protocols.identity import Identity
from protocols.roster import Roster
from protocols.server import Recovered
from protocols.wire import RoundPlan, Step

LEDGER_OWNER = "server"  # a client that takes part in every round spends at most what this ledger shows

Sessions = list[tuple[RoundPlan, Admitted]]


class SessionFailed(RuntimeError):
    """All sessions of a round ended without a sum; the sentence says why."""


class TooFewWilling(SessionFailed):
    """So many clients refuse, by their own policies, that no session of this round can end with a sum."""


@dataclass(frozen=True)
class RoundResult:
    """What one finished round released and cost; nothing about any one client."""

    conclusion: Conclusion
    recovered: Recovered
    traffic: Traffic
    costs: Costs
    session_number: int  # of the first shard
    cohort: int  # clients of the shards that ended
    failures: tuple[str, ...]  # why the other shards did not
    clip_norm: float
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
    average: IterateAverage
    source: Entropy  # of a baseline's central noise; a server that is not trusted adds none
    shares: tuple[float, ...] = ()  # what an adaptive clip norm follows: one for each finished round
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
            None
            if privacy.claim is None
            else ledgers.open(LEDGER_OWNER, schedule.unit_budgets(config) * privacy.claim.budget),
            run_plan.demands(config, privacy),
            ServerOptimizer(config.server),
            IterateAverage(config.server.averaging),
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
        return spent.epsilon(self.ledger, spent.Terms.of(claim, self.config), claim.delta)

    def conduct(self, training_round: int, on_answer: Callable[[str, int, int], None]) -> RoundResult:
        """The sessions of a training round, one per shard, up to the model's new vector, which is set.

        Raises SessionFailed if no shard ended with a sum, or BudgetExceeded before anything is opened.
        """
        started = entropy.stopwatch()
        sessions = [self._open(training_round, shard) for shard in range(self.privacy.shards)]
        adapter = save(dict(self.policy.full_state()))
        self._charge(sessions)
        self.engine.begin(adapter, sessions[0][0].round, self.directory.roster.read_bytes())
        server_started = entropy.processor_time()
        gathered = self._gather(sessions, on_answer)
        conclusion = self._conclude(training_round, sessions, gathered)
        seconds_server = entropy.processor_time() - server_started - gathered.seconds_inside
        self._settle(sessions, gathered, conclusion)
        self._witness(sessions[0][0], gathered)
        self.policy.set_vector(training_round, conclusion.vector)
        if conclusion.share_within is not None:
            self.shares = (*self.shares[:training_round], conclusion.share_within)
        return RoundResult(
            conclusion,
            gathered.recovered(),
            gathered.traffic,
            self.engine.finish(),
            sessions[0][0].round,
            gathered.cohort,
            tuple(gathered.failures),
            sessions[0][1].settings.clip_norm,
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
        opened = {} if self.ledger is None else self._open_rounds(self.ledger)
        masked = self.engine.recover([session for sessions in opened.values() for session in sessions])
        if self.ledger is not None:
            for first in opened:
                self.ledger.abort(first, refund=masked == 0)

    def _open(self, training_round: int, shard: int = 0) -> tuple[RoundPlan, Admitted]:
        dimension = self.policy.dimension(training_round)
        plan = run_plan.open_round(
            self.config,
            self.privacy,
            self.roster,
            run_plan.context(self.base, self.policy),
            training_round,
            self._next_session(),
            dimension,
            schedule.partition(self.config, self.roster.digest, training_round, self.clients)[shard],
            self.run,
            self.shares[:training_round],
        )
        return plan, self.demands.admit(plan, dimension)

    def _collect(self, plan: RoundPlan, admitted: Admitted, link: Link) -> tuple[Recovered, Traffic]:
        if self.privacy.trusted_server:
            return plain.collect(self.identity, plan, admitted, link, self.source)
        return server_round.collect(self.identity, plan, self.roster, link, self.verify)

    def _gather(self, sessions: Sessions, on_answer: Callable[[str, int, int], None]) -> Gathered:
        """Run each shard's session to its sum or its failure."""
        gathered = Gathered()
        for plan, admitted in sessions:
            link = CountingLink(self.engine, on_answer)
            try:
                recovered, traffic = self._collect(plan, admitted, link)
                server_round.checked_total(recovered, admitted)
                gathered.add(plan, recovered, traffic, admitted.settled(len(recovered.survivors)))
            except (TooFewClients, FaultyClient, SumOutOfBounds) as problem:
                gathered.fail(self._explain(problem, plan), admitted.charge if link.saw_upload else Fraction(0))
            finally:
                self.verify.forget()
                gathered.seconds_inside += link.seconds_inside
        return gathered

    def _conclude(self, training_round: int, sessions: Sessions, gathered: Gathered) -> Conclusion:
        """The new vector from the shards that ended; the sum over all of them must keep within its own bound, too."""
        if not gathered.survivors:
            self._abort(sessions, refund=gathered.charge == 0)
            unwilling = all(len(plan.cohort) - len(self._refusals(plan)) < plan.floor for plan, _ in sessions)
            raise (TooFewWilling if unwilling else SessionFailed)("; ".join(gathered.failures))
        try:
            return server_round.conclude(
                gathered.recovered(),
                sessions[0][1],
                self.policy.get_vector(training_round),
                self.policy.factors(training_round),
                self.optimizer,
            )
        except SumOutOfBounds as problem:
            self._abort(sessions, refund=False)
            raise SessionFailed(str(problem)) from None

    def _next_session(self) -> int:
        """A number no session of this run had: written down before it is used."""
        path = self.directory.sessions
        try:
            number = int(path.read_text()) + 1 if path.exists() else 0
        except ValueError:
            raise RunDirectoryError(
                f"{path} holds no number: without it a session's number could be used twice"
            ) from None
        write_durably(path, f"{number}\n".encode())
        return number

    def _charge(self, sessions: Sessions) -> None:
        """One entry per round, under its first session: what a client pays, which is in one of the shards.

        It names the other sessions, so that after a crash the owners can be asked about all of them.
        """
        if self.ledger is None:
            return
        first, *others = [wire.session_of(plan) for plan, _ in sessions]
        charge = max(admitted.charge for _, admitted in sessions)
        self.ledger.intent(first, sessions[0][0].round, charge, witness.opening_facts(others))

    def _witness(self, first: RoundPlan, gathered: Gathered) -> None:
        """Show the survivors the ledger with this round settled, and keep the checkpoint with their signatures."""
        if self.ledger is None or self.privacy.trusted_server:
            return
        origin = witness.origin(self.identity.public, first.run)
        shown = note = self.ledger.checkpoint(origin, witness.signer(self.identity, witness.SERVER))
        signed, entry = notes.last_signed(self.directory.notes), wire.session_of(first)
        for session, survivors in gathered.ended.items():
            seen = {client: signed.get(witness.client_name(client), 0) for client in survivors}
            for _ in range(2):  # after a crash a client may have signed what was never kept here: it says how much
                proof = {size: witness.exhibit(self.ledger, shown, size, entry) for size in set(seen.values())}
                said = self.engine.witness(session, {client: proof[size] for client, size in seen.items()})
                note += "".join(each.line for each in said if each.line is not None)
                stale = {each.client: each.seen for each in said if each.line is None}
                stale = {client: size for client, size in stale.items() if size != seen[client]}
                seen = {client: size for client, size in stale.items() if 0 < size <= self.ledger.size()}
                if not seen:
                    break
        notes.keep(self.directory.notes, self.ledger.size(), note)

    def _settle(self, sessions: Sessions, gathered: Gathered, conclusion: Conclusion) -> None:
        if self.ledger is not None:
            training_round = sessions[0][1].settings.training_round
            shards = witness.shard_facts(training_round, gathered.ended) if len(sessions) > 1 else {}
            facts: dict[str, str | int] = {**shards, **spent.facts(training_round, self.config.unit_blocks)}
            facts |= clip_norms.facts(conclusion.share_within)
            self.ledger.settle(wire.session_of(sessions[0][0]), len(gathered.survivors), gathered.charge, facts)

    def _abort(self, sessions: Sessions, refund: bool) -> None:
        if self.ledger is not None:
            self.ledger.abort(wire.session_of(sessions[0][0]), refund=refund)

    @staticmethod
    def _open_rounds(ledger: Ledger) -> dict[bytes, list[bytes]]:
        """Round by round, the sessions that were charged and not closed, by the first of each."""
        opened = {session: [session] for session in ledger.open_sessions()}
        for entry in ledger.entries() if opened else ():
            if entry["kind"] == "intent":
                round_sessions = [bytes.fromhex(session) for session in witness.sessions(entry)]
                if round_sessions[0] in opened:
                    opened[round_sessions[0]] = round_sessions
        return opened

    def _explain(self, problem: Exception, plan: RoundPlan) -> str:
        refused = self._refusals(plan)
        if not refused:
            return str(problem)
        return f"{problem}; {len(refused)} clients refused: {'; '.join(sorted(set(refused)))}"

    def _refusals(self, plan: RoundPlan) -> list[str]:
        """The reasons of those in the cohort who said no."""
        cohort = set(plan.cohort)
        return [reason for client, reason in self.engine.refusals.items() if client in cohort]


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
