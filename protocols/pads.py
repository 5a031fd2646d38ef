"""The server's side of pads (SPEC.md, section 10): keeps them sealed, and finds those that dropped clients' masks need.

Whichever of a pair dropped, the pad is the one that the survivor used, or the client that sealed it is to blame.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from protocols import hybrid, keys, leaves, wire
from protocols.errors import FaultyClient, Malformed
from protocols.hybrid import KeyPair, SealedPad
from protocols.wire import RoundPlan


@dataclass(frozen=True)
class Pads:
    """The sealed pads of a session by (lower, higher) id; none in a classical one. About 1.2 kB for each pair."""

    _sealed: Mapping[tuple[int, int], SealedPad] = field(default_factory=dict, repr=False)

    def has(self, dealer: int, holder: int) -> bool:
        """Whether this dealer gave this holder one."""
        return (dealer, holder) in self._sealed

    def keep(self, dropped: Collection[int]) -> Pads:
        """Without the pads of pairs that both survived or both dropped: nobody needs them."""
        gone = frozenset(dropped)
        return Pads({pair: pad for pair, pad in self._sealed.items() if (pair[0] in gone) != (pair[1] in gone)})

    def recover(self, s1: bytes, lost: int, other: int, mask_seed: bytes, mask: KeyPair) -> bytes:
        """The pad of a dropped client, whose rebuilt seed and keys these are, with a survivor.

        FaultyClient for the lower id if it sealed what does not open, or committed to another pad than it derives.
        """
        low, high = min(lost, other), max(lost, other)
        sealed = self._sealed[low, high]
        # What the survivor used is in the lower id's hands: derived from its seed if that dropped, opened from its box
        # if the higher one did.
        if lost == high:
            try:
                return hybrid.open_pad(mask, s1, low, high, sealed)
            except Malformed:
                raise FaultyClient(low, "sealed a pad that does not open") from None
        pad = hybrid.pad_of(mask_seed, s1, low, high)
        if not sealed.commits_to(pad, s1, low, high):
            raise FaultyClient(low, "committed to a pad that its mask seed does not give")
        return pad


def pads_in(dealer: int, dealt: Iterable[wire.Leaf]) -> dict[tuple[int, int], SealedPad]:
    """The pads in one deal."""
    return {
        (dealer, leaf.holder): leaves.pad_in(leaf)
        for leaf in dealt
        if isinstance(leaf, wire.HybridLeaf) and leaf.holder > dealer
    }


def left_secrets(
    plan: RoundPlan,
    s1: bytes,
    pads: Pads,
    pairs: Mapping[int, Iterable[int]],
    announced: Mapping[int, wire.Announcement],
    secrets: Mapping[int, bytes],
) -> dict[tuple[int, int], bytes]:
    """The secrets behind the pair masks that dropped clients left in survivors' vectors, by (dropped, survivor).

    `pairs` maps each dropped client to those survivors.
    """
    found = {}
    for lost, others in pairs.items():
        mask = KeyPair.from_seed(secrets[lost]) if plan.post_quantum else None
        for other in others:
            secret = keys.agree(
                secrets[lost] if mask is None else mask.curve, hybrid.curve_part(announced[other].mask_key)
            )
            if mask is not None:
                pad = pads.recover(s1, lost, other, secrets[lost], mask)
                secret = hybrid.pair_secret(secret, pad, s1, lost, other)
            found[lost, other] = secret
    return found
