"""The canary audit: all four figures of one run at epsilon 8, and the planted mistakes that it sees."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from fgrpo_secure.entropy import SeededEntropy
from fgrpo_secure.plan import cost as planner
from fgrpo_secure.plan.cost import Units
from fgrpo_secure.privacy import clip, discrete_gaussian, encode, noise
from fgrpo_secure.privacy.clip import ClippedUpdate
from protocols.params import Adversary
from threat_model.audit import canaries
from threat_model.audit.setting import NothingToAudit, setting

UNITS = {
    "client": None,
    "subject": Units(per_client=12, rounds=3),
    "prompt_group": Units(per_client=12, rounds=3, releases=2, local=True),
}


def audited(unit="client", epsilon=8.0, dimension=1_024, **inner):
    made = planner.plan(planner.PlanRequest(
        rounds=3, clients=8, clients_per_round=8, rounds_per_client=3, dimension=dimension, unit=unit, delta=1e-5,
        clip_norm=1.0, adversary=Adversary.LYING_SERVER, max_corrupt=0.05, max_dropout=0.1, mean_weight=1.0,
        epsilon=epsilon, units=UNITS[unit] and dataclasses.replace(UNITS[unit], **inner),
    ))  # fmt: skip
    return setting(made)


def run(what, seed=b"canaries", count=None):
    return canaries.audit(what, SeededEntropy(seed), count)


@pytest.mark.parametrize("unit", UNITS)
def test_at_epsilon_8_all_four_figures_are_there_and_no_bound_exceeds_the_claim(unit):
    found = run(audited(unit))
    assert found.passed
    assert found.trials == 500
    assert set(found.lower_bounds) == {"one_run", "one_run_gaussian_curve", "gaussian_clopper_pearson"}
    assert set(found.estimates) == {"gaussian_fit"}
    assert set(found.assumptions) == {*found.lower_bounds, *found.estimates}
    assert "no bound" in found.assumptions["gaussian_fit"]
    assert 1.5 < found.lower_bounds["one_run"] < found.lower_bounds["one_run_gaussian_curve"]
    assert 3.0 < found.lower_bounds["one_run_gaussian_curve"] < found.lower_bounds["gaussian_clopper_pearson"] < 8.0
    assert 7.0 < found.estimates["gaussian_fit"] < 9.2
    assert 150 < found.sensitivity <= found.sensitivity_bound


def test_an_estimate_above_the_claim_fails_nothing():
    found = run(audited())
    assert dataclasses.replace(found, estimates={"gaussian_fit": 99.0}).passed
    assert not dataclasses.replace(found, lower_bounds={"one_run": 8.1}).passed
    assert not dataclasses.replace(found, sensitivity=found.sensitivity_bound + 0.1).passed


def test_halved_noise_is_caught(monkeypatch):
    table = discrete_gaussian.table
    halved = {**vars(discrete_gaussian), "table": lambda variance: table(variance // 4)}
    monkeypatch.setattr(noise, "discrete_gaussian", SimpleNamespace(**halved))
    found = run(audited(epsilon=4.0))
    assert not found.passed
    assert found.lower_bounds["gaussian_clopper_pearson"] > found.claimed_epsilon


@pytest.mark.parametrize("unit", ["client", "subject"])
def test_missing_clips_are_caught_by_what_a_unit_changes(monkeypatch, unit):
    """Canaries ask for two clip norms: if nobody refuses, their change is twice as long and so are their scores."""
    real = encode.to_ring

    def unchecked(clipped, scores, lattice, rounding):
        looser = dataclasses.replace(lattice, clip_norm=clipped.bound)
        return dataclasses.replace(real(clipped, scores, looser, rounding), bound=lattice.integer_bound)

    monkeypatch.setattr(clip, "to_norm", lambda update, bound: ClippedUpdate(update.values, bound * 1e9))
    monkeypatch.setattr(encode, "within", lambda values, bound: True)
    monkeypatch.setattr(encode, "to_ring", unchecked)
    found = run(audited(unit, epsilon=4.0))
    assert found.sensitivity > 1.9 * found.sensitivity_bound
    assert found.lower_bounds["gaussian_clopper_pearson"] > found.claimed_epsilon
    assert not found.passed


def test_canaries_are_orthonormal_after_the_clip():
    what = audited(dimension=103)
    signs = np.where(np.arange(100).reshape(2, 50) % 3, 1.0, -1.0)
    rows = np.stack([canaries._canary(what, signs, number) for number in range(50)])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.allclose(unit @ unit.T, np.eye(50))
    assert np.allclose(np.linalg.norm(rows, axis=1), canaries.LOUD * what.lattice.clip_norm)


def test_how_many_guesses_are_made_depends_on_public_numbers_alone():
    generator = np.random.default_rng(3)
    present = generator.random(500) < 0.5
    scores = generator.normal(present.astype(float), 0.5)
    found, estimate = canaries.judge(scores, present, 2.0, 1e-5)
    assert 0 < found["one_run"] < found["one_run_gaussian_curve"]
    shuffled = generator.permutation(500)
    again, same = canaries.judge(scores[shuffled], present[shuffled], 2.0, 1e-5)
    assert again == found
    assert same == pytest.approx(estimate)
    assert canaries.guesses_of(500, 2.0, lambda guesses, right: 2 * right - guesses) == 500
    assert canaries.guesses_of(500, 2.0, lambda guesses, right: right / guesses) < 100


@pytest.mark.parametrize("count", [19, 513])
def test_too_few_canaries_and_more_than_there_is_room_for_are_refused(count):
    with pytest.raises(ValueError, match="20 to 512"):
        run(audited(), count=count)


def test_a_claim_on_secret_coins_is_refused_with_what_to_use_instead():
    with pytest.raises(NothingToAudit, match="audit mechanism"):
        run(dataclasses.replace(audited("subject"), rate=0.5))


def test_a_large_adapter_gets_fewer_canaries_so_that_an_audit_ends():
    assert canaries._affordable(audited(dimension=4_000_000)) == 250
    assert canaries._affordable(audited()) == 500
    assert canaries._affordable(audited(dimension=100)) == 50
