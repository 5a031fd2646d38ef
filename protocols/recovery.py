"""From opened shares to the sum: checks every share against its commitment, rebuilds, takes off the masks.

Blame follows the signed commitments. A share that does not match blames its holder. Shares that match
but rebuild a key or a seed other than the one announced or committed to blame the dealer. A holder may
say that its leaf did not open; only when more than c holders say so is one of them honest, and then the
dealer is to blame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from protocols import keys, leaves, masks, ring, shares, wire
from protocols.errors import FaultyClient, Malformed, TooFewClients
from protocols.graph import Graph
from protocols.pads import Pads, left_secrets
from protocols.wire import RoundPlan, Step


@dataclass
class Openings:
    """What was dealt to whom (commitments only), and the shares opened so far."""

    plan: RoundPlan
    s1: bytes
    graph: Graph
    outcome: bytes = b""
    survivors: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    _seeds: dict[int, bytes] = field(default_factory=dict)
    _deals: dict[int, dict[int, tuple[bytes, bytes]]] = field(default_factory=dict)
    _opened: dict[int, dict[int, int]] = field(default_factory=dict, repr=False)
    _complaints: dict[int, int] = field(default_factory=dict)
    _survivors: frozenset[int] = frozenset()
    _pads: Pads = field(default_factory=Pads)

    def add_deal(self, dealer: int, seed_commitment: bytes, dealt: Sequence[wire.Leaf]) -> None:
        """Remembers one dealer's commitments, and in a hybrid session its sealed pads."""
        self._pads.add(dealer, dealt)
        self._seeds[dealer] = seed_commitment
        self._deals[dealer] = {leaf.holder: (leaf.seed_commitment, leaf.key_commitment) for leaf in dealt}

    def settle(self, outcome: bytes, survivors: tuple[int, ...], dropped: tuple[int, ...]) -> None:
        """Fixes, once, whose seeds and whose mask keys will be opened."""
        if self.outcome:
            raise ValueError("an outcome is already fixed")
        self.outcome, self.survivors, self.dropped = outcome, survivors, dropped
        self._survivors = frozenset(survivors)
        self._pads.keep(dropped)
        self._opened = {dealer: {} for dealer in (*survivors, *dropped)}
        self._complaints = dict.fromkeys(self._opened, 0)

    def take(self, holder: int, opened: Sequence[wire.OpenedShare]) -> None:
        """Counts a holder's right shares. FaultyClient if any is wrong, missing or not the holder's to
        open.
        """
        expected = tuple(dealer for dealer in self.graph.holders(holder) if dealer in self._opened)
        if tuple(entry.dealer for entry in opened) != expected:
            raise FaultyClient(holder, "did not open exactly one share per dealer")
        wrong = 0
        for entry in opened:
            if not entry.share:
                self._complaints[entry.dealer] += 1
                continue
            try:
                self._opened[entry.dealer][holder] = self._checked(holder, entry)
            except Malformed:
                wrong += 1
        if wrong:
            raise FaultyClient(holder, f"opened {wrong} shares that do not match their commitments")

    def rebuild(self, announced: Mapping[int, wire.Announcement], blamed: dict[int, str]) -> dict[int, bytes]:
        """Each survivor's seed and each dropped client's mask secret."""
        return {dealer: self._rebuilt(dealer, announced[dealer], blamed) for dealer in self._opened}

    def left_secrets(
        self, announced: Mapping[int, wire.Announcement], secrets: Mapping[int, bytes]
    ) -> dict[tuple[int, int], bytes]:
        """What each dropped client agreed on with every survivor that masked towards it. FaultyClient for a client
        whose pad is wrong.
        """
        pairs = {lost: self._survivors.intersection(self.graph.holders(lost)) for lost in self.dropped}
        return left_secrets(self.plan, self.s1, self._pads, pairs, announced, secrets)

    def _checked(self, holder: int, entry: wire.OpenedShare) -> int:
        kind, place = (keys.SEED, 0) if entry.dealer in self._survivors else (keys.MASK_KEY, 1)
        commitment = keys.share_commitment(self.s1, entry.dealer, holder, kind, entry.share)
        if commitment != self._deals[entry.dealer][holder][place]:
            raise Malformed("share does not match its commitment")
        return shares.parse(entry.share)

    def _rebuilt(self, dealer: int, announcement: wire.Announcement, blamed: dict[int, str]) -> bytes:
        opened, threshold = self._opened[dealer], self.plan.threshold
        if len(opened) < threshold:
            if self._complaints[dealer] > self.plan.colluders:
                raise FaultyClient(dealer, "dealt leaves that do not open")
            raise TooFewClients(Step.UNMASK.value, len(opened), threshold, blamed)
        holders = sorted(opened)[:threshold]
        points = [self.graph.point(holder) for holder in holders]
        try:
            secret = shares.rebuild(points, [opened[holder] for holder in holders])
        except Malformed:
            raise FaultyClient(dealer, "dealt inconsistent shares") from None
        self._check_secret(dealer, announcement, secret)
        return secret

    def _check_secret(self, dealer: int, announcement: wire.Announcement, secret: bytes) -> None:
        if dealer in self._survivors:
            right = keys.seed_commitment(self.s1, dealer, secret) == self._seeds[dealer]
        else:
            right = leaves.public_key(self.plan, secret) == announcement.mask_key
        if not right:
            raise FaultyClient(dealer, "dealt shares of another secret")


def remove_masks(
    plan: RoundPlan,
    s2: bytes,
    openings: Openings,
    announced: Mapping[int, wire.Announcement],
    secrets: Mapping[int, bytes],
    sums: Mapping[str, ring.Lanes],
) -> None:
    """Subtracts, in place, the survivors' self masks and what the dropped clients' pair masks left in the
    sum.
    """
    shared = openings.left_secrets(announced, secrets)
    for name, _ in plan.vectors:
        own = ((keys.self_key(secrets[client], s2, client, name), -1) for client in openings.survivors)
        # The survivor added this mask if its id is the lower one, and subtracted it otherwise.
        pairs = (
            (keys.pair_key(secret, s2, lost, other, name), -1 if other < lost else 1)
            for (lost, other), secret in shared.items()
        )
        masks.add_masks(sums[name], chain(own, pairs))
