"""Who must be lying, from groups of clients each of which holds a liar.

Intersecting failed groups frames people: colluders that misbehave only beside one victim leave nobody but the victim in
the intersection. What follows from "at most c lie" is less, and true: a client is *named* if it stands in every set of
at most c clients that meets all groups. The liars are such a set; so no honest client is ever named while at most c lie
and every group holds one of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

from protocols.recovery import Recovered
from protocols.transcript import Failed

Group = frozenset[int]

WORK = 3_000_000
"""Clients looked at before a search gives up, a few seconds. Groups come from clients' messages, and whoever sends them
could choose a puzzle. Who cannot be named within this is not named.
"""


class _TooHard(Exception):
    """The search took more than WORK."""


def suspects(result: Recovered | Failed) -> frozenset[Group]:
    """The groups that a verified transcript shows, each with a liar in it: whoever is blamed, alone; of a leaf that
    does not open the dealer and the holder who says so.

    Of a sum that its caller finds beyond its bound, the survivors are one more: one of them uploaded what it must not.
    """
    alone = {frozenset([client]) for client in result.blamed}
    return frozenset(alone | {frozenset(pair) for pair in result.disputes if pair[0] != pair[1]})


def named(groups: Collection[Group], colluders: int) -> Group:
    """The clients that stand in every set of at most `colluders` clients that meets all groups.

    Empty if no such set exists: then more lie than was assumed, and nothing follows. ValueError for an empty group.
    """
    if not all(groups):
        raise ValueError("a group without clients holds no liar")
    search = _Search()
    try:
        one = search.meeting(groups, colluders)
    except _TooHard:
        return _forced(list(groups), colluders)
    # Who is named stands in this set as in every other, so nobody else needs a look.
    return frozenset(client for client in one or () if _in_every(client, groups, colluders, search))


def _in_every(client: int, groups: Collection[Group], colluders: int, search: _Search) -> bool:
    """Whether no set without this client will do. If that takes too long, only what is plain: naming needs proof."""
    others = [group - {client} for group in groups]
    try:
        return not all(others) or search.meeting(others, colluders) is None
    except _TooHard:
        return client in _forced(list(groups), colluders)


class _Search:
    """A search for sets that meet all groups; its work is counted over all calls."""

    def __init__(self) -> None:
        self._left = WORK

    def meeting(self, groups: Iterable[Group], most: int) -> Group | None:
        """A set of at most `most` clients that meets all groups, or None if there is none."""
        reduced = _reduced(set(groups))
        # Counted in clients looked at, not in time: on a slow machine the same evidence must name the same clients.
        self._left -= sum(map(len, reduced)) + 1
        if self._left < 0:
            raise _TooHard
        forced = _forced(reduced, most)
        if forced:
            rest = [group for group in reduced if group.isdisjoint(forced)]
            found = self.meeting(rest, most - len(forced)) if len(forced) <= most else None
            return None if found is None else found | forced
        if not reduced:
            return frozenset()
        if _disjoint(reduced) > most or sum(len(group) == 2 for group in reduced) > most * most:
            return None  # disjoint groups need a client each; of pairs each client left here meets at most `most`
        return self._branch(reduced, most)

    def _branch(self, groups: Sequence[Group], most: int) -> Group | None:
        """One client of the smallest group must be in it: each is tried, and not again beside the next."""
        often = Counter(client for group in groups for client in group)
        tried: set[int] = set()
        # The client of most groups first: a set is found sooner. Ids break ties, so that every auditor searches the
        # same tree and gives up at the same place.
        for client in sorted(groups[0], key=lambda client: (-often[client], client)):
            # Without those tried before: sets that hold one of them were all looked at in its branch.
            rest = [group - tried for group in groups if client not in group]
            if all(rest):
                found = self.meeting(rest, most - 1)
                if found is not None:
                    return found | {client}
            tried.add(client)
        return None


def _reduced(groups: set[Group]) -> list[Group]:
    """Fewer and smaller groups, smallest first, that the same number of clients can meet."""
    smallest: list[Group] = []
    single: set[int] = set()
    for group in sorted(groups, key=lambda group: (len(group), sorted(group))):
        if not single.isdisjoint(group) or (len(group) > 2 and any(other <= group for other in smallest)):
            continue  # whoever meets the smaller one meets it too
        smallest.append(group)
        if len(group) == 1:
            single |= group
    where: defaultdict[int, list[int]] = defaultdict(list)
    for place, group in enumerate(smallest):
        for client in group:
            where[client].append(place)
    # Clients of the same groups are as good as each other; one that is in a single group is no better than its fellows.
    first: dict[tuple[int, ...], int] = {}
    for client in sorted(where):
        first.setdefault(tuple(where[client]), client)
    kept = set(first.values())
    shared = {place for places in first if len(places) > 1 for place in places}
    kept -= {client for places, client in first.items() if len(places) == 1 and places[0] in shared}
    return sorted({group & kept for group in smallest}, key=lambda group: (len(group), sorted(group)))


def _forced(groups: Sequence[Group], most: int) -> Group:
    """Clients that every set of at most `most` must have: alone in a group, or in more pairs than others could meet."""
    alone = frozenset(client for group in groups if len(group) == 1 for client in group)
    pairs = Counter(client for group in groups if len(group) == 2 for client in group)
    return alone | {client for client, count in pairs.items() if count > most}


def _disjoint(groups: Sequence[Group]) -> int:
    """How many groups without a common client a first look finds."""
    seen: set[int] = set()
    count = 0
    for group in groups:
        if seen.isdisjoint(group):
            seen |= group
            count += 1
    return count
