"""Thresholds of a session, from the adversary it must withstand. Every client derives them again for
itself.

Symbols: n planned cohort, c colluding clients, T quorum of signatures on the survivor list, t Shamir
threshold, k neighbours of each client. Why each bound: SPEC.md, section "Parameters".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache

from protocols import tails
from protocols.errors import Refused

COMPLETE, SPARSE = "complete", "sparse"
COMPLETE_UP_TO = 200  # above it an honest-but-curious server gets the sparse graph
MAX_COMPLETE = 1000
MIN_HONEST = 3  # honest survivors in every sum


class Adversary(StrEnum):
    """What the server may do besides reading. A lying one may send anything to anyone."""

    HONEST_BUT_CURIOUS = "honest_but_curious"
    LYING_SERVER = "lying_server"


class Infeasible(ValueError):
    """No thresholds satisfy the request; `nearest` names a setting that would."""

    def __init__(self, reason: str, nearest: str) -> None:
        super().__init__(f"{reason}; nearest feasible: {nearest}")
        self.reason = reason
        self.nearest = nearest


@dataclass(frozen=True)
class Parameters:
    """Everything that decides who must answer before anything is opened."""

    adversary: Adversary
    cohort: int
    colluders: int
    quorum: int
    threshold: int
    neighbours: int
    floor: int

    @property
    def graph(self) -> str:
        """The word "complete" when everybody is everybody's neighbour, else "sparse"."""
        return COMPLETE if self.neighbours == self.cohort - 1 else SPARSE


@lru_cache(maxsize=256)
def derive(adversary: Adversary, roster_size: int, cohort: int, max_corrupt: float, max_dropout: float) -> Parameters:
    """The parameters for a cohort drawn from a roster in which a share `max_corrupt` colludes.

    `max_dropout` is the share of the cohort that may vanish at any steps. Shares are read as the
    decimals that they print as. Raises Infeasible, or ValueError for numbers that mean nothing.
    """
    if not 0 <= max_dropout < 1:
        raise ValueError("max_dropout must be at least 0 and below 1")
    colluders = count_colluders(adversary, roster_size, cohort, max_corrupt)
    lost = math.floor(Fraction(str(max_dropout)) * cohort)
    neighbours, threshold = _graph_rule(adversary, cohort, colluders, lost)
    quorum = least_quorum(cohort, colluders)
    least = max(quorum, threshold, colluders + MIN_HONEST)
    if cohort - lost < least:
        raise Infeasible(
            f"max_dropout = {max_dropout:g} may leave {cohort - lost} of {cohort} clients, not {least}",
            f"max_dropout = {_rounded_up(cohort - least, cohort)}",
        )
    return Parameters(adversary, cohort, colluders, quorum, threshold, neighbours, cohort - lost)


def refuse_weaker(offered: Parameters, roster_size: int, max_corrupt: float, max_dropout: float) -> None:
    """Returns if an offer is at least as strict as a client's own bounds ask for, else raises Refused.

    Each rule is applied to the offer's own larger numbers, so that no stricter field loosens another one.
    """
    n, c = offered.cohort, offered.colluders
    try:
        own = count_colluders(offered.adversary, roster_size, n, max_corrupt)
    except ValueError as error:
        raise Refused(f"this client's own bounds allow no such cohort: {error}") from None
    lost = math.floor(Fraction(str(max_dropout)) * n)
    # c + 3: a sum over fewer than three honest clients tells each of two about the other.
    floor = max(offered.quorum, offered.threshold, c + MIN_HONEST, n - lost)
    for name, offer, least in (
        ("colluders", c, own),
        ("quorum", offered.quorum, least_quorum(n, c)),
        ("floor", offered.floor, floor),
        ("cohort", n, offered.floor),
    ):
        if offer < least:
            raise Refused(f"{name} = {offer} is below {least}, which this client demands")
    _refuse_weaker_graph(offered)


def _refuse_weaker_graph(offered: Parameters) -> None:
    n, c, t = offered.cohort, offered.colluders, offered.threshold
    if offered.graph == COMPLETE:
        if t < complete_threshold(offered.adversary, n, c):
            raise Refused(f"threshold = {t} is too small for the complete graph")
    elif offered.adversary is Adversary.LYING_SERVER or n <= COMPLETE_UP_TO:
        raise Refused(f"neighbours = {offered.neighbours}: this client demands the complete graph")
    elif not tails.private(n, c, n - offered.floor, offered.neighbours, t):
        raise Refused(f"neighbours = {offered.neighbours} with threshold = {t} are too few")


def count_colluders(adversary: Adversary, roster_size: int, cohort: int, max_corrupt: float) -> int:
    """c: all colluders on the roster, because a server that picks the cohort can put them all in it.

    Raises Infeasible if too few honest clients would remain, or ValueError for numbers that mean nothing.
    """
    if not 1 <= cohort <= roster_size or not 0 <= max_corrupt < 1:
        raise ValueError("the cohort must fit the roster, and max_corrupt be at least 0 and below 1")
    # At least one, even where nobody is suspected: whoever reads a sum may be a client too, and knows its own share of
    # the noise. Exact, because the ceiling of a float may be one more than the reader's.
    colluders = max(1, math.ceil(Fraction(str(max_corrupt)) * roster_size))
    _refuse_impossible_sizes(adversary, roster_size, cohort, colluders)
    return colluders


def least_quorum(cohort: int, colluders: int) -> int:
    """T > (n + c) / 2: two quorums share an honest client, who signs one list only."""
    return (cohort + colluders) // 2 + 1


def complete_threshold(adversary: Adversary, cohort: int, colluders: int) -> int:
    """The least Shamir threshold on the complete graph.

    Above c, so that colluders alone rebuild nothing. Against a lying server above (n + c) / 2 as well:
    two sets of t holders then share an honest one, so both secrets of one client cannot be had even
    without the quorum.
    """
    if adversary is Adversary.LYING_SERVER:
        return (cohort + colluders) // 2 + 1
    return max(2, colluders + 1)


def _refuse_impossible_sizes(adversary: Adversary, roster_size: int, cohort: int, colluders: int) -> None:
    lying = adversary is Adversary.LYING_SERVER
    if lying and cohort > MAX_COMPLETE:
        raise Infeasible(f"a lying server allows at most {MAX_COMPLETE} clients", f"cohort = {MAX_COMPLETE}")
    smallest = 5 if lying else 1 + MIN_HONEST
    least = max(smallest, colluders + MIN_HONEST)
    if cohort >= least:
        return
    reason = f"among {cohort} clients {colluders} may collude: at least {least} are needed"
    if least <= roster_size:
        raise Infeasible(reason, f"cohort = {least}")
    if cohort >= smallest:
        raise Infeasible(reason, f"max_corrupt = {rounded_down(cohort - MIN_HONEST, roster_size)}")
    raise Infeasible(reason, f"a roster of at least {smallest} clients, with a smaller max_corrupt")


def _graph_rule(adversary: Adversary, cohort: int, colluders: int, lost: int) -> tuple[int, int]:
    """(neighbours, threshold)."""
    if adversary is Adversary.HONEST_BUT_CURIOUS and cohort > COMPLETE_UP_TO:
        rule = tails.smallest_degree(cohort, colluders, lost)
        if rule is not None:
            return rule[0], rule[1]
        if cohort > MAX_COMPLETE:
            raise Infeasible(
                f"no sparse graph on {cohort} clients withstands {colluders} colluders and {lost} dropouts",
                f"cohort = {MAX_COMPLETE}",
            )
    return cohort - 1, complete_threshold(adversary, cohort, colluders)


def _rounded_up(count: int, total: int) -> str:
    """The shortest decimal x with floor(x * total) = count."""
    return next(
        f"{scaled / 10**places:g}"
        for places in range(1, 10)
        if (scaled := -(-count * 10**places // total)) * total < (count + 1) * 10**places
    )


def rounded_down(count: int, total: int) -> str:
    """The shortest decimal x with ceil(x * total) = count."""
    return next(
        f"{scaled / 10**places:g}"
        for places in range(1, 10)
        if (scaled := count * 10**places // total) * total > (count - 1) * 10**places
    )
