"""Whole rounds in one process: exact sums whoever is lost, liars and budgets that end a round or a run cleanly."""

import itertools
import json
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from fgrpo_secure.client.participant import Participant
from fgrpo_secure.engines.faults import Faults, Faulty
from fgrpo_secure.ledger.store import Ledgers
from fgrpo_secure.privacy.accounting import BudgetExceeded
from fgrpo_secure.server.stages import SessionFailed
from protocols.wire import Step

pytestmark = pytest.mark.slow  # whole runs: seconds each

STEPS = [step.value for step in Step]
EVERYBODY = set(range(8))
WITHOUT_PRIVACY = "privacy.unit=none"


def assert_exact(session):
    """The total is the sum of what the survivors' clients noted, integer by integer."""
    survivors = session.result.recovered.survivors
    assert set(survivors) <= set(session.noised)
    np.testing.assert_array_equal(session.total, sum(session.noised[client].values for client in survivors))


# ----------------------------------------------------------------------------------------------------------- the sum


def test_the_recovered_sum_is_exact_for_losses_at_every_step_and_every_pair_of_steps(trial, trains_once):
    federation = trial.federation("federation.rounds=21", "privacy.epsilon=100.0")
    pairs = itertools.combinations_with_replacement(STEPS, 2)
    patterns = [[], *([(step, 4)] for step in STEPS), *([(first, 1), (second, 6)] for first, second in pairs)]
    for training_round, pattern in enumerate(patterns):
        lost = {step: {client for at, client in pattern if at == step} for step in STEPS}
        session = trial.conduct(federation, training_round, lost=lost)
        assert_exact(session)
        without_upload = {client for step, client in pattern if STEPS.index(step) <= STEPS.index("mask")}
        assert set(session.result.recovered.survivors) == EVERYBODY - without_upload


@pytest.mark.parametrize("step", STEPS)
def test_lost_repeated_and_damaged_messages_end_in_an_exact_sum_or_in_a_failed_session(trial, trains_once, step):
    federation = trial.federation(WITHOUT_PRIVACY, "federation.rounds=6")
    wishes = {f"{step}.drop": 0.15, f"{step}.corrupt": 0.15, f"{step}.duplicate": 0.5}
    federation.engine = Faulty(federation.engine, Faults(wishes, seed=3))
    sums = 0
    for training_round in range(6):
        before = federation.adapted.get_vector(0)
        try:
            session = trial.conduct(federation, training_round)
        except SessionFailed:
            np.testing.assert_array_equal(federation.adapted.get_vector(0), before)
            continue
        assert_exact(session)
        sums += 1
    assert sums >= 2


def test_too_many_losses_fail_every_attempt_of_a_round_without_moving_the_model(trial, trains_once):
    federation = trial.federation(WITHOUT_PRIVACY)
    before = federation.adapted.get_vector(0)
    for step in STEPS:
        with pytest.raises(SessionFailed, match=rf"step {step}: 4 clients remain, [56] are needed"):
            trial.conduct(federation, lost={step: {0, 1, 2, 3}})
    np.testing.assert_array_equal(federation.adapted.get_vector(0), before)


@pytest.mark.parametrize("clip_norm", [0.02, 1.0])  # the first clips most updates, the second none
def test_the_decoded_sum_differs_from_the_float_sum_by_rounding_alone(trial, clip_norm):
    """Rounding moves a coordinate by less than one lattice step of 1 / scale, with variance at most a quarter of it.

    So the error of a sum over n clients is below n steps per coordinate and n sqrt(d) steps in norm, always; and its
    root mean square is about sqrt(n) / 2 steps, of which 1.25 times is 6 standard errors away at d = 256.
    """
    softmax = "weighting.rule=softmax"
    federation = trial.federation(WITHOUT_PRIVACY, softmax, f"privacy.clip_norm={clip_norm}", "federation.rounds=4")
    for training_round in range(4):
        session = trial.conduct(federation, training_round, lost={"mask": {training_round}})
        survivors = session.result.recovered.survivors
        learned = [session.learned[client] for client in survivors]
        norms = [np.linalg.norm(one.update.values) for one in learned]
        assert sum(norm > clip_norm for norm in norms) >= 3 if clip_norm < 1 else max(norms) < clip_norm
        exact = sum(
            one.weight * one.update.values / max(1.0, norm / clip_norm)
            for one, norm in zip(learned, norms, strict=True)
        )
        count, dimension = len(survivors), exact.size
        steps = 5 * math.sqrt(dimension) / clip_norm
        mean = session.result.conclusion.mean
        error = (mean.update * mean.mean_weight * count - exact) * steps
        assert np.abs(error).max() < count
        assert np.linalg.norm(error) < count * math.sqrt(dimension)
        assert np.sqrt(np.mean(error**2)) < 1.25 * math.sqrt(count) / 2
        score_step = 0.1 * 5 * math.sqrt(dimension)  # a score's half range on the lattice
        assert abs(mean.mean_weight - np.mean([one.weight for one in learned])) < 0.25 / score_step
        assert abs(mean.mean_gain - np.mean([one.gain for one in learned])) < 2.0 / score_step
    assert len({one.weight for one in learned}) > 2, "by now the weights differ"


def test_weights_that_are_all_equal_give_the_plain_mean(trial):
    federation = trial.federation(WITHOUT_PRIVACY, "weighting.rule=uniform", "federation.rounds=4")
    for training_round in range(4):
        session = trial.conduct(federation, training_round)
        updates = [one.update.values for one in session.learned.values()]
        steps = 5 * math.sqrt(updates[0].size)
        assert np.abs(session.result.conclusion.mean.update - np.mean(updates, axis=0)).max() < 1 / steps


def test_the_next_model_is_the_last_one_plus_the_server_step_of_the_mean(trial):
    federation = trial.federation(WITHOUT_PRIVACY, "server.learning_rate=2.5")
    before = federation.adapted.get_vector(0)
    session = trial.conduct(federation)
    expected = before + 2.5 * session.result.conclusion.mean.update
    np.testing.assert_allclose(federation.adapted.get_vector(0), expected, rtol=1e-6, atol=1e-9)


# --------------------------------------------------------------------------------------------------- liars and budgets


@pytest.fixture
def liar(monkeypatch):
    """Client 3 adds `liar["by"]` to a coordinate after clip and noise, in its first `liar["rounds"]` rounds."""
    wish = {"by": 1500, "rounds": 1}
    original = Participant._contribution

    def lie(participant, plan):
        made = original(participant, plan)
        if participant._owner.id != 3 or wish["rounds"] == 0:
            return made
        wish["rounds"] -= 1
        values = made.vector.values.copy()
        values[0] += wish["by"]
        return replace(made, vector=replace(made.vector, values=values))

    monkeypatch.setattr(Participant, "_contribution", lie)
    return wish


def settled_at(variance, bound, survivors, colluders=1):
    """mu^2 of a round: B^2 / (V - 4), V the variance of all honest shares."""
    return Fraction(bound**2, (survivors - colluders) * variance - 4)


def ledger_of(path, owner):
    ledgers = Ledgers(path)
    return ledgers, ledgers.open(owner, ledgers.last_row(owner).filter.budget)


def test_a_sum_beyond_its_bound_is_refused_and_charged_and_the_next_session_goes_on(trial, liar):
    federation = trial.federation("federation.rounds=5")
    before = federation.adapted.get_vector(0)
    with pytest.raises(SessionFailed, match="exceeds its norm bound"):
        trial.conduct(federation)
    np.testing.assert_array_equal(federation.adapted.get_vector(0), before)
    shares = trial.sessions[0].noised[0]
    at_worst = settled_at(shares.share_variance, shares.bound, survivors=6)
    assert federation.ledger.spent() == at_worst
    session = trial.conduct(federation)
    assert_exact(session)
    assert federation.ledger.spent() == at_worst + settled_at(shares.share_variance, shares.bound, survivors=8)
    federation.ledger.verify()


def test_a_lie_within_the_bound_moves_the_model_by_no_more_than_itself(trial, liar):
    liar["by"] = 100
    federation = trial.federation(WITHOUT_PRIVACY)
    session = trial.conduct(federation)
    honest = sum(vector.values for vector in session.noised.values())
    lie = (session.total - honest)[: federation.adapted.dimension(0)]
    assert np.linalg.norm(lie) == 100


def test_without_privacy_too_a_sum_beyond_its_bound_fails_its_session_alone(trial, liar):
    liar["by"] = 1000  # the ring is smaller without noise: a larger lie would wrap around to a smaller one
    trial.run(WITHOUT_PRIVACY)
    assert [line for line in trial.lines if "exceeds its norm bound" in line]
    assert [session.result is None for session in trial.sessions] == [True, False, False]


def test_a_run_whose_budget_is_spent_stops_cleanly_and_keeps_what_it_has(trial, liar):
    """The lie costs one of the two sessions that the budget covers at the worst; two more do not fit any longer."""
    directory = trial.run()
    summary = json.loads(directory.summary.read_text())
    assert summary["stopped"] == "budget spent"
    assert summary["rounds"] == 1 == len(directory.read_metrics())
    assert summary["pass_rate.final"] is not None
    assert (directory.adapter / "adapter_model.safetensors").is_file()
    assert any("budget" in line for line in trial.lines)
    assert summary["privacy.epsilon_spent"] <= summary["privacy.epsilon_server"]


def test_no_session_is_ever_charged_less_than_the_noise_in_it_allows(trial, liar):
    directory = trial.run("federation.rounds=4", "privacy.epsilon=80.0")
    sessions = [session for session in trial.sessions if session.noised]
    due = Fraction(0)
    for session in sessions:
        shares = session.noised[0]
        survivors = len(session.result.recovered.survivors) if session.result else 6
        due += settled_at(shares.share_variance, shares.bound, survivors)
    store, server = ledger_of(directory.ledger, "server")
    server.verify()
    assert server.spent() == due > 0
    store.close()
    for client in EVERYBODY:
        store, own = ledger_of(directory.owners / "host-0" / "ledgers.sqlite", str(client))
        own.verify()
        # Clients learn who survived, not whether the server liked the sum: they settle the refused session, too.
        least = sum(settled_at(shares.share_variance, shares.bound, 8) for _ in sessions)
        assert least <= own.spent() <= own.budget()
        store.close()


def test_a_round_that_the_budget_does_not_cover_is_refused_before_a_message_leaves(trial):
    federation = trial.federation("federation.rounds=1")
    trial.conduct(federation)
    spent, size = federation.ledger.spent(), federation.ledger.size()
    with pytest.raises(BudgetExceeded):
        trial.conduct(federation)
    assert trial.sessions[-1].messages == []
    assert (federation.ledger.spent(), federation.ledger.size()) == (spent, size)


def test_a_session_that_ends_before_any_upload_is_refunded(trial):
    federation = trial.federation()
    with pytest.raises(SessionFailed):
        trial.conduct(federation, lost={"share": {0, 1, 2, 3}})
    assert federation.ledger.spent() == 0
    with pytest.raises(SessionFailed):
        trial.conduct(federation, lost={"agree": {0, 1, 2, 3}})
    assert federation.ledger.spent() > 0, "uploads had left: the masks may be opened one day"
