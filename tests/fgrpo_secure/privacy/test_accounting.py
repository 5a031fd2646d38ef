"""Accounting: closed forms against high precision and other libraries, the lemma's constants, the filter."""

import contextlib
import math
from fractions import Fraction

import dp_accounting  # type: ignore[import-untyped]  # it ships no types
import mpmath  # type: ignore[import-untyped]  # it ships no types
import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from dp_accounting.pld import PLDAccountant  # type: ignore[import-untyped]  # as above
from dp_accounting.rdp import RdpAccountant  # type: ignore[import-untyped]  # as above
from hypothesis import given
from hypothesis import strategies as st
from opacus import accountants as opacus  # type: ignore[import-untyped]  # it ships no types

from fgrpo_secure.privacy.accounting import (
    LEMMA_VARIANCE,
    THETA,
    BudgetExceeded,
    Filter,
    Slack,
    delta_of,
    epsilon_of,
    mu_of,
    replace_one,
    round_mu_squared,
    sum_of_shares_log_ratio,
)
from fgrpo_secure.privacy.discrete_gaussian import TABLE_DISTANCE

DELTAS = [1e-12, 1e-6, 1e-5, 0.01]


def gaussian_event(multiplier, rounds):
    return dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(multiplier), rounds)


# ---------------------------------------------------------------------------------- (epsilon, delta) of mu-GDP


@pytest.mark.parametrize("mu", [0.01, 0.3, 1.0, 1.6, 5.0, 40.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.04, 1.0, 8.0, 60.0, 600.0])
def test_delta_equals_the_closed_form_in_high_precision(mu, epsilon):
    with mpmath.workdps(400):
        m, e = mpmath.mpf(mu), mpmath.mpf(epsilon)
        exact = mpmath.ncdf(-e / m + m / 2) - mpmath.exp(e) * mpmath.ncdf(-e / m - m / 2)
        if exact > mpmath.mpf(10) ** -200:
            assert delta_of(mu, epsilon) == pytest.approx(float(exact), rel=1e-8)
        else:
            assert delta_of(mu, epsilon) < 1e-199


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("mu", [0.05, 0.5, 1.5, 5.0, 20.0])
def test_epsilon_equals_dp_accountings_and_is_never_below_it(mu, delta):
    theirs = dp_accounting.get_epsilon_gaussian(1 / mu, delta)
    assert epsilon_of(mu, delta) == pytest.approx(theirs, rel=1e-7, abs=1e-9)
    assert delta_of(mu, epsilon_of(mu, delta)) <= delta


@given(st.floats(1e-3, 200), st.sampled_from(DELTAS))
def test_mu_and_epsilon_are_inverse_and_both_err_on_the_safe_side(epsilon, delta):
    mu = mu_of(epsilon, delta)
    assert delta_of(mu, epsilon) <= delta
    assert delta_of(mu * (1 + 1e-9), epsilon) > delta
    assert epsilon_of(mu, delta) == pytest.approx(epsilon, rel=1e-9)


def test_no_noise_and_no_loss_are_the_ends():
    assert delta_of(0.0, 0.0) == 0.0
    assert epsilon_of(1e-9, 1e-5) == 0.0


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_a_delta_that_means_nothing_is_refused(delta):
    for call in (
        lambda: epsilon_of(1.0, delta),
        lambda: mu_of(1.0, delta),
        lambda: Slack(0, 0).mu(1.0, delta),
    ):
        with pytest.raises(ValueError, match=r"delta is .*; it must be above 0 and below 1"):
            call()


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf])
def test_an_epsilon_that_means_nothing_is_refused(epsilon):
    with pytest.raises(ValueError, match="epsilon is"):
        mu_of(epsilon, 1e-5)


@pytest.mark.parametrize("mu", [-0.1, math.nan, math.inf, 2e4])
def test_a_mu_that_means_nothing_is_refused(mu):
    with pytest.raises(ValueError, match=r"mu is .*; allowed are 0 to 10000"):
        delta_of(mu, 1.0)


# ---------------------------------------------------------------------------------- other accountants


@pytest.mark.parametrize(("multiplier", "rounds", "delta"), [(4.0, 30, 1e-5), (2.25, 12, 1e-6)])
@pytest.mark.filterwarnings("ignore:divide by zero")  # in opacus' PRV at sample rate 1
def test_composition_agrees_with_pld_and_prv_and_is_tighter_than_renyi(multiplier, rounds, delta):
    ours = epsilon_of(math.sqrt(rounds) / multiplier, delta)
    pld, rdp = PLDAccountant(), RdpAccountant()
    for accountant in (pld, rdp):
        accountant.compose(gaussian_event(multiplier, rounds))
    prv, opacus_rdp = opacus.PRVAccountant(), opacus.RDPAccountant()
    prv.history = opacus_rdp.history = [(multiplier, 1.0, rounds)]
    assert ours <= pld.get_epsilon(delta) * (1 + 1e-9) <= ours * 1.001
    assert ours <= prv.get_epsilon(delta) <= ours + 0.02
    for looser in (rdp.get_epsilon(delta), opacus_rdp.get_epsilon(delta)):
        assert ours < looser < 1.1 * ours


def test_rounds_of_different_noise_compose_as_pld_says():
    squares = sum(50 * Fraction(1, z * z) for z in (20, 24, 4))
    accountant = PLDAccountant()
    for z in (20.0, 24.0, 4.0):
        accountant.compose(gaussian_event(z, 50))
    assert epsilon_of(math.sqrt(squares), 1e-6) == pytest.approx(9.8612, abs=1e-4)
    assert epsilon_of(math.sqrt(squares), 1e-6) == pytest.approx(accountant.get_epsilon(1e-6), rel=1e-3)


def test_our_discrete_gaussian_charge_covers_the_discrete_mechanism():
    """In one dimension dp-accounting knows the discrete Gaussian itself; ours must not be below it."""
    rounds, deviation, sensitivity, delta = 30, 40, 10, 1e-5
    pld = dp_accounting.pld.privacy_loss_distribution.from_discrete_gaussian_mechanism(deviation, sensitivity)
    exact = pld.self_compose(rounds).get_epsilon_for_delta(delta)
    ours = epsilon_of(math.sqrt(rounds * round_mu_squared(sensitivity, deviation**2)), delta)
    assert exact < ours < exact * 1.003


def test_replacing_a_client_costs_twice_the_mu_and_only_pld_says_so():
    """REPLACE_ONE doubles the sensitivity in dp-accounting's PLD, and silently does not in its RDP."""
    mu = math.sqrt(30) / 4
    replaced = epsilon_of(math.sqrt(replace_one(Fraction(30, 16))), 1e-5)
    assert replaced == epsilon_of(2 * mu, 1e-5)
    pld, rdp = (kind(neighboring_relation=NeighboringRelation.REPLACE_ONE) for kind in (PLDAccountant, RdpAccountant))
    for accountant in (pld, rdp):
        accountant.compose(gaussian_event(4.0, 30))
    assert pld.get_epsilon(1e-5) == pytest.approx(replaced, rel=1e-3)
    assert rdp.get_epsilon(1e-5) < 0.5 * replaced


@pytest.mark.filterwarnings("ignore:GDP accounting is experimental")  # opacus knows too
def test_opacus_gdp_accountant_under_reports_which_is_why_no_claim_uses_it():
    gdp, pld = opacus.GaussianAccountant(), PLDAccountant()
    gdp.history = [(1.0, 0.1, 100)]
    sampled = dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(1.0))
    pld.compose(dp_accounting.SelfComposedDpEvent(sampled, 100))
    assert gdp.get_epsilon(1e-5) < 6.1 < 7.0 < pld.get_epsilon(1e-5)


# ---------------------------------------------------------------------------------- the lemma and its slack


def lattice_sum(centre, variance):
    """sum over integers k of exp(-(k - centre)^2 / (2 variance))."""
    reach = range(-int(40 * variance**0.5) - 2, int(40 * variance**0.5) + 3)
    return mpmath.fsum(mpmath.exp(-((k - centre) ** 2) / (2 * mpmath.mpf(variance))) for k in reach)


@pytest.mark.parametrize("variance", [1, 2, LEMMA_VARIANCE])
def test_theta_covers_the_two_normalisers_that_the_lemma_compares(variance):
    theta = 4 * math.exp(-2 * math.pi**2 * variance)
    with mpmath.workdps(120):
        flat = mpmath.sqrt(2 * mpmath.pi * variance)
        worst = max(abs(mpmath.log(lattice_sum(mpmath.mpf(g) / 20, variance) / flat)) for g in range(21))
        wide = abs(mpmath.log(lattice_sum(mpmath.mpf(0), 4 * variance) / mpmath.sqrt(8 * mpmath.pi * variance)))
        assert worst + wide <= theta
        assert worst > theta / 3  # the constant is not slack by more
    assert variance != LEMMA_VARIANCE or theta == THETA


def test_the_lemma_holds_where_it_can_be_integrated():
    """Variance 8 = 7 (real Gaussian) + 1 (rounding): both distributions, point by point."""
    with mpmath.workdps(40):
        norms = [lattice_sum(mpmath.mpf(i) / 8, 1) for i in range(8)]
        for k in (0, 1, 5):
            # the trapezoid rule: its error on so smooth an integrand is far below what is looked for
            post_processed = mpmath.fsum(
                mpmath.exp(-(mpmath.mpf(i) ** 2) / 64 / 14)
                * mpmath.exp(-((k - mpmath.mpf(i) / 8) ** 2) / 2)
                / norms[i % 8]
                for i in range(-320, 321)
            ) / (8 * mpmath.sqrt(14 * mpmath.pi))
            discrete = mpmath.exp(-mpmath.mpf(k * k) / 16) / lattice_sum(mpmath.mpf(0), 8)
            assert 0 < abs(mpmath.log(discrete / post_processed)) <= 4 * math.exp(-2 * math.pi**2)


@pytest.mark.parametrize(("shares", "variance"), [(2, 1), (2, 2), (3, 1), (4, 2)])
def test_tau_covers_the_sum_of_shares(shares, variance):
    with mpmath.workdps(60):
        reach = 40
        one = [mpmath.exp(-mpmath.mpf(k * k) / (2 * variance)) for k in range(-reach, reach + 1)]
        scale = mpmath.fsum(one)
        one = [each / scale for each in one]
        summed = one
        for _ in range(shares - 1):
            summed = [
                mpmath.fsum(summed[i] * one[j - i] for i in range(len(summed)) if 0 <= j - i < len(one))
                for j in range(len(summed) + len(one) - 1)
            ]
        middle = len(summed) // 2
        whole = lattice_sum(mpmath.mpf(0), shares * variance)
        worst = max(
            abs(mpmath.log(summed[middle + k] * whole / mpmath.exp(-mpmath.mpf(k * k) / (2 * shares * variance))))
            for k in range(8)
        )
    assert 0 < worst <= sum_of_shares_log_ratio(shares, variance)


def test_tau_follows_its_formula_and_one_share_needs_none():
    assert sum_of_shares_log_ratio(1, 16) == 0.0
    expected = 10 * math.exp(-2 * math.pi**2 * 8) + 10 * math.exp(-2 * math.pi**2 * 32 / 3)
    assert sum_of_shares_log_ratio(3, 16) == pytest.approx(expected, rel=1e-12)


def test_the_slack_adds_up_over_rounds_coordinates_and_shares():
    slack = Slack.of(rounds=7, length=11, shares=3, share_variance=16)
    assert slack.log_ratio == pytest.approx(77 * (THETA + sum_of_shares_log_ratio(3, 16)), rel=1e-12)
    assert slack.distance == 7 * 11 * 3 * TABLE_DISTANCE
    assert Slack.of(1000, 10**7, 1000, 16).log_ratio < 1e-20


def test_a_slack_that_matters_enters_the_claim_as_its_theorem_says():
    plain = epsilon_of(1.0, 1e-5)
    assert Slack(0.0, 0.0).epsilon(1.0, 1e-5) == plain
    wide = Slack(0.1, 0.0).epsilon(1.0, 1e-5)
    assert wide == pytest.approx(epsilon_of(1.0, 1e-5 * math.exp(-0.1)) + 0.2, rel=1e-9)
    far = Slack(0.0, 1e-9).epsilon(1.0, 1e-5)
    assert far > plain
    assert delta_of(1.0, far) + (1 + math.exp(far)) * 1e-9 <= 1e-5 * (1 + 1e-9)
    both = Slack(0.1, 1e-9).epsilon(1.0, 1e-5)  # the table's distance comes after the ratio: e^(epsilon + 2 r) of it
    d0 = delta_of(1.0, both - 0.2)
    assert math.exp(0.1) * d0 + (1 + math.exp(both)) * 1e-9 <= 1e-5 * (1 + 1e-9)
    assert both > wide
    assert Slack(0.0, 1e-5).epsilon(1.0, 1e-5) == math.inf
    assert Slack(0.0, 1e-30).epsilon(50.0, 1e-5) == math.inf


@given(st.floats(0.01, 40), st.sampled_from(DELTAS), st.sampled_from([(0.0, 0.0), (1e-5, 0.0), (1e-4, 1e-32)]))
def test_the_mu_of_a_budget_never_claims_more_than_the_budget(epsilon, delta, parts):
    slack = Slack(*parts)
    mu = slack.mu(epsilon, delta)
    assert slack.epsilon(mu, delta) <= epsilon
    assert slack.epsilon(mu * 1.001, delta) > epsilon


def test_an_epsilon_beyond_the_tables_reach_is_refused():
    with pytest.raises(ValueError, match="supports no claim that large"):
        Slack(0.0, 1e-40).mu(100.0, 1e-5)
    with pytest.raises(ValueError, match="supports no claim that large"):
        Slack(0.0, 0.0).mu(800.0, 1e-5)


# ---------------------------------------------------------------------------------- rounds and the filter


def test_a_round_is_charged_exactly():
    assert round_mu_squared(163, 26_569 + 4) == 1
    assert round_mu_squared(10, 1600) == Fraction(100, 1596)


@pytest.mark.parametrize("variance", [-1, 0, 4])
def test_a_round_without_enough_noise_has_no_charge(variance):
    with pytest.raises(ValueError, match="it must be above 4"):
        round_mu_squared(10, variance)


def test_the_filter_admits_exactly_its_budget_and_not_the_smallest_bit_more():
    spent = Filter(Fraction(1))
    for _ in range(10):
        spent = spent.charge(Fraction(1, 10))  # ten floats of 0.1 add up to less than 1
    assert spent.remaining == 0
    with pytest.raises(BudgetExceeded) as caught:
        spent.charge(Fraction(1, 10**40), "client 3")
    assert caught.value.spent == caught.value.budget == 1
    assert "client 3 has spent" in str(caught.value)


@given(st.lists(st.fractions(Fraction(1, 1000), 3), max_size=20), st.fractions(Fraction(1, 10), 20))
def test_what_the_filter_admits_never_passes_the_budget(charges, budget):
    current = Filter(budget)
    for charge in charges:
        with contextlib.suppress(BudgetExceeded):
            current = current.charge(charge)
            continue
        assert current.spent + charge > budget
    assert current.spent <= budget


@pytest.mark.parametrize("charge", [Fraction(0), Fraction(-1, 5)])
def test_a_charge_that_gives_back_is_refused(charge):
    with pytest.raises(ValueError, match="it must be above 0"):
        Filter(Fraction(1), Fraction(1, 2)).charge(charge)


def test_a_budget_in_mu_is_squared_exactly():
    assert Filter.of_mu(0.1).budget == Fraction(0.1) ** 2
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="a mu budget is"):
            Filter.of_mu(bad)


def test_adaptive_noise_stays_within_the_claim_in_simulation():
    """An adversary that chooses each round's noise by what it saw gets no better than the filter's total mu."""
    generator = np.random.default_rng(7)
    runs, budget = 40_000, 1.0
    loss = np.zeros(runs)
    spent = np.zeros(runs)
    for _ in range(30):
        square = np.where(loss > 0, 0.11, 0.03)
        square = np.where(spent + square <= budget, square, 0.0)
        loss += square / 2 + np.sqrt(square) * generator.normal(size=runs)  # log ratio under "present"
        spent += square
    epsilon = 1.5
    delta = np.mean(np.maximum(0.0, 1 - np.exp(epsilon - loss)))
    assert delta <= delta_of(1.0, epsilon) + 4 * 0.3 / runs**0.5


@pytest.mark.parametrize(("mu", "epsilon"), [(1e-15, float.fromhex("0x1.6733a0f5b796fp-50")), (1e-14, 3.5e-14)])
def test_rounding_never_makes_a_delta_negative(mu, epsilon):
    """The difference of the two tails is below the precision of either."""
    for step in range(-50, 51):
        assert 0 <= delta_of(mu, epsilon * (1 + step * 1e-3)) < 1e-14
    assert delta_of(mu, epsilon) >= 0


def test_a_refused_charge_says_what_was_spent_asked_and_allowed():
    with pytest.raises(BudgetExceeded) as caught:
        Filter(Fraction(2), Fraction(3, 2)).charge(Fraction(3, 4), "clinic")
    refused = caught.value
    assert (refused.owner, refused.spent, refused.charge, refused.budget) == (
        "clinic",
        Fraction(3, 2),
        Fraction(3, 4),
        Fraction(2),
    )


def test_a_slack_leaves_of_delta_what_its_distance_and_ratio_do_not_use():
    slack = Slack(0.25, 1e-7)
    expected = math.exp(-0.25) * (1e-3 - (1 + math.exp(2 + 2 * 0.25)) * 1e-7)
    assert slack.left(2.0, 1e-3) == pytest.approx(expected, rel=1e-12)
    assert slack.left(2.0, 1e-7) < 0
    assert slack.left(701.0, 1e-3) < 0
    assert slack.epsilon(1.0, 1e-3) == pytest.approx(
        epsilon_of(1.0, slack.left(epsilon_of(1.0, 1e-3), 1e-3)) + 0.5, rel=1e-3
    )
