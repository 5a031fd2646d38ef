"""Degree and threshold of the sparse graph, from exact hypergeometric tails (Bell et al. 2020, eprint
2020/704).

n clients stand on a randomly permuted ring, each tied to the k nearest; `corrupt` of them collude and
`dropped` of them vanish, both fixed independently of the permutation. Three events are bounded:

* E1 every honest client has fewer than t corrupt neighbours (its secrets stay secret);
* E2 the honest survivors stay connected (their pair masks hide all but the sum);
* E3 every client keeps at least t live neighbours (its masks can be removed).

Not E1 or not E2 has probability at most 2^-SIGMA, not E3 at most 2^-ETA. All sums are integers: nothing
rounds. This holds against an honest-but-curious server only: a lying one knows the ring and chooses who
"dropped".
"""

from __future__ import annotations

from functools import lru_cache
from math import comb

SIGMA = 40
ETA = 30
# No setting in use comes near. Without a bound a server's plan could have clients sum tails for hours: 5 s at 5,000.
MAX_DEGREE = 1000


@lru_cache(maxsize=256)
def smallest_degree(n: int, corrupt: int, dropped: int) -> tuple[int, int, int] | None:
    """(k, smallest t, largest t) for the smallest even k < n - 1 that works; None if none up to MAX_DEGREE does."""
    for degree in range(2, min(n - 1, MAX_DEGREE + 1), 2):
        if not _connected(n, corrupt, dropped, degree):
            continue
        least, most = _least_threshold(n, corrupt, degree), _most_threshold(n, dropped, degree)
        if least <= most:
            return degree, least, most
    return None


def private(n: int, corrupt: int, dropped: int, degree: int, threshold: int) -> bool:
    """Whether E1 and E2 hold but for 2^-SIGMA with this degree and threshold."""
    return (
        2 <= degree <= MAX_DEGREE
        and degree < n - 1
        and degree % 2 == 0
        and _least_threshold(n, corrupt, degree) <= threshold <= degree
        and _connected(n, corrupt, dropped, degree)
    )


def tail(population: int, marked: int, draws: int, at_least: int) -> tuple[int, int]:
    """Pr[Hypergeometric(population, marked, draws) >= at_least] as (numerator, denominator)."""
    ways = sum(comb(marked, i) * comb(population - marked, draws - i) for i in range(at_least, draws + 1))
    return ways, comb(population, draws)


def _least_threshold(n: int, corrupt: int, degree: int) -> int:
    """The smallest t >= 2 with n * Pr[at least t corrupt neighbours] <= 2^-(SIGMA+1)."""
    return max(2, _first_rare(n, corrupt, degree, SIGMA + 1))


def _most_threshold(n: int, dropped: int, degree: int) -> int:
    """The largest t with n * Pr[more than degree - t neighbours dropped] <= 2^-ETA."""
    return degree - _first_rare(n, dropped, degree, ETA) + 1


def _first_rare(n: int, marked: int, degree: int, bits: int) -> int:
    """The smallest m with n * Pr[at least m of a client's neighbours are marked] <= 2^-bits."""
    total = comb(n - 1, degree)
    ways, count = 0, degree + 1
    while count > 0:
        # Summed from the far end of the tail, where terms are small, until the union bound over all n clients is used
        # up.
        ways += comb(marked, count - 1) * comb(n - 1 - marked, degree - count + 1)
        if (n * ways) << bits > total:
            break
        count -= 1
    return count


def _connected(n: int, corrupt: int, dropped: int, degree: int) -> bool:
    """E2: a ring falls apart only where two disjoint runs of k/2 neighbours are all corrupt or dropped."""
    # A colluder hides nothing of its neighbours from the server: for connectedness it is as good as gone.
    bad = min(n, corrupt + dropped)
    # Pairs of disjoint runs: n (n - k - 1) / 2. Each is bad all over with probability comb(bad, k) / comb(n, k).
    cuts = n * (n - degree - 1) * comb(bad, degree)
    return cuts << (SIGMA + 1) <= 2 * comb(n, degree)
