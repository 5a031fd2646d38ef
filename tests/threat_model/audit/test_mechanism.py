"""The mechanism audit passes what is right, and refutes each planted mistake that it is there to catch."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from fgrpo_secure.entropy import SeededEntropy
from fgrpo_secure.plan import cost as planner
from fgrpo_secure.plan.cost import Units
from fgrpo_secure.privacy import clip, discrete_gaussian, encode, noise, units
from fgrpo_secure.privacy.accounting import epsilon_of
from fgrpo_secure.privacy.clip import ClippedUpdate, Update
from fgrpo_secure.privacy.encode import EncodedVector
from protocols.params import Adversary
from threat_model.audit import mechanism
from threat_model.audit import units as inside
from threat_model.audit.setting import LOCAL_VIEW, NothingToAudit, setting

TRIALS = 60_000
UNITS = {
    "client": None,
    "subject": Units(per_client=12, rounds=3),
    "prompt_group": Units(per_client=12, rounds=3, releases=2, local=True),
}


def audited(unit="client", rate=None, epsilon=4.0, dimension=1_024, rounds=3):
    inner = UNITS[unit]
    if rate is not None:
        inner = dataclasses.replace(inner, rate=rate)
    made = planner.plan(planner.PlanRequest(
        rounds=rounds, clients=8, clients_per_round=8, rounds_per_client=rounds, dimension=dimension, unit=unit,
        delta=1e-5, clip_norm=1.0, adversary=Adversary.LYING_SERVER, max_corrupt=0.05, max_dropout=0.1, mean_weight=1.0,
        epsilon=None if unit == "none" else epsilon, units=inner,
    ))  # fmt: skip
    return setting(made)


def run(what, seed=b"audit", trials=TRIALS, encoder=inside.encoded):
    return mechanism.audit(what, SeededEntropy(seed), trials, encoder)


@pytest.mark.parametrize("unit", UNITS)
def test_right_code_at_epsilon_4_passes_and_shows_at_least_3_7(unit):
    what = audited(unit)
    found = run(what, trials=120_000)
    assert found.passed
    assert found.unit == unit
    assert 3.9 < found.claimed_epsilon <= 4.0
    assert 3.7 <= found.lower_bounds["gaussian_clopper_pearson"] < found.lower_bounds["gaussian_deviation"] <= 4.0
    assert 1.9 < found.lower_bounds["clopper_pearson"] < 4.0
    assert 0.98 * found.sensitivity_bound < found.sensitivity <= found.sensitivity_bound
    assert set(found.assumptions) == set(found.lower_bounds)


def test_the_view_says_who_looks_and_takes_the_fewest_honest_shares():
    what = audited()
    assert what.view == "the server and its colluders (1 of the clients), when rounds end with the fewest survivors, 8"
    assert (what.honest, what.colluders, what.releases) == (7, 1, 3)
    assert audited("prompt_group").view == LOCAL_VIEW
    assert (audited("prompt_group").honest, audited("prompt_group").releases) == (1, 6)
    with pytest.raises(NothingToAudit, match="no claim"):
        setting(SimpleNamespace(claim=None, noise=None))


def test_a_claim_on_secret_coins_is_audited_without_a_gaussian_form():
    found = run(audited("subject", rate=0.5), trials=5_000)
    assert found.passed
    assert set(found.lower_bounds) == {"clopper_pearson"}
    assert 0 < found.lower_bounds["clopper_pearson"] < found.claimed_epsilon


def planted_noise(monkeypatch, factor):
    table = discrete_gaussian.table
    monkeypatch.setattr(
        noise, "discrete_gaussian",
        SimpleNamespace(**{**vars(discrete_gaussian), "table": lambda variance: table(int(variance * factor**2))}),
    )  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_noise_of_nine_tenths_is_caught(monkeypatch, unit):
    planted_noise(monkeypatch, 0.9)
    found = run(audited(unit))
    assert not found.passed
    assert found.lower_bounds["gaussian_clopper_pearson"] > found.claimed_epsilon


def test_noise_of_97_hundredths_is_caught_by_its_deviation(monkeypatch):
    planted_noise(monkeypatch, 0.96)
    found = run(audited())
    assert found.lower_bounds["gaussian_deviation"] > found.claimed_epsilon


@pytest.mark.parametrize("unit", UNITS)
def test_an_update_that_nobody_clips_is_caught_if_the_encoder_checks_nothing_either(monkeypatch, unit):
    monkeypatch.setattr(clip, "to_norm", lambda update, bound: ClippedUpdate(update.values, bound * 1e9))
    monkeypatch.setattr(encode, "within", lambda values, bound: True)
    real = encode.to_ring

    def to_ring(clipped, scores, lattice, rounding):
        looser = dataclasses.replace(lattice, clip_norm=clipped.bound)
        return dataclasses.replace(real(clipped, scores, looser, rounding), bound=lattice.integer_bound)

    monkeypatch.setattr(encode, "to_ring", to_ring)
    found = run(audited(unit), trials=2_000)
    assert not found.passed
    assert found.sensitivity > 900 * found.sensitivity_bound
    assert found.lower_bounds["gaussian_clopper_pearson"] > found.claimed_epsilon


def test_an_update_that_nobody_clips_sends_zero_as_long_as_the_encoder_checks(monkeypatch):
    """Either check is enough: the audit then finds less than the claim, not more."""
    monkeypatch.setattr(clip, "to_norm", lambda update, bound: ClippedUpdate(update.values, bound))
    assert run(audited(), trials=2_000).passed


def test_noise_for_half_the_sensitivity_is_caught(monkeypatch):
    """A plan that takes half the integer bound for the sensitivity asks for half the noise and claims the same."""
    build = noise.NoisePlan.build

    def halved(lattice, multiplier, floor, colluders):
        return build(
            dataclasses.replace(lattice, integer_bound=lattice.integer_bound // 2), multiplier, floor, colluders
        )

    monkeypatch.setattr(noise.NoisePlan, "build", staticmethod(halved))
    found = run(audited(), trials=5_000)
    assert 3.9 < found.claimed_epsilon <= 4.0
    assert not found.passed
    assert found.lower_bounds["gaussian_clopper_pearson"] > 6


def test_noise_that_all_clients_share_is_caught_by_a_colluder_who_takes_its_own_away(monkeypatch):
    """Without the colluder the sum has even more noise than it should, and every other test passes."""
    real = noise.add_share

    def shared(encoded, variance, entropy):
        session = dataclasses.replace(entropy, path=entropy.path[:2])  # without the client
        return real(encoded, variance, session)

    monkeypatch.setattr(noise, "add_share", shared)
    found = run(audited(), trials=2_000)
    assert not found.passed
    assert found.lower_bounds["gaussian_clopper_pearson"] > found.claimed_epsilon
    alone = run(dataclasses.replace(audited(), colluders=0), trials=2_000)
    assert alone.passed


def after_the_sum(what, updates, rounding):
    """A client that adds its units up before it rounds."""
    lattice = what.lattice
    total = sum(
        (clip.to_norm(Update(each), lattice.clip_norm).values for each in updates.values()),
        start=np.zeros(lattice.dimension),
    )
    rounded = encode._round_at_random(total, lattice.scale, np.empty(0), rounding.bytes(32, "sum"))
    return np.concatenate([rounded, np.zeros(lattice.scores, np.int64)])


def test_rounding_after_the_sum_is_caught_by_comparing_neighbours():
    """Then one unit moves the rounding of all others, and what it changes has no bound that is checked. In few
    dimensions chance makes that longer than the bound; in many, the test below is what catches it.
    """
    what = audited("subject", dimension=36)
    found = run(what, trials=200, encoder=after_the_sum)
    assert found.sensitivity > found.sensitivity_bound
    assert not found.passed
    assert run(what, trials=200).passed


@pytest.mark.parametrize("dimension", [36, 1_024])
def test_taking_a_unit_away_changes_its_own_integers_and_nothing_else(dimension):
    what, coins = audited("subject", dimension=dimension), SeededEntropy(b"neighbours")
    canary = inside.dense(what.lattice, np.ones(dimension))
    own = inside._one(canary, [encode.Score(0.0, -1.0, 1.0)] * 2, what.lattice, coins.child("unit", inside.CANARY))
    assert np.array_equal(inside.difference(what, canary, coins), own.values)
    assert not np.array_equal(inside.difference(what, canary, coins, after_the_sum), own.values)


def test_the_coordinates_of_a_share_are_made_of_words_of_their_own():
    """What the audit's independent trials rest on: coordinate k is what a share of k + 1 coordinates ends with, and no
    two coordinates are related.
    """
    table, key = discrete_gaussian.table(1_000), bytes(range(32))
    share = discrete_gaussian.sample(table, 100_000, key)
    for length in (1, 17, 40_000):
        assert np.array_equal(discrete_gaussian.sample(table, length, key), share[:length])
    for lag in (1, 2, 7, 1 << 14):
        correlation = float(np.dot(share[lag:], share[:-lag])) / (1_000 * (share.size - lag))
        assert abs(correlation) < 4.5 / np.sqrt(share.size - lag)


def test_adding_noise_reads_nothing_that_it_is_added_to():
    values = np.arange(-500, 500)
    what = SeededEntropy(b"share")
    nothing = noise.add_share(EncodedVector(np.zeros(1_000, np.int64), 163), 5_000, what)
    something = noise.add_share(EncodedVector(values, 163), 5_000, what)
    assert np.array_equal(something.values - nothing.values, values)


def test_too_few_trials_are_refused():
    with pytest.raises(ValueError, match="at least 100"):
        run(audited(), trials=99)


@pytest.mark.parametrize("unit", ["client", "subject"])
def test_what_a_unit_changes_in_the_audit_is_what_the_products_own_functions_make_of_it(unit):
    """The audit's path to a client's integers is clip, weight 1, encode and, inside a client, the sum over units."""
    what, coins = audited(unit), SeededEntropy(b"neighbours")
    canary = inside.spike(what.lattice, 5, 3.0)
    changed = inside.difference(what, canary, coins)
    assert changed[5] in (159, 160)
    assert np.count_nonzero(changed[: what.lattice.dimension]) == 1
    own = encode.to_ring(
        clip.to_norm(Update(canary), what.lattice.clip_norm).times(1.0),
        [encode.Score(1.0 if unit == "client" else 0.0, -1.0, 1.0)] * 2,
        what.lattice,
        coins if unit == "client" else coins.child("unit", inside.CANARY),
    )
    assert np.array_equal(changed, own.values)
    assert units.reward_charge(None) == 0


def test_the_bound_in_epsilon_is_that_of_the_same_gaussian():
    found = run(audited(), trials=5_000)
    assert found.lower_bounds["gaussian_deviation"] < epsilon_of(audited().mu, 1e-5)
