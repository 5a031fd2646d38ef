"""Who holds whose shares and shares masks with whom.

Complete: everybody with everybody. Sparse: the whole planned cohort on a ring whose order is drawn from
S1, so that nobody could choose it; each client is tied to its k nearest. Clients that did not announce
stay on the ring as dead neighbours: the tails of tails.py count them.
"""

from __future__ import annotations

import struct
from collections.abc import Collection

from protocols import labels
from protocols.params import SPARSE
from protocols.wire import RoundPlan


class Graph:
    """The neighbourhoods of one session, among the clients that announced."""

    def __init__(self, plan: RoundPlan, s1: bytes, announcers: Collection[int]) -> None:
        # From the signed plan, so that dealer, holder and server need agree on nothing else. From 1: at 0 a share is
        # the secret itself.
        self._points = {client: position + 1 for position, client in enumerate(plan.cohort)}
        self._announcers = frozenset(announcers)
        self._everybody = tuple(sorted(self._announcers))
        self._degree = plan.neighbours
        self._places: dict[int, int] = {}
        if plan.parameters.graph == SPARSE:
            # Over the planned cohort, not over who announced: else a server drops clients until the ring suits it.
            order = _shuffled(plan.cohort, s1)
            self._places = {client: place for place, client in enumerate(order)}
            # Unrolled, so that a neighbourhood is a slice: client i's begins k/2 places before it.
            self._ring = (*order[-(self._degree // 2) :], *order, *order[: self._degree // 2])

    def holders(self, client: int) -> tuple[int, ...]:
        """The client and its neighbours that announced, ascending: those who get a leaf of its deal."""
        if not self._places:
            return self._everybody
        place = self._places[client]
        return tuple(sorted(self._announcers.intersection(self._ring[place : place + self._degree + 1])))

    def point(self, client: int) -> int:
        """Where a client's shares are evaluated: its position in the cohort, from 1."""
        return self._points[client]


def _shuffled(cohort: tuple[int, ...], s1: bytes) -> tuple[int, ...]:
    """The cohort sorted by 8 keystream bytes per client, little-endian; equal ones (2^-40) keep their
    order.
    """
    keystream = labels.stream(labels.derive(s1, labels.KEY_GRAPH), 8 * len(cohort))
    numbers = dict(zip(cohort, struct.unpack(f"<{len(cohort)}Q", keystream), strict=True))
    return tuple(sorted(cohort, key=numbers.__getitem__))
