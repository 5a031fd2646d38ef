"""What a crash may not forget and a resumed run may not change: charges, adapters, and who may open a run's files."""

import json
from fractions import Fraction

import pytest

from fgrpo_secure.client.participant import Participant
from fgrpo_secure.engines.embedded import Embedded
from fgrpo_secure.evidence import verify
from fgrpo_secure.learning.grpo.rewards import RewardError
from fgrpo_secure.learning.pass_rates import Examination
from fgrpo_secure.ledger.store import Ledgers
from fgrpo_secure.plan import terms
from fgrpo_secure.run import training
from fgrpo_secure.storage import checkpoint, rosters
from fgrpo_secure.storage.run_directory import RunDirectory
from protocols.errors import Refused


def client_ledgers(directory, host=0):
    """Client -> (its entries, what it spent); every ledger must verify."""
    ledgers = Ledgers(directory.owners / f"host-{host}" / "ledgers.sqlite")
    found = {}
    for owner in ledgers.owners():
        ledger = ledgers.open(owner, ledgers.last_row(owner).filter.budget)
        ledger.verify()
        found[int(owner)] = ([row.entry for row in ledgers.rows(owner)], ledger.spent())
    ledgers.close()
    return found


# ----------------------------------------------------------------------------------------------------------- charges


def test_a_client_lost_after_its_upload_stays_charged_through_later_sessions_and_a_crash(trial):
    federation = trial.federation("federation.rounds=3", "privacy.epsilon=80.0")
    trial.conduct(federation, lost={"agree": {3}})
    trial.conduct(federation, training_round=1)  # its first message deletes the answers of the session before
    trial.engines.pop().close()
    trial.engines.append(Embedded.start(federation.directory, federation.config))
    trial.engines[-1].recover([])
    entries, spent = client_ledgers(federation.directory)[3]
    intents = [Fraction(entry["charge"]) for entry in entries if entry["kind"] == "intent"]
    ends = [Fraction(entry["charge"]) for entry in entries if entry["kind"] in ("settled", "aborted")]
    assert ends[0] == intents[0] > 0
    assert spent == sum(ends)


def test_a_client_gets_back_the_charge_of_a_session_that_ended_before_its_upload(trial):
    federation = trial.federation("federation.rounds=3", "privacy.epsilon=80.0")
    trial.conduct(federation, lost={"mask": {3}})
    _, charged = client_ledgers(federation.directory)[3]
    trial.conduct(federation, training_round=1)
    entries, spent = client_ledgers(federation.directory)[3]
    aborted = [entry for entry in entries if entry["kind"] == "aborted"]
    assert charged > 0
    assert [Fraction(entry["charge"]) for entry in aborted] == [0]
    assert spent == Fraction(entries[-1]["charge"])


class PulledPlug(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("step", ["basis.read", "summary.derived", "page.render", "manifest.write"])
def test_a_run_that_ended_early_and_crashed_before_it_was_published_asks_nobody_again(trial, monkeypatch, step):
    """Its clients signed that end: another session would be one that no auditor is shown."""
    accept = Participant.accept

    def willing_once(participant, message, adapted):
        plan = accept(participant, message, adapted)
        if terms.training_round(plan) > 0:
            raise Refused("rounds.min_cohort: this owner has changed its mind")
        return plan

    def pulled(*_):
        raise PulledPlug

    monkeypatch.setattr(Participant, "accept", willing_once)
    with monkeypatch.context() as crash:
        crash.setattr(
            f"fgrpo_secure.run.publish.{step}" if "page" not in step else "fgrpo_secure.report.page.render", pulled
        )
        with pytest.raises(PulledPlug):
            trial.run("federation.rounds=3", "privacy.epsilon=80.0")
    directory, asked = RunDirectory(trial.folder / "run"), len(trial.sessions)
    monkeypatch.setattr(Participant, "accept", accept)
    training.resume(directory, trial)
    summary = json.loads(directory.summary.read_text())
    assert summary["rounds"] == 1
    assert "refused" in summary["stopped"]
    assert len(trial.sessions) == asked
    list(verify.verify(directory, verify.Trust(rosters.pins(directory).authority)))


@pytest.mark.parametrize("problem", [RewardError("one completion could not be marked"), PulledPlug()], ids=repr)
def test_what_was_paid_is_kept_before_an_examination_can_fail(trial, monkeypatch, problem):
    """Once after round 1: before, the round was in no checkpoint, and was paid for again."""
    taken, take = [], Examination.take

    def failing(examination, *rest):
        taken.append(1)
        if len(taken) == 2:
            raise problem
        return take(examination, *rest)

    monkeypatch.setattr(Examination, "take", failing)
    try:
        directory = trial.run("evaluation.every=1")
    except PulledPlug:
        directory = RunDirectory(trial.folder / "run")
        assert checkpoint.latest(directory.checkpoints).rounds_done == 1
        training.resume(directory, trial)
    lines = directory.read_metrics()
    assert [line["round"] for line in lines] == [1, 2]
    assert lines[0]["reward"] is None
    assert lines[1]["reward"] is not None
    ledger = Ledgers.read(directory.ledger).existing("server")
    kinds = [entry["kind"] for entry in ledger.entries()]
    ledger.close()
    assert kinds.count("intent") == kinds.count("settled") == 2, "nothing was paid twice"
