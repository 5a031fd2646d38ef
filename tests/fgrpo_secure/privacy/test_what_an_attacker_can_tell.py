"""What the page on budgets says of the strongest attacker, computed again."""

import re
from pathlib import Path

import pytest
from scipy.stats import norm

from fgrpo_secure.privacy.accounting import mu_of

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "budget-and-unit.md"
ROWS = re.findall(r"^\| (\d+) \| (\d+) of 100 pairs \|$", PAGE.read_text("utf-8"), re.M)


def test_the_page_has_its_table():
    assert [epsilon for epsilon, _ in ROWS] == ["8", "4", "1"]


@pytest.mark.parametrize(("epsilon", "right"), ROWS)
def test_two_candidates_who_pull_opposite_ways_are_told_apart_as_often_as_the_page_says(epsilon, right):
    """Means mu to either side of nothing: the likelier of two normals 2 mu apart is right with chance Phi(mu)."""
    assert round(100 * norm.cdf(mu_of(float(epsilon), 1e-5))) == int(right)
