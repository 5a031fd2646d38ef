"""A whole run at the server: open the federation, conduct its rounds, keep what they released, sum up.

`start` and `resume` are the two ways in on one machine, `serve` the one where clients have machines of their own.
Everything that outlives a crash is in the run directory: after round r the
checkpoint holds the adapter, and the ledger what was charged, open sessions included.
"""

import shutil
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Protocol

from fgrpo_secure import entropy
from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.schema import Config
from fgrpo_secure.engines import enrolment, faults
from fgrpo_secure.engines.embedded import Embedded
from fgrpo_secure.errors import CheckFailed
from fgrpo_secure.learning import adapters, averaging, models
from fgrpo_secure.learning.grpo.rewards import RewardError
from fgrpo_secure.learning.pass_rates import Exam, Examination
from fgrpo_secure.plan.cost import CAN_LEARN, NO_SECURE_AGGREGATION, InfeasiblePlan
from fgrpo_secure.privacy.accounting import BudgetExceeded
from fgrpo_secure.run import inputs, preflight, publish
from fgrpo_secure.run.interruption import interruptible
from fgrpo_secure.run.record import RunRecord
from fgrpo_secure.run.simulation import Simulation
from fgrpo_secure.server.engine import Engine
from fgrpo_secure.server.federation import Federation, RoundResult
from fgrpo_secure.server.session import Elsewhere
from fgrpo_secure.server.stages import NobodyLeft, SessionFailed, TooFewWilling
from fgrpo_secure.storage import checkpoint, earlier_claims, rosters
from fgrpo_secure.storage.checkpoint import Checkpoint
from fgrpo_secure.storage.run_directory import RoundMetrics, RunDirectory, RunDirectoryError, check_database
from protocols.errors import Refused

ATTEMPTS = 3  # sessions that one training round may take before the run stops


class RunStopped(CheckFailed, RuntimeError):
    """The run cannot go on; what it finished so far is in its directory."""


class Observer(Protocol):
    """Who watches a run: a terminal, or nobody."""

    def say(self, line: str) -> None: ...

    def started(self, name: str, rounds: int, done: int) -> None: ...

    def step(self, step: str, done: int, total: int) -> None:
        """`done` of `total` clients are through a step; in "evaluate" problems are counted, in "train", which only
        a simulation can tell, clients whose answers are still to come."""

    def finished_round(self, metrics: RoundMetrics) -> None: ...


def start(config: Config, directory: RunDirectory, observer: Observer) -> None:
    """Run `config` from the beginning into `directory`. Everything that can be refused is refused before round one.

    Raises the errors of unusable input (see `fgrpo_secure.cli.errors`), BudgetExceeded or RunStopped.
    """
    _refuse_clients_elsewhere(config)
    inputs.check(config)
    examination = Examination.prepare(config)
    base = models.load(config.model)
    adapted = adapters.attach(base, config.adapter, config.run.seed)
    preflight.check(config, adapted, examination)
    for sentence in earlier_claims.sentences(config):
        observer.say(sentence)
    directory = directory.with_owners(config.engine.owners)
    enrolment.check_returning(directory, config)
    directory.create(config_file.dump(config))
    with directory.claimed():
        enrolment.enrol(directory, config, base, adapted, _enrolling(config))
        with closing(Embedded.start(directory, config)) as engine, interruptible(engine.give_up):
            engine.on_trained = partial(observer.step, "train")
            federation = Federation.open(config, directory, base, adapted, faults.struck(engine, config))
            simulation = Simulation.open(directory.simulation, 0, engine)
            _run(federation, examination, RunRecord(), simulation, observer)


def resume(directory: RunDirectory, observer: Observer) -> None:
    """Continue the run in `directory` after its newest checkpoint. An open round is lost, and paid for if it leaked."""
    config = config_file.load(str(directory.config))
    _refuse_clients_elsewhere(config)
    directory = directory.with_owners(config.engine.owners)
    with directory.claimed():
        directory.drop_unfinished()
        cut_short = enrolment.was_cut_short(directory)
        if not cut_short:
            enrolment.check_stores(directory, config)  # what is missing would be made anew, and empty
        base = models.load(config.model)
        adapted = adapters.attach(base, config.adapter, config.run.seed)
        if cut_short:
            enrolment.enrol(directory, config, base, adapted, _enrolling(config))
        examination = Examination.prepare(config)
        found = checkpoint.latest(directory.checkpoints)
        with closing(Embedded.start(directory, config)) as engine, interruptible(engine.give_up):
            engine.on_trained = partial(observer.step, "train")
            federation = Federation.open(config, directory, base, adapted, faults.struck(engine, config))
            federation.recover()
            record = RunRecord() if found is None else _continued(federation, found)
            directory.drop_metrics_after(record.rounds_done)
            directory.append_missing(record.last)
            simulation = Simulation.open(directory.simulation, record.rounds_done, engine)
            _run(federation, examination, record, simulation, observer)


def _enrolling(config: Config) -> entropy.Entropy:
    """Where the keys of a trial's parties come from."""
    return entropy.from_kind(config.run.entropy, config.run.seed).child("enrolment")


def serve(
    directory: RunDirectory,
    open_engine: Callable[[RunDirectory, Config], Engine],
    observer: Observer,
    elsewhere: Elsewhere | None = None,
) -> None:
    """Begin or go on with a run of clients elsewhere, up to its end or until it is drained; see `founding`.

    `elsewhere` conducts the sessions, None: this process. Raises as `start`.
    """
    config = config_file.load(str(directory.config))
    with directory.claimed():
        directory.drop_unfinished()
        _check_founded(directory)
        base = models.load(config.model)
        adapted = adapters.attach(base, config.adapter, config.run.seed)
        examination = Examination.prepare(config)
        found = checkpoint.latest(directory.checkpoints)
        begun = directory.sessions.exists()
        with closing(open_engine(directory, config)) as engine, interruptible():
            federation = Federation.open(config, directory, base, adapted, engine)
            federation.elsewhere = elsewhere
            if begun:
                federation.recover()
            record = RunRecord() if found is None else _continued(federation, found)
            directory.drop_metrics_after(record.rounds_done)
            directory.append_missing(record.last)
            _run(federation, examination, record, None, observer)


def _refuse_clients_elsewhere(config: Config) -> None:
    """Raises ConfigError for a run of organisations: on one machine nobody is there to train."""
    if config.engine.kind == "https":
        raise config_file.ConfigError(
            "engine.kind is 'https', a run of organisations elsewhere; `fgrpo server new` and `fgrpo server start` "
            "conduct it, `fgrpo run` takes 'embedded' and 'ray'"
        )


def _check_founded(directory: RunDirectory) -> None:
    """Returns if a run began here and nothing of it is missing; what is would be made anew, and empty."""
    if not directory.authority.exists():
        raise RunDirectoryError(f"{directory.root} is no server's run; `fgrpo server new` and `invite` make one")
    if not directory.opening.exists():
        raise RunDirectoryError(f"{directory.root} has not begun; `fgrpo server invite` gives it its roster")
    rosters.roster(directory)
    if directory.sessions.exists():
        check_database(directory.ledger, "entry")


def _continued(federation: Federation, found: Checkpoint) -> RunRecord:
    """The record in a checkpoint, whose adapter and optimiser the federation then has."""
    federation.adapted.load_full_state(found.adapter)
    federation.optimizer.load(averaging.without(found.optimizer))
    federation.average.load(found.optimizer)
    try:
        federation.shares = tuple(found.progress["shares"])
        return RunRecord.load(found.progress)
    except (KeyError, TypeError):
        raise checkpoint.damaged(federation.directory.checkpoints, found.rounds_done) from None


def _planned(federation: Federation, record: RunRecord) -> int:
    """How many rounds there will be. After a crash behind the last entry no more: whoever signed it takes part no
    more, and nothing may follow it."""
    closing = federation.closing()
    if closing is None:
        return federation.config.federation.rounds
    record.stopped = str(closing["stopped"]) or None
    return record.rounds_done


def _run(
    federation: Federation,
    examination: Examination,
    record: RunRecord,
    simulation: Simulation | None,
    observer: Observer,
) -> None:
    """Conduct the rounds that are left and publish. `simulation` is None where clients have machines of their own."""
    config, directory = federation.config, federation.directory
    _warn(federation, observer)
    observer.started(config.run.name, config.federation.rounds, record.rounds_done)
    if record.initial is None:
        # Nothing is paid yet: what fails here is refused.
        record.initial = _take(federation, examination, record, observer)
        observer.say(f"before training: {record.initial.describe()}")
        if simulation is not None:
            simulation.examined("initial", record.initial)
    rounds = _planned(federation, record)
    while record.rounds_done < rounds:
        if directory.drain.exists():
            observer.say(f"drained after round {record.rounds_done}: remove {directory.drain} and start again to go on")
            return
        started = entropy.stopwatch()
        try:
            result, failed = _conduct(federation, record.rounds_done, simulation, observer)
        except (BudgetExceeded, NobodyLeft, TooFewWilling) as refusal:
            observer.say(f"stopped after round {record.rounds_done}: {refusal}")
            record.stopped = "budget spent" if isinstance(refusal, BudgetExceeded) else str(refusal)
            break
        record.rounds_done += 1
        federation.average.add(federation.adapted.full_state())
        record.add(result, failed, federation.epsilon_spent())
        # Paid: kept before an examination or a report can fail. Otherwise a resumed run would pay again.
        checkpoint.save(directory.checkpoints, record.checkpoint(federation))
        if examination.due(record.rounds_done):
            _examine(federation, examination, record, observer)
        directory.append_missing(record.last)
        if simulation is not None:
            simulation.add(record.rounds_done, entropy.stopwatch() - started)
        if record.last is not None:
            observer.finished_round(record.last)
            if record.last.update_norm == 0:
                observer.say(f"WARNING: round {record.rounds_done}: nothing was learnt, the mean update is zero")
    if record.examined != record.rounds_done or record.final is None:
        _examine(federation, examination, record, observer)
    if simulation is not None:
        simulation.examined("final", record.final)
    _hand_over(federation, record)


def _hand_over(federation: Federation, record: RunRecord) -> None:
    """The adapter, and the documents that vouch for it."""
    folder = federation.directory.adapter
    shutil.rmtree(folder, ignore_errors=True)  # a part of it, if saving was cut short
    with federation.average.shown(federation.adapted):
        federation.adapted.save(folder)
        publish.publish(federation, record)


def _warn(federation: Federation, observer: Observer) -> None:
    """What `fgrpo plan` says of the run, and whoever starts one may not have read."""
    if federation.privacy.trusted_server:
        observer.say(f"WARNING: {NO_SECURE_AGGREGATION}")
    if federation.privacy.verdict != CAN_LEARN:
        observer.say(f"WARNING: {federation.privacy.verdict}")


def _examine(federation: Federation, examination: Examination, record: RunRecord, observer: Observer) -> None:
    """The figures after the rounds so far. An examination that fails leaves them out and ends nothing."""
    try:
        record.examine(_take(federation, examination, record, observer))
    except RewardError as problem:
        observer.say(f"round {record.rounds_done}: the evaluation failed, its figures are left out: {problem}")
        record.examine(None)


def _take(federation: Federation, examination: Examination, record: RunRecord, observer: Observer) -> Exam:
    """The figures of the adapter that would be saved now: the average, where there is one."""
    started = entropy.processor_time()
    with federation.average.shown(federation.adapted):
        exam = examination.take(federation.adapted, partial(observer.step, "evaluate"))
    record.sums.examinations += entropy.processor_time() - started
    return exam


def _conduct(
    federation: Federation, training_round: int, simulation: Simulation | None, observer: Observer
) -> tuple[RoundResult, int]:
    """The result of a round and how many of its sessions failed before."""
    for failed in range(ATTEMPTS):
        _renew(federation, training_round, observer)
        try:
            result = federation.conduct(training_round, observer.step)
        except TooFewWilling as problem:
            why = "each client's own log" if simulation is None else simulation.path.name
            raise TooFewWilling(f"{problem}; why stands in {why}") from None
        except NobodyLeft:
            raise
        except SessionFailed as problem:
            observer.say(f"round {training_round + 1}: a session failed: {problem}")
            continue
        finally:
            if simulation is not None:
                simulation.refused(training_round + 1)
        for failure in result.failures:
            observer.say(f"round {training_round + 1}: goes on without a shard: {failure}")
        return result, failed + len(result.failures)
    again = "--resume" if simulation is not None else "`fgrpo server start`"
    raise RunStopped(f"round {training_round + 1} failed {ATTEMPTS} times; continue later with {again}")


def _renew(federation: Federation, training_round: int, observer: Observer) -> None:
    """A newer roster, or a new day, before every session: who is revoked or expired takes no part in it."""
    try:
        said = federation.renew()
    except (Refused, InfeasiblePlan) as problem:
        raise RunStopped(f"the run cannot go on after round {training_round}: {problem}") from None
    if said is not None:
        observer.say(f"round {training_round + 1}: {said}")
