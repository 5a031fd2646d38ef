"""From opened shares to the sum: checks every share against its commitment, rebuilds, takes off the masks.

Blame follows the signed commitments. A share that does not match blames its holder. Shares that match
but rebuild a key or a seed other than the one announced or committed to blame the dealer. A holder may
say that its leaf did not open: one of the two is lying, and nobody else can tell which. Only when more than c holders
say so is one of them honest, and then the dealer is to blame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from protocols import keys, leaves, masks, ring, shares, wire
from protocols.errors import FaultyClient, Malformed, TooFewClients
from protocols.graph import Graph
from protocols.pads import Pads, left_secrets
from protocols.wire import RoundPlan, Step

Commitments = Mapping[int, tuple[bytes, bytes]]
"""Holder -> what its dealer committed to: the seed's share, the mask key's share."""


@dataclass(frozen=True)
class Recovered:
    """The end: the sum over the survivors, and nothing about any one of them.

    `dropped` dealt but did not upload; clients lost before that are in neither list. `blamed` maps
    clients to what they did wrong, with or without effect. `disputes` are (dealer, holder) where the holder signed that
    its leaf does not open: one of the two is lying.
    """

    totals: dict[str, NDArray[np.int64]]
    survivors: tuple[int, ...]
    dropped: tuple[int, ...]
    blamed: dict[int, str]
    disputes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Dealt:
    """What a session's clients announced and dealt, as far as recovery needs it: no share, no box."""

    plan: RoundPlan
    s1: bytes
    graph: Graph
    announced: Mapping[int, wire.Announcement]
    seeds: Mapping[int, bytes]
    commitments: Mapping[int, Commitments]
    pads: Pads

    def without_needless_pads(self, dropped: tuple[int, ...]) -> Dealt:
        """The same, with the pads that a quorum's outcome calls for: they are most of what a hybrid session holds."""
        return Dealt(
            self.plan, self.s1, self.graph, self.announced, self.seeds, self.commitments, self.pads.keep(dropped)
        )


@dataclass(frozen=True)
class Outcome:
    """What a quorum signs: of the survivors the seeds are opened, of the dropped the mask keys. Never both of one."""

    digest: bytes
    survivors: tuple[int, ...]
    dropped: tuple[int, ...]


@dataclass(frozen=True)
class Opened:
    """One holder's opening: its right shares by dealer, and the dealers whose leaf did not open for it."""

    shares: Mapping[int, int] = field(repr=False)
    complaints: tuple[int, ...]
    wrong: int


def check_opening(dealt: Dealt, outcome: Outcome, holder: int, opened: Sequence[wire.OpenedShare]) -> Opened:
    """What counts of a holder's opening. FaultyClient unless it is for exactly the dealers of which it holds."""
    dealers = frozenset((*outcome.survivors, *outcome.dropped))
    expected = tuple(dealer for dealer in dealt.graph.holders(holder) if dealer in dealers)
    # All of them: a holder that could leave a dealer out would never be caught with a wrong share of it.
    if tuple(entry.dealer for entry in opened) != expected:
        raise FaultyClient(holder, "did not open exactly one share per dealer")
    survivors = frozenset(outcome.survivors)
    right, complaints, wrong = {}, [], 0
    for entry in opened:
        if not entry.share:
            complaints.append(entry.dealer)
            continue
        try:
            right[entry.dealer] = _checked(dealt, entry.dealer in survivors, holder, entry)
        except Malformed:
            wrong += 1
    return Opened(right, tuple(complaints), wrong)


def disputes(openings: Mapping[int, Opened]) -> tuple[tuple[int, int], ...]:
    """(dealer, holder) of every complaint, ascending."""
    return tuple(sorted((dealer, holder) for holder, opened in openings.items() for dealer in opened.complaints))


def rebuild(dealt: Dealt, outcome: Outcome, openings: Mapping[int, Opened]) -> dict[int, bytes]:
    """Each survivor's seed and each dropped client's mask secret.

    FaultyClient for a dealer whose deal gives none, TooFewClients if too few right shares of somebody are there.
    """
    found: dict[int, dict[int, int]] = {dealer: {} for dealer in (*outcome.survivors, *outcome.dropped)}
    complaints = dict.fromkeys(found, 0)
    for holder, opened in openings.items():
        for dealer, share in opened.shares.items():
            found[dealer][holder] = share
        for dealer in opened.complaints:
            complaints[dealer] += 1
    survivors = frozenset(outcome.survivors)
    return {
        dealer: _rebuilt(dealt, dealer, dealer in survivors, held, complaints[dealer]) for dealer, held in found.items()
    }


def remove_masks(
    dealt: Dealt, s2: bytes, outcome: Outcome, secrets: Mapping[int, bytes], sums: Mapping[str, ring.Lanes]
) -> None:
    """Subtracts, in place, the survivors' self masks and what the dropped clients' pair masks left in the
    sum. FaultyClient for a client whose pad is wrong.
    """
    survivors = frozenset(outcome.survivors)
    # Only pairs of one dropped and one survivor are left: of two survivors the masks cancelled, two that dropped added
    # none.
    pairs_left = {lost: survivors.intersection(dealt.graph.holders(lost)) for lost in outcome.dropped}
    shared = left_secrets(dealt.plan, dealt.s1, dealt.pads, pairs_left, dealt.announced, secrets)
    for name, _ in dealt.plan.vectors:
        own = ((keys.self_key(secrets[client], s2, client, name), -1) for client in outcome.survivors)
        # The survivor added this mask if its id is the lower one, and subtracted it otherwise.
        pairs = (
            (keys.pair_key(secret, s2, lost, other, name), -1 if other < lost else 1)
            for (lost, other), secret in shared.items()
        )
        masks.add_masks(sums[name], chain(own, pairs))


def _checked(dealt: Dealt, survived: bool, holder: int, entry: wire.OpenedShare) -> int:
    kind, place = (keys.SEED, 0) if survived else (keys.MASK_KEY, 1)
    commitment = keys.share_commitment(dealt.s1, entry.dealer, holder, kind, entry.share)
    # One wrong share of t gives another secret: without the commitment a single holder spoils every sum unseen.
    if commitment != dealt.commitments[entry.dealer][holder][place]:
        raise Malformed("share does not match its commitment")
    return shares.parse(entry.share)


def _rebuilt(dealt: Dealt, dealer: int, survived: bool, held: Mapping[int, int], complaints: int) -> bytes:
    threshold = dealt.plan.threshold
    if len(held) < threshold:
        if complaints > dealt.plan.colluders:  # one of them is honest, and an honest dealer's leaf opens for it
            raise FaultyClient(dealer, "dealt leaves that do not open")
        raise TooFewClients(Step.UNMASK.value, len(held), threshold)
    # Exactly t, the lowest: every auditor of a transcript rebuilds from the same shares.
    holders = sorted(held)[:threshold]
    points = [dealt.graph.point(holder) for holder in holders]
    try:
        secret = shares.rebuild(points, [held[holder] for holder in holders])
    except Malformed:
        raise FaultyClient(dealer, "dealt inconsistent shares") from None
    if not _is_secret_of(dealt, dealer, survived, secret):
        raise FaultyClient(dealer, "dealt shares of another secret")
    return secret


def _is_secret_of(dealt: Dealt, dealer: int, survived: bool, secret: bytes) -> bool:
    """Whether a rebuilt secret is the one its dealer is bound to: without this an honest survivor's sum is noise."""
    if survived:
        return keys.seed_commitment(dealt.s1, dealer, secret) == dealt.seeds[dealer]
    return leaves.public_key(dealt.plan, secret) == dealt.announced[dealer].mask_key
