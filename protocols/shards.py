"""A round with more clients than one complete graph should hold: disjoint shards, each a session of its own.

The partition is public. Only the roster, the round and the number of shards decide it, and the roster is the
authority's: a server cannot put clients together as it likes, and every client finds its own shard for itself.
Nothing rests on chance: thresholds, floors and noise of a shard count all colluders of the whole roster as its members.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from protocols import labels
from protocols.errors import Refused


def count(cohort: int, most: int) -> int:
    """How many shards `cohort` clients make if none may have more than `most`."""
    if cohort < 1 or most < 1:
        raise ValueError("a cohort and a shard have at least one client")
    return -(-cohort // most)


def sizes(cohort: int, shards: int) -> tuple[int, int]:
    """The sizes of the smallest and the largest shard; they differ by at most one."""
    if not 1 <= shards <= cohort:
        raise ValueError(f"{cohort} clients do not make {shards} shards")
    return cohort // shards, -(-cohort // shards)


@lru_cache(maxsize=8)
def partition(
    cohort: tuple[int, ...], shards: int, roster_digest: bytes, round_number: int
) -> tuple[tuple[int, ...], ...]:
    """The shards of one round, each ascending; together they are the cohort (ascending ids), without overlap.

    Clients are sorted by the keystream that roster and round fix, then cut into runs: run i of s ends before
    place floor((i + 1) * n / s). SPEC.md, section "Shards". ValueError for a number of shards that no cohort has.
    """
    sizes(len(cohort), shards)
    if shards == 1:
        return (cohort,)
    key = labels.digest(labels.HASH_SHARDS, roster_digest, round_number, shards)
    keystream = labels.stream(key, 8 * len(cohort))
    order = np.argsort(np.frombuffer(keystream, "<u8"), kind="stable")
    cuts = [place * len(cohort) // shards for place in range(shards + 1)]
    return tuple(tuple(sorted(cohort[place] for place in order[start:end])) for start, end in pairwise(cuts))


def refuse_other(client: int, cohort: tuple[int, ...], own_round: Sequence[tuple[int, ...]]) -> None:
    """Returns if a plan's `cohort` is the client's own shard of the round as it computed it; else Refused.

    **Why** Two cohorts that differ by one client would, over two sessions, show that client's part alone.
    """
    if client not in cohort or cohort not in own_round:
        raise Refused("the plan's cohort is not this client's shard of the round")
