"""A whole run at the server: open the federation, conduct its rounds, keep what they released, sum up.

`start` and `resume` are the two ways in. Everything that outlives a crash is in the run directory: after round r the
checkpoint holds the adapter, and the ledger what was charged, open sessions included.
"""

from contextlib import closing
from typing import Protocol

from fgrpo_secure import (
    adapters,
    averaging,
    checkpoint,
    config_file,
    enrolment,
    entropy,
    models,
    preflight,
    publish,
)
from fgrpo_secure.checkpoint import Checkpoint
from fgrpo_secure.config import Config
from fgrpo_secure.engines.embedded import Embedded
from fgrpo_secure.errors import CheckFailed
from fgrpo_secure.examination import Exam, Examination
from fgrpo_secure.federation import Federation, RoundResult, SessionFailed, TooFewWilling
from fgrpo_secure.privacy.accounting import BudgetExceeded
from fgrpo_secure.privacy.planner import NO_SECURE_AGGREGATION, InfeasiblePlan
from fgrpo_secure.run_directory import RoundMetrics, RunDirectory
from fgrpo_secure.run_record import RunRecord
from protocols.errors import Refused

ATTEMPTS = 3  # sessions that one training round may take before the run stops


class RunStopped(CheckFailed, RuntimeError):
    """The run cannot go on; what it finished so far is in its directory."""


class Observer(Protocol):
    """Who watches a run: a terminal, or nobody."""

    def say(self, line: str) -> None: ...

    def started(self, name: str, rounds: int, done: int) -> None: ...

    def step(self, step: str, done: int, total: int) -> None: ...

    def finished_round(self, metrics: RoundMetrics) -> None: ...


def start(config: Config, directory: RunDirectory, observer: Observer) -> None:
    """Run `config` from the beginning into `directory`. Everything that can be refused is refused before round one.

    Raises the errors of unusable input (see `fgrpo_secure.cli.errors`), BudgetExceeded or RunStopped.
    """
    preflight.check_clients(config)
    examination = Examination.prepare(config)
    base = models.load(config.model)
    policy = adapters.attach(base, config.adapter, config.run.seed)
    preflight.check(config, policy, examination)
    source = entropy.from_kind(config.run.entropy, config.run.seed)
    directory = directory.with_owners(config.engine.owners)
    enrolment.check_returning(directory, config)
    directory.create(config_file.dump(config))
    with directory.claimed():
        enrolment.enrol(directory, config, base, policy, source.child("enrolment"))
        with closing(Embedded.start(directory, config)) as engine:
            _run(Federation.open(config, directory, base, policy, engine), examination, RunRecord(), observer)


def resume(directory: RunDirectory, observer: Observer) -> None:
    """Continue the run in `directory` after its newest checkpoint. An open round is lost, and paid for if it leaked."""
    config = config_file.load(str(directory.config))
    directory = directory.with_owners(config.engine.owners)
    with directory.claimed():
        enrolment.check_stores(directory, config)  # what is missing would be made anew, and empty
        base = models.load(config.model)
        policy = adapters.attach(base, config.adapter, config.run.seed)
        examination = Examination.prepare(config)
        found = checkpoint.latest(directory.checkpoints)
        with closing(Embedded.start(directory, config)) as engine:
            federation = Federation.open(config, directory, base, policy, engine)
            federation.recover()
            record = RunRecord() if found is None else _continued(federation, found)
            directory.drop_metrics_after(record.rounds_done)
            _run(federation, examination, record, observer)


def _continued(federation: Federation, found: Checkpoint) -> RunRecord:
    """The record in a checkpoint, whose adapter and optimiser the federation then has."""
    federation.policy.load_full_state(found.adapter)
    federation.optimizer.load(averaging.without(found.optimizer))
    federation.average.load(found.optimizer)
    try:
        federation.shares = tuple(found.progress["shares"])
        return RunRecord.load(found.progress)
    except (KeyError, TypeError):
        raise checkpoint.damaged(federation.directory.checkpoints, found.rounds_done) from None


def _run(federation: Federation, examination: Examination, record: RunRecord, observer: Observer) -> None:
    config, directory = federation.config, federation.directory
    if federation.privacy.trusted_server:
        observer.say(f"WARNING: {NO_SECURE_AGGREGATION}")
    observer.started(config.run.name, config.federation.rounds, record.rounds_done)
    if record.initial is None:
        record.initial = examination.take(federation.policy)
        observer.say(f"before training: {record.initial.describe()}")
    while record.rounds_done < config.federation.rounds:
        started = entropy.stopwatch()
        try:
            result, failed = _conduct(federation, record.rounds_done, observer)
        except (BudgetExceeded, TooFewWilling) as refusal:
            observer.say(f"stopped after round {record.rounds_done}: {refusal}")
            record.stopped = "budget spent" if isinstance(refusal, BudgetExceeded) else str(refusal)
            break
        record.rounds_done += 1
        federation.average.add(federation.policy.full_state())
        exam = _examined(federation, examination) if examination.due(record.rounds_done) else None
        metrics = record.add(result, failed, exam, federation.epsilon_spent(), entropy.stopwatch() - started)
        directory.append_metrics(metrics)
        checkpoint.save(directory.checkpoints, record.checkpoint(federation))
        observer.finished_round(metrics)
    if record.final is None or record.stopped:
        record.final = _examined(federation, examination)
    with federation.average.shown(federation.policy):
        federation.policy.save(directory.adapter)
        publish.publish(federation, record)


def _examined(federation: Federation, examination: Examination) -> Exam:
    """The figures of the adapter that would be saved now: the average, where there is one."""
    with federation.average.shown(federation.policy):
        return examination.take(federation.policy)


def _conduct(federation: Federation, training_round: int, observer: Observer) -> tuple[RoundResult, int]:
    """The result of a round and how many of its sessions failed before."""
    for failed in range(ATTEMPTS):
        _renew(federation, training_round, observer)
        try:
            result = federation.conduct(training_round, observer.step)
        except TooFewWilling:
            raise
        except SessionFailed as problem:
            observer.say(f"round {training_round + 1}: a session failed: {problem}")
            continue
        for failure in result.failures:
            observer.say(f"round {training_round + 1}: goes on without a shard: {failure}")
        return result, failed + len(result.failures)
    raise RunStopped(f"round {training_round + 1} failed {ATTEMPTS} times; continue later with --resume")


def _renew(federation: Federation, training_round: int, observer: Observer) -> None:
    """A newer roster, or a new day, before every session: who is revoked or expired takes no part in it."""
    try:
        said = federation.renew()
    except (Refused, InfeasiblePlan) as problem:
        raise RunStopped(f"the run cannot go on after round {training_round}: {problem}") from None
    if said is not None:
        observer.say(f"round {training_round + 1}: {said}")
