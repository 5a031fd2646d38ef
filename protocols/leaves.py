"""Leaves of a deal, made and opened, in classical and in hybrid sessions; and the secrets behind pair masks.

A leaf that its dealer made unreadable leaves nothing to hold, and the other leaves still count. A pad that does not
open is another matter: without it the client cannot mask as its neighbour does, so it stops and blames the dealer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocols import hybrid, kem, keys, shares, wire
from protocols.errors import FaultyClient, Malformed
from protocols.hybrid import KeyPair, SealedPad
from protocols.states import Held, Peer
from protocols.wire import RoundPlan


def public_key(plan: RoundPlan, secret: bytes) -> bytes:
    """The key to announce for a 32-byte secret: X25519's, or in a hybrid session the pair's."""
    return KeyPair.from_seed(secret).public if plan.post_quantum else keys.public_key(secret)


def curve_secret(plan: RoundPlan, secret: bytes) -> bytes:
    """The X25519 secret of an announced key."""
    return KeyPair.from_seed(secret).curve if plan.post_quantum else secret


def refuse_unusable(plan: RoundPlan, public: bytes) -> None:
    """keys.UnusableKey unless everybody in this session can agree with the key."""
    if plan.post_quantum:
        hybrid.refuse_unusable(public)
    elif len(public) != keys.KEY_BYTES:
        raise keys.UnusableKey("a key of the wrong size")
    else:
        keys.refuse_low_order(public)


def kind(plan: RoundPlan) -> type[wire.Leaf]:
    """The message that a leaf is in this session."""
    return wire.HybridLeaf if plan.post_quantum else wire.Leaf


def pad_in(leaf: wire.Leaf) -> SealedPad:
    """The sealed pad of a leaf; one of wrong sizes if it has none."""
    if not isinstance(leaf, wire.HybridLeaf):
        return hybrid.NO_PAD
    return SealedPad(leaf.pad_commitment, leaf.pad_ciphertext, leaf.pad_box)


def has_right_pad(leaf: wire.Leaf, dealer: int) -> bool:
    """Whether a leaf has a pad exactly if the session and the two ids want one."""
    wanted = isinstance(leaf, wire.HybridLeaf) and leaf.holder > dealer
    return pad_in(leaf).right_sizes if wanted else pad_in(leaf) == hybrid.NO_PAD


@dataclass(frozen=True)
class Dealer:
    """What all leaves of one client's deal are made with."""

    plan: RoundPlan
    s1: bytes
    id: int
    encapsulate: kem.Encapsulate = field(repr=False)
    mask_secret: bytes = field(repr=False)

    def leaf(self, holder: wire.Announcement, sealing: bytes, seed_share: bytes, key_share: bytes) -> wire.Leaf:
        """The leaf of one holder; `sealing` is the X25519 secret shared with it. FaultyClient if its keys are none."""
        seed_hash = keys.share_commitment(self.s1, self.id, holder.client, keys.SEED, seed_share)
        key_hash = keys.share_commitment(self.s1, self.id, holder.client, keys.MASK_KEY, key_share)
        ciphertext = b""
        if self.plan.post_quantum:
            secret, ciphertext = self._encapsulated(holder)
            sealing = hybrid.sealing_secret(sealing, secret, self.s1, self.id, holder.client, ciphertext)
        seal = keys.Seal.between(sealing, self.s1, self.id, holder.client, (seed_hash, key_hash))
        seed_box, key_box = seal.close(keys.SEED, seed_share), seal.close(keys.MASK_KEY, key_share)
        if not self.plan.post_quantum:
            return wire.Leaf(holder.client, seed_hash, seed_box, key_hash, key_box)
        pad = self._pad(holder)
        return wire.HybridLeaf(
            holder.client, seed_hash, seed_box, key_hash, key_box, ciphertext, pad.commitment, pad.ciphertext, pad.box
        )

    def _encapsulated(self, holder: wire.Announcement) -> tuple[bytes, bytes]:
        try:
            return self.encapsulate(hybrid.kem_part(holder.seal_key))
        except ValueError:
            raise FaultyClient(holder.client, "announced a malformed ML-KEM key") from None

    def _pad(self, holder: wire.Announcement) -> SealedPad:
        """The lower id gives the pad; the other way there is none."""
        if holder.client <= self.id:
            return hybrid.NO_PAD
        # Derived from the seed that is shared, so that whoever rebuilds the seed of either client finds the same pad.
        pad = hybrid.pad_of(self.mask_secret, self.s1, self.id, holder.client)
        try:
            return hybrid.seal_pad(self.encapsulate, holder.mask_key, self.s1, self.id, holder.client, pad)
        except ValueError:
            raise FaultyClient(holder.client, "announced a malformed ML-KEM key") from None


@dataclass(frozen=True)
class Holder:
    """What a client opens its leaves with; the key pairs of hybrid sessions only."""

    plan: RoundPlan
    s1: bytes
    id: int
    seal: KeyPair | None
    mask: KeyPair | None

    @classmethod
    def of(cls, plan: RoundPlan, s1: bytes, me: int, seal_secret: bytes, mask_secret: bytes) -> Holder:
        """Rebuilds both key pairs from the client's secrets."""
        if not plan.post_quantum:
            return cls(plan, s1, me, None, None)
        return cls(plan, s1, me, KeyPair.from_seed(seal_secret), KeyPair.from_seed(mask_secret))

    def shares_in(self, dealer: int, data: bytes, sealing: bytes) -> Held:
        """The two shares of a leaf, or nothing to hold; `sealing` is the X25519 secret shared with its dealer."""
        try:
            leaf = self._decoded(data)
            # Never by X25519 alone in a hybrid session: a server could relay a classical leaf to take the post-quantum
            # half away. `_decoded` takes no other kind.
            if isinstance(leaf, wire.HybridLeaf) and self.seal is not None:
                secret = kem.decapsulate(self.seal.kem, leaf.seal_ciphertext)
                sealing = hybrid.sealing_secret(sealing, secret, self.s1, dealer, self.id, leaf.seal_ciphertext)
            commitments = (leaf.seed_commitment, leaf.key_commitment)
            seal = keys.Seal.between(sealing, self.s1, dealer, self.id, commitments)
            seed_share = seal.open(keys.SEED, leaf.seed_box, leaf.seed_commitment)
            key_share = seal.open(keys.MASK_KEY, leaf.key_box, leaf.key_commitment)
            # An honest holder that kept what is no field element would be blamed when it opens it: a dealer framing it.
            shares.parse(seed_share)
            shares.parse(key_share)
        except Malformed:
            # No blame and no end: a dealer must not be able to stop its neighbours, and a liar must not be able to
            # accuse it. The empty share says it at the opening, where complaints are counted.
            return Held(dealer, b"", b"")
        return Held(dealer, seed_share, key_share)

    def pad_in(self, dealer: int, data: bytes) -> bytes:
        """The pad that a dealer of lower id gave; empty in a classical session. FaultyClient if it does not open."""
        if self.mask is None:
            return b""
        try:
            return hybrid.open_pad(self.mask, self.s1, dealer, self.id, pad_in(self._decoded(data)))
        except Malformed:
            raise FaultyClient(dealer, "sealed a pad that does not open") from None

    def _decoded(self, data: bytes) -> wire.Leaf:
        message = kind(self.plan)
        return wire.decode(message, data, wire.limit(message, self.plan))

    def pair_secrets(self, mask_secret: bytes, peers: tuple[Peer, ...], pads: Mapping[int, bytes]) -> dict[int, bytes]:
        """The secret behind the pair masks with each peer; `pads` holds what peers of lower id sealed to this client.
        FaultyClient for a key of small order.
        """
        curve = mask_secret if self.mask is None else self.mask.curve
        found = {}
        for peer in peers:
            try:
                secret = keys.agree(curve, hybrid.curve_part(peer.mask_key))
            except keys.LowOrderPoint:
                raise FaultyClient(peer.id, "announced a mask key of small order") from None
            if self.mask is not None:
                pad = pads[peer.id] if peer.id < self.id else hybrid.pad_of(mask_secret, self.s1, self.id, peer.id)
                secret = hybrid.pair_secret(secret, pad, self.s1, self.id, peer.id)
            found[peer.id] = secret
        return found
