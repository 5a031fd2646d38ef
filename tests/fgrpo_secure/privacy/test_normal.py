"""Our logarithm of the normal distribution function against scipy's, in both tails and where its branches meet."""

import math

import numpy as np
import pytest
from scipy.special import log_ndtr as oracle

from fgrpo_secure.privacy.normal import SERIES_BELOW, log_ndtr


def test_it_agrees_with_scipy_to_the_last_digits():
    grid = np.concatenate([np.linspace(-60, 12, 7201), -np.geomspace(1e-12, 1e8, 500), np.geomspace(1e-12, 37, 500)])
    for x in map(float, grid):
        # The last bit of x is worth x^2 last bits of a tail; in the lower one that is little of a logarithm near x^2.
        allowed = 1e-15 * (1 + x * x if x > 0 else 4)
        assert log_ndtr(x) == pytest.approx(float(oracle(x)), rel=allowed, abs=0), x


@pytest.mark.parametrize("meeting", [-1.0, SERIES_BELOW])
def test_its_branches_meet(meeting):
    below, above = log_ndtr(math.nextafter(meeting, -math.inf)), log_ndtr(math.nextafter(meeting, math.inf))
    assert below == pytest.approx(above, rel=1e-14)
    assert below <= above


def test_it_has_its_limits():
    assert log_ndtr(math.inf) == 0.0
    assert log_ndtr(-math.inf) == -math.inf
    assert log_ndtr(-1e200) == -math.inf
    assert log_ndtr(0.0) == pytest.approx(math.log(0.5), rel=1e-16)
