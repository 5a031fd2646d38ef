"""Secret sampling: the planner's figures against accountants of other make, and against arithmetic without any."""

import math
from fractions import Fraction

import numpy as np
import pytest
from opacus.accountants import PRVAccountant
from scipy import integrate, stats

from fgrpo_secure.plan import cost as planner
from fgrpo_secure.plan.cost import InfeasiblePlan, Units
from fgrpo_secure.privacy import discrete_gaussian, sampled
from fgrpo_secure.privacy.accounting import epsilon_of
from fgrpo_secure.privacy.sampled import Sampling
from protocols.params import Adversary

COMMON = {
    "rounds": 12,
    "clients": 8,
    "clients_per_round": 8,
    "rounds_per_client": 12,
    "dimension": 1024,
    "unit": "subject",
    "delta": 1e-5,
    "clip_norm": 0.01,
    "adversary": Adversary.HONEST_BUT_CURIOUS,
    "max_corrupt": 0.05,
    "max_dropout": 0.125,
    "mean_weight": 1.0,
}


def planned(units, **changes):
    asked = {"epsilon": 8.0} if "noise_multiplier" not in changes else {}
    return planner.plan(planner.PlanRequest(**{**COMMON, **asked, **changes}, units=units))


def delta_once(rate, multiplier, epsilon):
    """delta of one sampled release by quadrature over the densities, the larger of both directions."""
    with_unit = lambda x: (1 - rate) * stats.norm.pdf(x, 0, multiplier) + rate * stats.norm.pdf(x, 1, multiplier)  # noqa: E731
    without = lambda x: stats.norm.pdf(x, 0, multiplier)  # noqa: E731
    spans = np.linspace(-12 * multiplier, 12 * multiplier + 1, 4001)
    pairs = ((with_unit, without), (without, with_unit))
    return max(integrate.trapezoid(np.maximum(p(spans) - math.exp(epsilon) * q(spans), 0), spans) for p, q in pairs)


@pytest.mark.parametrize(("rate", "multiplier"), [(0.1, 1.0), (0.5, 0.8)])
def test_one_sampled_release_costs_what_quadrature_says(rate, multiplier):
    epsilon = Sampling(rate, multiplier, 1).epsilon(1e-5)
    assert delta_once(rate, multiplier, epsilon) <= 1.001e-5
    assert delta_once(rate, multiplier, 0.99 * epsilon) > 1e-5


def test_many_releases_agree_with_opacus_prv_to_its_stated_error():
    ours = Sampling(0.1, 1.0, 100).epsilon(1e-5)
    theirs = PRVAccountant()
    theirs.history = [(1.0, 0.1, 100)]
    assert ours == pytest.approx(7.0466, abs=1e-3)
    assert ours <= theirs.get_epsilon(1e-5, eps_error=0.01) <= ours + 0.03


def test_rewards_and_gradients_of_one_sample_are_collapsed_before_sampling():
    """Sampling each by itself and composing would report less: too little."""
    rate, times = 0.1, 50
    joint = Sampling(rate, (1 / 4 + 1 / 9) ** -0.5, times).epsilon(1e-5)
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    apart = PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_SPECIAL, value_discretization_interval=1e-3)
    for multiplier in (2.0, 3.0):
        gaussian = dp_accounting.GaussianDpEvent(multiplier)
        apart.compose(dp_accounting.PoissonSampledDpEvent(rate, gaussian), times)
    assert joint > apart.get_epsilon(1e-5)
    priced = planned(
        Units(32, 12, rate=rate, reward_charge=Fraction(1, 9)), noise_multiplier=2.0, rounds=12, rounds_per_client=12
    )
    assert priced.claim.sampling.multiplier == pytest.approx((1 / 4 + 1 / 9) ** -0.5, rel=1e-4)


def test_the_plan_of_a_sampled_run_asks_for_the_least_noise_within_its_budget():
    plan = planned(Units(32, 12, rate=0.25))
    sampling = plan.claim.sampling
    assert sampling.releases == 12
    assert 7.99 < plan.claim.epsilon <= 8.0
    assert plan.claim.epsilon >= sampling.epsilon(1e-5)
    assert Sampling(0.25, 0.99 * sampling.multiplier, 12).epsilon(1e-5) > 8.0
    assert plan.claim.epsilon_replace_one > plan.claim.epsilon
    honest = (plan.parameters.floor - plan.parameters.colluders) * plan.share_variance
    assert sampling.multiplier == pytest.approx(math.sqrt((honest - 4) / plan.lattice.integer_bound**2), rel=1e-9)


def test_a_sampled_ledger_counts_releases_and_reports_what_those_cost():
    plan = planned(Units(32, 12, rate=0.25))
    charge = plan.round_charge
    assert 12 * charge == plan.claim.budget
    for done in (1, 5, 12):
        spent = plan.claim.odometer.read(done * charge)
        assert plan.claim.sampling.epsilon(1e-5, done) <= spent <= plan.claim.epsilon
    assert spent == plan.claim.epsilon, "all releases: what was planned"
    assert plan.claim.odometer.read(Fraction(0)) == 0.0


def test_without_sampling_a_unit_pays_for_the_rounds_it_takes_part_in_and_no_others():
    every, turns = planned(Units(32, 12)), planned(Units(32, 3))
    for plan, rounds in ((every, 12), (turns, 3)):
        assert plan.round_charge is None
        assert plan.claim.mu == pytest.approx(math.sqrt(rounds * plan.noise.charge), rel=1e-12)
        assert epsilon_of(plan.claim.mu, 1e-5) <= plan.claim.epsilon <= 8.0
    assert turns.noise.share_variance == pytest.approx(every.noise.share_variance / 4, rel=0.01)


def test_local_noise_is_a_clients_own_whoever_drops_out_or_colludes():
    plan = planned(Units(32, 12, releases=3, local=True))
    z = math.sqrt((plan.share_variance - 4) / plan.lattice.integer_bound**2)
    assert plan.claim.mu == pytest.approx(math.sqrt(36) / z, rel=1e-9)
    assert (plan.noise.floor, plan.noise.colluders) == (1, 0)
    assert plan.release_charge == plan.noise.settled(1)


def test_rewards_are_paid_for_out_of_the_same_budget():
    alone, both = planned(Units(32, 12)), planned(Units(32, 12, reward_charge=Fraction(1, 100)))
    assert both.claim.epsilon <= 8.0
    assert both.claim.mu == pytest.approx(alone.claim.mu, rel=1e-4)
    assert 12 * (both.noise.charge + Fraction(1, 100)) <= both.claim.budget
    assert both.noise.share_variance > alone.noise.share_variance
    with pytest.raises(InfeasiblePlan, match="rewards' noise alone"):
        planned(Units(32, 12, reward_charge=Fraction(1)))


def test_the_ring_holds_the_most_units_that_all_clients_may_bring():
    for per_client in (1, 32, 10_000):
        plan = planned(Units(per_client, 12))
        largest = discrete_gaussian.largest_sample(plan.share_variance)
        worst = 8 * ((per_client + 1) * plan.lattice.integer_bound + largest)
        assert worst < 2 ** (plan.ring_bits - 1)


def test_delta_is_measured_against_the_number_of_units():
    assert not planned(Units(32, 12)).warnings
    (warning,) = planned(Units(12_500, 12)).warnings
    assert "1 / subjects" in warning


def test_units_are_for_units_inside_a_client_only():
    with pytest.raises(ValueError, match="for them only"):
        planned(Units(32, 12), unit="client")
    with pytest.raises(ValueError, match="for them only"):
        planner.plan(planner.PlanRequest(**COMMON, epsilon=8.0))
    with pytest.raises(ValueError, match="at least 1"):
        planned(Units(0, 12))


GENERATOR = np.random.default_rng(16)
PROBLEMS = [
    (10 ** GENERATOR.uniform(-3, -0.01), int(10 ** GENERATOR.uniform(0, 3)), 10 ** GENERATOR.uniform(-0.7, 1.2), delta)
    for delta in 10 ** GENERATOR.uniform(-8, -4, 12)
]


@pytest.mark.parametrize(
    ("rate", "releases", "epsilon", "delta"), [(0.05, 5, 4.0, 1e-5), (0.98, 5, 4.0, 1e-5), *PROBLEMS]
)
def test_the_least_multiplier_keeps_within_the_budget_on_the_fine_grid_and_none_much_smaller_does(
    rate, releases, epsilon, delta
):
    found = sampled.least_multiplier(rate, releases, epsilon, delta)
    assert by_library(rate, found, releases, delta) <= epsilon
    assert (
        by_library(rate, (1 - 2 * sampled.TOLERANCE) * found, releases, (1 - 2 * sampled.TOLERANCE) * delta) > epsilon
    )


def by_library(rate, multiplier, releases, delta):
    """epsilon as the library computes it when it is asked directly."""
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_SPECIAL, value_discretization_interval=1e-3)
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier))
    return accountant.compose(event, releases).get_epsilon(delta)


def test_what_is_stated_of_a_sampled_plan_is_the_librarys_figure_on_the_fine_grid():
    claim = planned(Units(32, 12, rate=0.05)).claim
    sampling = claim.sampling
    left = claim.slack.left(claim.epsilon, claim.parts.planned)
    assert claim.epsilon >= by_library(0.05, sampling.multiplier, 12, claim.parts.planned)
    assert claim.epsilon == pytest.approx(by_library(0.05, sampling.multiplier, 12, left), rel=1e-9)


def test_a_coarse_figure_is_never_below_the_fine_one_and_is_where_the_search_begins(monkeypatch):
    for rate, multiplier, releases in ((0.01, 0.4, 12), (0.02, 1.0, 2000), (0.5, 3.0, 100)):
        asked = Sampling(rate, multiplier, releases)
        assert asked.epsilon(1e-5) <= asked.rough_epsilon(1e-5) <= 1.2 * asked.epsilon(1e-5)
    grids = []
    composed = sampled._composed.__wrapped__
    monkeypatch.setattr(sampled, "_composed", lambda *asked: grids.append(asked[-1]) or composed(*asked))
    sampled.least_multiplier(0.0123, 12, 7.7, 1e-5)
    assert grids.count(sampled.GRID) <= 4, "each costs ten times what one on the coarse grid does"
    again = len(grids)
    sampled.least_multiplier(0.0123, 12, 7.7, 1e-5 * (1 - 1e-9))
    assert len(grids) == again, "deltas that differ by less than the search resolves are one problem"
