"""The server of a running federation: what it holds between rounds, and how it conducts one.

A round is one session, or one for each of its shards. One that fails (too few clients, a sum beyond its bound) is on
the ledger; if all fail, the round is tried again under new numbers. No session number is ever used twice, not even
after a crash.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from safetensors.torch import save

from fgrpo_secure import entropy
from fgrpo_secure.config.schema import Config
from fgrpo_secure.entropy import Entropy
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.averaging import IterateAverage
from fgrpo_secure.learning.models import BaseModel
from fgrpo_secure.ledger import privacy_spent
from fgrpo_secure.ledger.entries import Facts
from fgrpo_secure.ledger.store import Ledger, Ledgers
from fgrpo_secure.plan import adapter_shape, division, run_plan, schedule
from fgrpo_secure.plan.cost import PrivacyPlan
from fgrpo_secure.plan.terms import Admitted, RunTerms
from fgrpo_secure.server import plain, recovery, stages
from fgrpo_secure.server import round as server_round
from fgrpo_secure.server import session as conducted
from fgrpo_secure.server.engine import Engine
from fgrpo_secure.server.failures import Failures
from fgrpo_secure.server.link import CountingLink, OnAnswer
from fgrpo_secure.server.optimizer import ServerOptimizer
from fgrpo_secure.server.recovery import Asked
from fgrpo_secure.server.round import Conclusion
from fgrpo_secure.server.session import Elsewhere, HandedSession, SessionEnd
from fgrpo_secure.server.shard_sums import ShardSums
from fgrpo_secure.server.showing import Showing
from fgrpo_secure.server.stages import NobodyLeft, Opened, OpenedSession, Witnessed
from fgrpo_secure.shared_verifier import SharedVerifier
from fgrpo_secure.storage import digests, opening, rosters, transcript_file
from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError, write_durably
from protocols.collect import Record
from protocols.drive import Link, Traffic
from protocols.identity import Identity
from protocols.roster import Roster
from protocols.server import Recovered
from protocols.wire import RoundPlan

LEDGER_OWNER = "server"  # a client that takes part in every round spends at most what this ledger shows


@dataclass(frozen=True)
class RoundResult:
    """What one finished round released and cost; nothing about any one client."""

    conclusion: Conclusion
    recovered: Recovered
    traffic: Traffic
    session_number: int  # of the first shard
    cohort: int  # clients of the shards that ended
    failures: tuple[str, ...]  # why the other shards did not
    clip_norm: float
    adapter_bytes: int
    seconds_server: float  # of processor time, the server's own


@dataclass
class Federation:
    """The server's resources. `ledger` is None without differential privacy: there is nothing to charge."""

    config: Config
    directory: RunDirectory
    base: BaseModel
    adapted: AdaptedModel
    privacy: PrivacyPlan
    engine: Engine
    roster: Roster
    identity: Identity
    ledger: Ledger | None
    demands: RunTerms
    optimizer: ServerOptimizer
    average: IterateAverage
    source: Entropy  # of a baseline's central noise; a server that is not trusted adds none
    shares: tuple[float, ...] = ()  # what an adaptive clip norm follows: one for each finished round
    clients: tuple[int, ...] | None = None  # who may take part since the last `renew`; None: all
    elsewhere: Elsewhere | None = None  # who conducts sessions; None: this server itself
    verify: SharedVerifier = field(default_factory=SharedVerifier)
    first_plan: PrivacyPlan = field(init=False)
    run: bytes = field(init=False)  # its name in plans and checkpoints
    failures: Failures = field(init=False)
    asked: Asked = field(init=False)

    def __post_init__(self) -> None:
        self.first_plan = self.privacy
        self.failures = Failures(self.directory.failures)
        self.asked = Asked(self.directory.asked, self.failures)
        self.run = opening.check(opening.read(self.directory), self.config, rosters.first(self.directory))

    @staticmethod
    def open(
        config: Config, directory: RunDirectory, base: BaseModel, adapted: AdaptedModel, engine: Engine
    ) -> "Federation":
        """The server of the run in `directory`."""
        privacy = run_plan.plan(config, adapter_shape.of(adapted))
        return Federation(
            config,
            directory,
            base,
            adapted,
            privacy,
            engine,
            rosters.roster(directory),
            rosters.server_identity(directory),
            Federation._ledger_of(config, directory, privacy),
            run_plan.demands(config, privacy),
            ServerOptimizer(config.server),
            IterateAverage(config.server.averaging),
            entropy.from_kind(config.run.entropy, config.run.seed).child("server"),
        )

    @staticmethod
    def _ledger_of(config: Config, directory: RunDirectory, privacy: PrivacyPlan) -> Ledger | None:
        """The server's ledger. Without differential privacy its file stays empty, and is closed at once: **Why** what
        an open one still writes at the end would come after the digest in the manifest.
        """
        ledgers = Ledgers(directory.ledger)
        if privacy.claim is None:
            ledgers.close()
            return None
        return ledgers.open(LEDGER_OWNER, schedule.unit_budgets(config) * privacy.claim.budget)

    def close(self) -> None:
        """Close the server's ledger; its file is complete then."""
        if self.ledger is not None:
            self.ledger.close()

    def epsilon_spent(self) -> float | None:
        """What the server has learned so far, as epsilon at the run's delta; None without differential privacy."""
        claim = self.privacy.claim
        if self.ledger is None or claim is None:
            return None
        return privacy_spent.epsilon(self.ledger, privacy_spent.Terms.of(claim, self.config))

    def conduct(self, training_round: int, on_answer: OnAnswer) -> RoundResult:
        """The sessions of a training round, one per shard, up to the model's new vector, which is set.

        Raises SessionFailed if no shard ended with a sum, or BudgetExceeded before anything is opened.
        """
        opened = self.open_round(training_round)
        adapter = save(dict(self.adapted.full_state()))
        charged = stages.charge(opened, self.ledger, self.identity)
        self.engine.invite(opened.number, adapter, self.directory.roster.read_bytes())
        server_started = entropy.processor_time()
        gathered = stages.gather(charged, partial(self._run_sessions, on_answer))
        concluded = stages.conclude(gathered, self.ledger, partial(self._step, training_round), self._unwilling)
        seconds_server = entropy.processor_time() - server_started - gathered.sums.seconds_inside
        settled = stages.settle(concluded, self.ledger, self.config.unit_blocks)
        self._publish(training_round, stages.witness(settled, self._showing()))
        return RoundResult(
            concluded.conclusion,
            gathered.sums.recovered(),
            gathered.sums.traffic,
            opened.number,
            gathered.sums.cohort,
            gathered.sums.failures,
            opened.sessions[0].admitted.settings.clip_norm,
            len(adapter),
            seconds_server,
        )

    def end(self, rounds: int, stopped: str | None) -> None:
        """Write the ledger's last entry, what the run released, and have all its clients sign it once more.

        Those, too, that were in no session or left since: that nobody hides a session of theirs is their word alone.
        A run that is resumed after its end keeps the entry, and asks whoever has not signed it yet.
        """
        if self.ledger is None or self.privacy.trusted_server:
            return
        if self.ledger.closing() is None:
            adapter = {
                "adapter": self.adapted.adapter_digest().hex(),
                "files": digests.of_folder(self.directory.adapter),
            }
            facts: dict[str, str | int] = {"rounds": rounds, "stopped": stopped or "", "ended": entropy.utc_now()}
            self.ledger.close_run(facts | adapter | {"engine": opening.engine_digest(self.config)})
        adapter_bytes = save(dict(self.adapted.full_state()))
        self.engine.invite(self._last_session(), adapter_bytes, self.directory.roster.read_bytes())
        if (showing := self._showing()) is not None:
            showing.close(range(self.config.clients_total))

    def renew(self) -> str | None:
        """Take up a newer roster that was put into the run, and plan for those who may take part today.

        Between rounds. Gives the sentence to say if something changed. Raises Refused if the roster has expired, or
        InfeasiblePlan if too few are left.
        """
        said = None
        if self.directory.next_roster.exists():
            before = self.roster
            self.roster, said = rosters.take_up(self.directory, before, self.identity.public)
            if revoked := set(self.roster.revoked) - set(before.revoked):
                self.failures.left_out(revoked)  # those who stay are together again, as at the beginning
        clients = schedule.clients(self.config, self.roster, entropy.today())
        privacy = run_plan.replan(
            self.config, adapter_shape.of(self.adapted), self.first_plan, len(clients), len(self.roster)
        )
        if clients != (self.clients or tuple(range(self.config.clients_total))):
            said = f"{said or 'who may take part has changed'}; {len(clients)} clients take part from now on"
        self.clients, self.privacy, self.demands = clients, privacy, run_plan.demands(self.config, privacy)
        return said

    def closing(self) -> Facts | None:
        """The facts of the ledger's last entry, once the run has ended; None before, and without a ledger."""
        return None if self.ledger is None else self.ledger.closing()

    def recover(self) -> None:
        """After a crash: the owners close their open sessions, then the server its own.

        **Why** A charge is given back only if this server's record says that nobody was asked for a masked vector, and
        every owner says that none of its own left. Owners that say nothing may have sent one, and a server that came
        back from an old copy has no record: believing either, it would have less on its ledger than they paid.
        """
        if self.elsewhere is not None:
            self.asked.take_over(self.elsewhere)
        opened = {} if self.ledger is None else recovery.open_rounds(self.ledger)
        left = self.engine.recover([session for sessions in opened.values() for session in sessions])
        asked = self.asked.names()
        if self.ledger is not None:
            for first, sessions in opened.items():
                nobody = not left and asked.isdisjoint(sessions) and not any(map(self._forgotten, sessions))
                self.ledger.abort(first, refund=nobody)

    def _forgotten(self, session: bytes) -> bool:
        """Whether workers may have conducted a session, and their database does not know it, or is not at hand."""
        if self.elsewhere is None:
            return self.directory.workers.exists()
        return not self.elsewhere.knows(session)

    def _note_asked(self, session: OpenedSession) -> None:
        """On disk before anybody is asked for a masked vector of the session: from here on its charge stays."""
        self.asked.note(session.name, session.admitted.settings.training_round, session.plan)

    def open_round(self, training_round: int) -> Opened:
        """The plans of a round's sessions. Each has a number of its own from now on; nobody is asked anything yet.

        Raises NobodyLeft if none may be opened.
        """
        privacy, demands, shards = self._ways(training_round)
        shards = tuple(shard for shard in shards if self.failures.may_open(shard))
        if not shards:
            raise NobodyLeft(
                "sessions were spoiled, and nobody is asked to pay for a third one; `fgrpo roster revoke` with "
                f"transcripts from {self.directory.transcripts} leaves out who spoiled them, if they name somebody"
            )
        planned = (self._planned(training_round, shard, privacy, demands) for shard in shards)
        return Opened(training_round, tuple(planned))

    def _ways(self, training_round: int) -> tuple[PrivacyPlan, RunTerms, tuple[tuple[int, ...], ...]]:
        """A round's plan, what its clients insist on, its shards: one for everybody, until somebody spoiled a sum."""
        ids = self.clients or tuple(range(self.config.clients_total))
        if self.failures.goes_on_in_shards(training_round):
            found = run_plan.divided(self.config, self.privacy, len(ids), len(self.roster))
            if found is not None:
                small, demands = found
                parts = division.partition(self.config, small, self.roster.digest, training_round, self.clients)
                return small, demands, parts
        whole = schedule.partition(self.config, self.roster.digest, training_round, self.clients)
        return self.privacy, self.demands, whole

    def _planned(
        self, training_round: int, shard: tuple[int, ...], privacy: PrivacyPlan, demands: RunTerms
    ) -> OpenedSession:
        dimension = self.adapted.dimension(training_round)
        plan = run_plan.open_round(
            self.config,
            privacy,
            self.roster,
            self.adapted.context(),
            training_round,
            self._next_session(),
            dimension,
            shard,
            self.run,
            self.shares[:training_round],
        )
        return OpenedSession(plan, demands.admit(plan, dimension))

    def _collect(
        self, plan: RoundPlan, admitted: Admitted, link: Link, record: Record | None
    ) -> tuple[Recovered, Traffic]:
        if self.privacy.trusted_server:
            return plain.collect(self.identity, plan, admitted, link, self.source)
        return server_round.collect(self.identity, plan, self.roster, link, self.verify, record)

    def _run_sessions(self, on_answer: OnAnswer, sessions: tuple[OpenedSession, ...]) -> ShardSums:
        """Each shard's session to its sum or its failure, here or at workers, and all of them added up."""
        sums, named = ShardSums(), {session.name: session for session in sessions}
        ends = (
            self._here(on_answer, sessions)
            if self.elsewhere is None
            else self.elsewhere.conduct(self._handed(sessions))
        )
        for name, end in ends:
            sums = self._added(sums, named[name], end)
            del end  # a vector of the adapter's size, while the next session runs
        return sums

    def _here(self, on_answer: OnAnswer, sessions: tuple[OpenedSession, ...]) -> Iterator[tuple[bytes, SessionEnd]]:
        for each in sessions:
            link = CountingLink(self.engine, on_answer, partial(self._note_asked, each), self.config)
            collect = partial(self._collect, each.plan, each.admitted)
            try:
                yield each.name, conducted.conduct(collect, link, each.admitted, self._transcript(each))
            finally:
                self.verify.forget()

    def _handed(self, sessions: tuple[OpenedSession, ...]) -> list[HandedSession]:
        keeps = self.failures.any_spoiled()
        return [
            HandedSession(each.name, server_round.signed_plan(self.identity, each.plan), keeps) for each in sessions
        ]

    def _added(self, sums: ShardSums, session: OpenedSession, end: SessionEnd) -> ShardSums:
        plan, admitted, recovered = session.plan, session.admitted, end.recovered
        if self.elsewhere is not None and end.asked:
            self._note_asked(session)  # whoever conducted it wrote it down before, where this server finds it
        if recovered is not None:
            sums = sums.plus(plan, recovered, end.traffic, admitted.settled(len(recovered.survivors)))
        else:
            if end.liar:
                self.failures.spoiled(plan.cohort, session.name)
            sums = sums.without(self._explain(end.problem, plan), stages.failed_charge(session, end.asked))
        return sums.after(end.seconds_inside)

    def _transcript(self, session: OpenedSession) -> transcript_file.Writer | None:
        """What the session's clients sign, once somebody spoiled one before: before that nobody could be named by it,
        and uploads are long."""
        if not self.failures.any_spoiled() or self.privacy.trusted_server:
            return None
        signed, roster = server_round.signed_plan(self.identity, session.plan), self.directory.roster.read_bytes()
        return transcript_file.Writer(self.directory.transcripts, session.name, signed, roster)

    def _step(self, training_round: int, sums: ShardSums, admitted: Admitted) -> Conclusion:
        vector, factors = self.adapted.get_vector(training_round), self.adapted.factors(training_round)
        return server_round.conclude(sums.recovered(), admitted, vector, factors, self.optimizer)

    def _publish(self, training_round: int, witnessed: Witnessed) -> None:
        """From here on the model is the next one."""
        conclusion = witnessed.conclusion
        self.adapted.set_vector(training_round, conclusion.vector)
        if conclusion.fraction_within is not None:
            self.shares = (*self.shares[:training_round], conclusion.fraction_within)

    def _last_session(self) -> int:
        """The number of the newest session; 0 before the first."""
        return int(self.directory.sessions.read_text()) if self.directory.sessions.exists() else 0

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

    def _showing(self) -> Showing | None:
        """How clients are shown the ledger; None where there is none, or nobody to judge it."""
        if self.ledger is None or self.privacy.trusted_server:
            return None
        known = rosters.rosters(self.directory, rosters.pins(self.directory).authority)
        return Showing(
            self.ledger,
            self.identity,
            self.run,
            self.directory.notes,
            self.engine,
            self.config.federation.step_seconds,
            known,
            self.privacy.round_charge,
        )

    def _explain(self, problem: str, plan: RoundPlan) -> str:
        refused = self._refusals(plan)
        return f"{problem}; {refused} clients refused" if refused else problem

    def _unwilling(self, plan: RoundPlan) -> bool:
        """Whether so many of a session's cohort said no that it could not have ended with a sum."""
        return len(plan.cohort) - self._refusals(plan) < plan.floor

    def _refusals(self, plan: RoundPlan) -> int:
        """How many of the cohort said no. Why is theirs: a reason may tell of their other runs."""
        return sum(client in self.engine.refusals for client in plan.cohort)
