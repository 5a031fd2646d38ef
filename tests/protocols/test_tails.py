import math

import numpy as np
import pytest
from scipy.stats import hypergeom

from protocols import tails


def test_the_published_example_has_degree_42_and_threshold_21_or_22():
    assert tails.smallest_degree(100, 20, 20) == (42, 21, 22)


@pytest.mark.parametrize(("n", "corrupt", "dropped"), [(100, 20, 20), (256, 13, 25), (1000, 100, 100)])
def test_the_chosen_numbers_meet_the_bounds_by_another_library(n, corrupt, dropped):
    degree, least, most = tails.smallest_degree(n, corrupt, dropped)
    assert n * hypergeom.sf(least - 1, n - 1, corrupt, degree) <= 2.0**-41
    assert n * hypergeom.sf(least - 2, n - 1, corrupt, degree) > 2.0**-41
    assert n * hypergeom.sf(degree - most, n - 1, dropped, degree) <= 2.0**-30
    assert n * hypergeom.sf(degree - most - 1, n - 1, dropped, degree) > 2.0**-30
    # Two disjoint runs of k/2 neighbours, all among the corrupt and dropped ones: a hypergeometric point.
    cut = hypergeom.pmf(degree, n, corrupt + dropped, degree)
    assert n * (n - degree - 1) / 2 * cut <= 2.0**-41


@pytest.mark.parametrize(("n", "corrupt", "dropped"), [(100, 20, 20), (256, 13, 25), (1000, 100, 100)])
def test_no_smaller_degree_would_do(n, corrupt, dropped):
    degree, _, _ = tails.smallest_degree(n, corrupt, dropped)
    for smaller in range(2, degree, 2):
        fits = [
            t
            for t in range(2, smaller + 1)
            if tails.private(n, corrupt, dropped, smaller, t)
            and n * hypergeom.sf(smaller - t, n - 1, dropped, smaller) <= 2.0**-30
        ]
        assert not fits


def test_tails_equal_those_of_another_library():
    for least in range(12):
        ways, total = tails.tail(60, 17, 11, least)
        assert ways / total == pytest.approx(hypergeom.sf(least - 1, 60, 17, 11), rel=1e-10)


def test_simulated_rings_agree_with_the_tail_of_corrupt_neighbours():
    """Small enough numbers that the event happens: 20,000 rings, frequency within 4 standard errors."""
    n, corrupt, degree, least, trials = 40, 10, 8, 5, 20_000
    rng = np.random.default_rng(7)
    marked = rng.permuted(np.tile(np.arange(n) < corrupt, (trials, 1)), axis=1)
    around = [*range(1, degree // 2 + 1), *range(n - degree // 2, n)]
    frequency = (marked[:, around].sum(axis=1) >= least)[~marked[:, 0]].mean()
    # Given that the client itself is honest, the others hold all the corrupt ones.
    ways, total = tails.tail(n - 1, corrupt, degree, least)
    p = ways / total
    assert abs(frequency - p) < 4 * math.sqrt(p * (1 - p) / (trials * (1 - corrupt / n)))


@pytest.mark.parametrize(("n", "dropped", "degree", "eta"), [(40, 12, 16, 4), (60, 15, 22, 3), (50, 20, 20, 4)])
def test_simulated_rings_lose_a_clients_masks_no_more_often_than_the_third_bound_says(
    monkeypatch, n, dropped, degree, eta
):
    """E3 at a weaker eta, so that it happens: some client has more than k - t dropped neighbours, for the largest t.

    30,000 rings: for one client the frequency is the exact tail's within 4 standard errors; over all it is at most
    the bound 2^-eta that picked t (4 standard errors above allowed), and above a thirtieth of it: t is coarse.
    """
    trials = 30_000
    monkeypatch.setattr(tails, "ETA", eta)
    most = tails._most_threshold(n, dropped, degree)
    gone = np.random.default_rng(9).permuted(np.tile(np.arange(n) < dropped, (trials, 1)), axis=1)
    around = [*range(1, degree // 2 + 1), *range(n - degree // 2, n)]
    lost = sum(np.roll(gone, -step, axis=1).astype(np.int8) for step in around) > degree - most

    p = float(hypergeom.sf(degree - most, n - 1, dropped, degree))
    ways, total = tails.tail(n - 1, dropped, degree, degree - most + 1)
    assert ways / total == pytest.approx(p, rel=1e-9)
    alive = ~gone[:, 0]
    assert lost[alive, 0].sum() > 5, "the event is seen"
    assert abs(lost[alive, 0].mean() - p) < 4 * math.sqrt(p * (1 - p) / alive.sum())

    bound, frequency = 2.0**-eta, lost.any(axis=1).mean()
    assert bound / 30 < frequency < bound + 4 * math.sqrt(bound / trials)
    assert n * hypergeom.sf(degree - most - 1, n - 1, dropped, degree) > bound, "one more share would break the bound"


def test_simulated_rings_fall_apart_no_more_often_than_the_bound_says():
    n, bad, degree, trials = 24, 12, 6, 20_000
    rng = np.random.default_rng(8)
    alive = rng.permuted(np.tile(np.arange(n) >= bad, (trials, 1)), axis=1)
    broken = np.mean([not connected(row, degree) for row in alive])
    bound = n * (n - degree - 1) / 2 * math.comb(bad, degree) / math.comb(n, degree)
    assert 0 < broken < bound


def connected(alive, degree):
    n, start = len(alive), int(np.argmax(alive))
    seen, todo = {start}, [start]
    while todo:
        place = todo.pop()
        for step in range(1, degree // 2 + 1):
            for other in ((place + step) % n, (place - step) % n):
                if alive[other] and other not in seen:
                    seen.add(other)
                    todo.append(other)
    return len(seen) == alive.sum()


def test_where_every_degree_is_too_small_none_is_named():
    assert tails.smallest_degree(12, 5, 5) is None


def test_odd_or_complete_degrees_are_not_private():
    degree, least, _ = tails.smallest_degree(256, 13, 25)
    assert tails.private(256, 13, 25, degree, least)
    assert not tails.private(256, 13, 25, degree + 1, least)
    assert not tails.private(256, 13, 25, 255, least)
    assert not tails.private(256, 13, 25, degree, degree + 1)
    assert tails.private(257, 13, 25, 254, 127)
    assert not tails.private(257, 13, 25, 256, 128), "even, but the complete graph"


def test_the_largest_degree_below_the_complete_graph_is_tried():
    assert tails.smallest_degree(6, 1, 1) == (4, 2, 3)
