"""What an owner is told that it spent holds whenever a server stops: the odometer's reading, never the charges' own."""

import math
from fractions import Fraction

import pytest

from fgrpo_secure.client.drafted_policy import CAUTIOUS
from fgrpo_secure.privacy.accounting import delta_of, epsilon_of
from fgrpo_secure.privacy.odometer import Delta, Odometer

BUDGET, PRIVATE = CAUTIOUS.budget(), CAUTIOUS.privacy


def own(policy=CAUTIOUS):
    return Odometer(policy.budget(), Delta.split(policy.privacy.delta, 0), policy.privacy.slack)


@pytest.mark.parametrize("share", [Fraction(1, 2000), Fraction(1, 12), Fraction(1, 2), Fraction(9, 10)])
def test_a_ledger_before_its_end_reads_more_than_its_charges_alone(share):
    """Those are no guarantee where a server chooses when to stop: their real delta is several times the stated one."""
    spent = share * BUDGET
    assert CAUTIOUS.reading(spent, BUDGET) == own().read(spent) > epsilon_of(math.sqrt(spent), PRIVATE.delta)
    assert CAUTIOUS.reading(spent, BUDGET) <= PRIVATE.epsilon


def test_a_whole_budget_reads_what_the_file_allows_and_nothing_reads_nothing():
    assert CAUTIOUS.reading(BUDGET, BUDGET) == pytest.approx(PRIVATE.epsilon, rel=1e-9)
    assert CAUTIOUS.reading(Fraction(0), BUDGET) == 0


@pytest.mark.parametrize("factor", [Fraction(1, 2), Fraction(3)])
def test_a_ledger_under_another_budget_reads_as_a_whole(factor):
    """Of a run with secret sampling, whose shares mean nothing by themselves, or from before the file was edited."""
    reading = CAUTIOUS.reading(BUDGET / 100, factor * BUDGET)
    assert reading >= PRIVATE.epsilon
    assert delta_of(math.sqrt(factor * BUDGET), reading) <= PRIVATE.delta


def test_charges_beyond_the_budget_read_what_they_cost():
    assert CAUTIOUS.reading(2 * BUDGET, BUDGET) >= epsilon_of(math.sqrt(2 * BUDGET), PRIVATE.delta) > PRIVATE.epsilon
