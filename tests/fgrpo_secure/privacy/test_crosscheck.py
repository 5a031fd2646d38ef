"""Other accountants beside ours: they bracket it, the integer formulas follow their sources, and traps stay known."""

import inspect
import math
from fractions import Fraction

import dp_accounting  # type: ignore[import-untyped]  # it ships no types
import pytest
from dp_accounting.pld import PLDAccountant  # type: ignore[import-untyped]  # as above
from dp_accounting.rdp import RdpAccountant  # type: ignore[import-untyped]  # as above

from fgrpo_secure.config import files as config_file
from fgrpo_secure.plan import adapter_shape, run_plan
from fgrpo_secure.privacy import crosscheck
from fgrpo_secure.privacy.accounting import epsilon_of, round_mu_squared
from fgrpo_secure.privacy.crosscheck import Noise
from fgrpo_secure.privacy.encode import Lattice
from fgrpo_secure.privacy.noise import NoisePlan

LARGE = {"clients": 1000, "multiplier": 8.0, "rounds": 50, "delta": 1e-6, "dimension": 10**7}


def lattice_noise(scores):
    """The noise whose deviation is 8 clip norms, whatever rounding does to the bound."""
    lattice = Lattice.build(LARGE["dimension"], 1.0, scores)
    variance = math.ceil((LARGE["multiplier"] * lattice.scale) ** 2 / LARGE["clients"])
    return Noise(lattice.integer_bound, lattice.length, LARGE["clients"], variance)


def charged(noise):
    return epsilon_of(math.sqrt(LARGE["rounds"] * round_mu_squared(noise.bound, noise.total)), LARGE["delta"])


def test_what_integers_and_scores_cost_beyond_the_ideal_gaussian():
    ideal = epsilon_of(math.sqrt(LARGE["rounds"]) / LARGE["multiplier"], LARGE["delta"])
    assert ideal == pytest.approx(4.249, abs=1e-3)
    assert 1 < charged(lattice_noise(0)) / ideal <= 1.006  # the update alone
    assert 1 < charged(lattice_noise(2)) / ideal <= 1.02  # with weight and gain in the same vector


def test_the_lemma_is_tighter_than_concentrated_privacy_and_than_skellam_noise():
    noise = lattice_noise(0)
    zcdp = crosscheck.discrete_gaussian_epsilon(noise, LARGE["rounds"], LARGE["delta"])
    skellam = crosscheck.skellam_epsilon(noise, LARGE["rounds"], LARGE["delta"])
    assert zcdp == pytest.approx(4.569, abs=2e-3)
    assert skellam == pytest.approx(4.586, abs=2e-3)  # its extra terms vanish; integer orders cost the rest
    assert charged(noise) == pytest.approx(4.273, abs=2e-3)


@pytest.mark.parametrize(("multiplier", "rounds", "delta"), [(2.25, 12, 1e-5), (8.0, 50, 1e-6)])
def test_libraries_bracket_the_claim_of_record(multiplier, rounds, delta):
    lattice = Lattice.build(1024, 1.0)
    plan = NoisePlan.build(lattice, multiplier, floor=230, colluders=13)
    noise = Noise(lattice.integer_bound, lattice.length, 217, plan.share_variance)
    charged_multiplier = 1 / math.sqrt(plan.charge)
    ours = epsilon_of(math.sqrt(rounds * plan.charge), delta)
    found = crosscheck.figures(ours, charged_multiplier, noise, rounds, delta)
    assert ours <= found.pld * (1 + 1e-9) <= ours * 1.001
    assert ours <= found.prv <= ours + 0.02
    for looser in (found.rdp, found.zcdp, found.skellam):
        assert ours < looser < 1.1 * ours
    assert found.facts()["privacy.crosscheck.pld"] == found.pld


def test_beyond_any_protection_no_figure_is_stated():
    noise = Noise(161, 1026, 5, 16)
    assert crosscheck.figures(51.0, 0.1, noise, 12, 1e-5) == crosscheck.NOTHING
    assert crosscheck.figures(1.0, 8.0, noise, 12, 0.11) == crosscheck.NOTHING


@pytest.mark.parametrize("delta", [0.1, 1e-30, 1e-300, 5e-324])
@pytest.mark.parametrize("multiplier", [0.3, 8.0, 1e4])
def test_an_accountant_that_cannot_hold_a_delta_states_no_figure_instead_of_failing(multiplier, delta):
    found = crosscheck.figures(1.0, multiplier, None, 12, delta)
    assert all(figure is None or 0 <= figure < math.inf for figure in found.facts().values())
    assert delta > 1e-12 or found.prv is None  # PRV refuses them; what it says of 0.1 may not be negative


def test_concentrated_privacy_equals_dp_accountings():
    noise = Noise(100, 1, 1, 160_000)  # one share: no tau
    accountant = RdpAccountant(orders=crosscheck.ORDERS)
    accountant.compose(dp_accounting.ZCDpEvent(30 * 100**2 / 160_000 / 2))
    assert crosscheck.discrete_gaussian_epsilon(noise, 30, 1e-5) == pytest.approx(
        accountant.get_epsilon(1e-5), rel=1e-9
    )


def test_small_shares_pay_for_not_adding_up_to_one_discrete_gaussian():
    few, many = Noise(10, 100, 4, 1), Noise(10, 100, 1, 4)
    assert crosscheck.discrete_gaussian_epsilon(few, 1, 1e-5) > crosscheck.discrete_gaussian_epsilon(many, 1, 1e-5)


def test_skellam_noise_pays_for_the_l1_norm_where_it_is_coarse():
    coarse, fine = Noise(4, 1000, 1, 64), Noise(4000, 1000, 1, 64 * 10**6)
    excess = [
        crosscheck.skellam_epsilon(noise, 10, 1e-5) / crosscheck.discrete_gaussian_epsilon(noise, 10, 1e-5)
        for noise in (coarse, fine)
    ]
    assert excess[0] > 1.01 * excess[1] > 1.01


def test_releases_of_one_cohort_are_joined_before_sampling_and_one_by_one_they_would_report_too_little():
    multipliers, rate, rounds, delta = [20.0, 24.0, 4.0], 0.1, 50, 1e-6
    joined = crosscheck.collapsed(multipliers)
    assert joined == pytest.approx(float(sum(Fraction(1, int(z) ** 2) for z in multipliers)) ** -0.5)

    def sampled(*each):
        accountant = PLDAccountant(value_discretization_interval=1e-3)
        for multiplier in each:
            event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier))
            accountant.compose(event, rounds)
        return accountant.get_epsilon(delta)

    assert sampled(joined) > sampled(*multipliers)  # the second is the tempting, wrong one


def test_sampling_of_a_fixed_size_is_unknown_to_pld_so_no_claim_rests_on_it():
    event = dp_accounting.SampledWithoutReplacementDpEvent(100, 10, dp_accounting.GaussianDpEvent(1.0))
    assert not PLDAccountant().supports(event)
    several = dp_accounting.ComposedDpEvent([dp_accounting.GaussianDpEvent(1.0)] * 2)
    assert not PLDAccountant().supports(dp_accounting.PoissonSampledDpEvent(0.1, several))  # join them first


def test_the_accountant_that_reports_too_little_has_no_part_in_any_figure():
    source = inspect.getsource(crosscheck)
    assert "GaussianAccountant" not in source
    assert "REPLACE_ONE)" not in source


BASE = """[[client]]
name = "add"
task = "add"
count = 64
rows = 4
[federation]
rounds = 6
[grpo]
prompts_per_step = 1
[privacy]
unit = "prompt_group"
epsilon = 6.0
"""
REWARDS = "[weighting]\nrule = 'softmax'\nreward_range = [0.0, 1.0]\nreward_noise_multiplier = 30.0\n"


@pytest.mark.parametrize(
    ("more", "compared", "integers"),
    [("", True, True), ("sampling_rate = 0.5\n", False, False), (REWARDS, True, False)],
)
def test_each_kind_of_claim_is_compared_by_what_can_state_it(tmp_path, more, compared, integers):
    path = tmp_path / "units.toml"
    path.write_text(BASE + more)
    config = config_file.load(str(path))
    privacy = run_plan.plan(config, adapter_shape.read(config.model.path, config.adapter))
    facts = run_plan.crosscheck(privacy)
    assert (facts["privacy.crosscheck.pld"] is not None) == compared
    assert (facts["privacy.crosscheck.zcdp"] is not None) == integers
    if compared:
        assert facts["privacy.crosscheck.pld"] == pytest.approx(privacy.claim.epsilon, rel=2e-3)
    if integers:
        assert facts["privacy.crosscheck.zcdp"] > privacy.claim.epsilon


@pytest.mark.parametrize("noise", [Noise(1, 400, 1, 1), Noise(2, 3, 1, 4), Noise(3, 9, 2, 40), Noise(5, 2, 3, 1000)])
@pytest.mark.parametrize("rounds", [1, 4])
def test_skellam_noise_costs_what_its_theorem_says_at_the_best_whole_order(noise, rounds):
    """Written again from Theorem 3.5, both of its two extra terms deciding in one of the cases."""
    variance = noise.shares * noise.variance
    l2, l1 = noise.bound, noise.bound * min(math.sqrt(noise.length), noise.bound)
    best = math.inf
    for order in range(2, 513):
        first = ((2 * order - 1) * l2**2 + 6 * l1) / (4 * variance**2)
        divergence = order * l2**2 / (2 * variance) + min(first, 3 * l1 / (2 * variance))
        epsilon = rounds * divergence + math.log(1 - 1 / order) - math.log(order * 1e-5) / (order - 1)
        best = min(best, epsilon)
    assert crosscheck.skellam_epsilon(noise, rounds, 1e-5) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("noise", [Noise(1, 400, 1, 1), Noise(40, 10, 5, 9), Noise(40, 10**6, 2, 4)])
def test_the_discrete_gaussian_costs_what_its_theorem_says_at_the_best_order(noise):
    """Written again from Theorem 9: of its two bounds in the L2 norm, one decides in one case and one in another."""
    tau = 10 * sum(math.exp(-2 * math.pi**2 * noise.variance * k / (k + 1)) for k in range(1, noise.shares))
    alone = noise.bound / math.sqrt(noise.shares * noise.variance)
    joint = alone + tau * math.sqrt(noise.length)
    best = math.inf
    for order in crosscheck.ORDERS:
        divergence = min(order * alone**2 / 2 + tau * noise.length, order * joint**2 / 2)
        best = min(best, 3 * divergence + math.log(1 - 1 / order) - math.log(order * 1e-5) / (order - 1))
    assert crosscheck.discrete_gaussian_epsilon(noise, 3, 1e-5) == pytest.approx(best, rel=1e-9)


def test_where_nothing_can_be_stated_every_figure_is_there_and_empty():
    names = [f"privacy.crosscheck.{method}" for method in ("pld", "prv", "rdp", "zcdp", "skellam")]
    assert crosscheck.figures(51.0, 0.1, None, 12, 1e-5).facts() == dict.fromkeys(names)
