"""A round with more clients than one complete graph should hold: disjoint shards, each a session of its own.

The partition is public. Only the roster, the round and the number of shards decide it, and the roster is the
authority's: a server cannot put clients together as it likes, and every client finds its own shard for itself.
Nothing rests on chance: thresholds, floors and noise of a shard count all colluders of the whole roster as its members.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import numpy as np

from protocols import labels, params
from protocols.errors import Refused
from protocols.params import MAX_COMPLETE, Adversary, Infeasible, Parameters


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
    # Of nothing that the server chooses: with a nonce of its own in here it would draw until a victim sits among
    # colluders.
    key = labels.digest(labels.HASH_SHARDS, roster_digest, round_number, shards)
    keystream = labels.stream(key, 8 * len(cohort))
    # Stable, and of bytes with a fixed order: equal numbers and other machines give the same shards.
    order = np.argsort(np.frombuffer(keystream, "<u8"), kind="stable")
    cuts = [place * len(cohort) // shards for place in range(shards + 1)]
    return tuple(tuple(sorted(cohort[place] for place in order[start:end])) for start, end in pairwise(cuts))


def refine(
    earlier: Sequence[tuple[int, ...]], parts: int, roster_digest: bytes, round_number: int
) -> tuple[tuple[int, ...], ...]:
    """Each of these shards cut into `parts`, by the rule of `partition` applied to the shard.

    **Why** Once a session failed, its round goes on in smaller ones. All sets of clients whose sums belong to one model
    are then disjoint or nested: two that overlap would show, in their difference, a set that nobody agreed to.
    """
    return tuple(part for shard in earlier for part in partition(shard, parts, roster_digest, round_number))


def refuse_other(client: int, cohort: tuple[int, ...], own_round: Sequence[tuple[int, ...]]) -> None:
    """Returns if a plan's `cohort` is the client's own shard of the round as it computed it; else Refused.

    **Why** Two cohorts that differ by one client would, over two sessions, show that client's part alone.
    """
    if client not in cohort or cohort not in own_round:
        raise Refused("the plan's cohort is not this client's shard of the round")


def derive(
    adversary: Adversary, roster_size: int, cohort: int, shards: int, max_corrupt: float, max_dropout: float
) -> tuple[Parameters, Parameters]:
    """The parameters of the smallest and of the largest of `shards` shards: see `params.derive`.

    Colluders are counted on the whole roster in each of them. Raises Infeasible, naming a setting that works.
    """
    least, most = sizes(cohort, shards)
    try:
        return (
            params.derive(adversary, roster_size, least, max_corrupt, max_dropout),
            params.derive(adversary, roster_size, most, max_corrupt, max_dropout),
        )
    except Infeasible as error:
        if shards == 1:
            raise
        nearest = _nearest(adversary, roster_size, cohort, shards, max_corrupt, max_dropout)
        raise Infeasible(f"{shards} shards of {least} to {most} clients: {error.reason}", nearest) from None


def _nearest(
    adversary: Adversary, roster_size: int, cohort: int, shards: int, max_corrupt: float, max_dropout: float
) -> str:
    """The nearest change that works: larger shards; else fewer losses; else fewer colluders, in larger shards too."""

    def works(count: int, corrupt: float, dropout: float) -> bool:
        try:
            for size in sizes(cohort, count):
                params.derive(adversary, roster_size, size, corrupt, dropout)
        except Infeasible:
            return False
        return True

    fewest = -(-cohort // MAX_COMPLETE)
    found = _last(lambda more: works(fewest + more, max_corrupt, max_dropout), shards - 1 - fewest)
    if found is not None:
        return f"shard_size = {-(-cohort // (fewest + found))}"
    found = _last(lambda lost: works(shards, max_corrupt, lost / 1000), int(max_dropout * 1000))
    if found is not None:
        return f"max_dropout = {found / 1000:g}"
    colluders = max(1, math.ceil(Fraction(str(max_corrupt)) * roster_size))
    for count, dropout in ((shards, max_dropout), (fewest, max_dropout), (fewest, min(max_dropout, 0.1))):

        def withstands(place: int, count: int = count, dropout: float = dropout) -> bool:
            return works(count, float(params.rounded_down(place + 1, roster_size)), dropout)

        found = _last(withstands, colluders - 1)
        if found is not None:
            change = "" if count == shards else f", shard_size = {-(-cohort // count)}"
            change += "" if dropout == max_dropout else f", max_dropout = {dropout:g}"
            return f"max_corrupt = {params.rounded_down(found + 1, roster_size)}{change}"
    return "a larger roster and cohort"


def _last(works: Callable[[int], bool], most: int) -> int | None:
    """The largest x from 0 to `most` that works, for something that stops working at some x; None if 0 does not."""
    if most < 0 or not works(0):
        return None
    good, bad = 0, most + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if works(middle) else (good, middle)
    return good
