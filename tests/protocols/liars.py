"""Clients that lie, each rightly signed: what an honest server and honest clients make of them is the tests' matter."""

from dataclasses import replace

import msgspec

from protocols import envelope, hybrid, keys, labels, merkle, shares, wire
from protocols.states import decode_state, encode_state
from protocols.wire import Step


class Dealer:
    """A client that deals what it likes, rightly signed. `change` maps (kind, position, share) to another share."""

    def __init__(self, world, client, change=None, leaf=None, seed_commitment=None):
        self.world, self.client = world, client
        self.change = change or (lambda kind, position, share: share)
        self.leaf = leaf or (lambda position, data: data)
        self.seed_commitment = seed_commitment
        self.announcements = None

    def tamper(self, step, who, up, data):
        if step is Step.SHARE and who == self.client:
            if up:
                return self.deal(data)
            self.announcements = data
        return data

    def deal(self, data):
        world, me = self.world, self.client
        s1 = labels.digest(labels.HASH_ANNOUNCED, self.announcements)
        right = envelope.unverified(wire.Deal, data)
        store, identity = world.drivers[me]._store, world.identities[me]

        state = decode_state(store.state(identity.public, wire.session_of(world.plan)))
        leaves = []
        for position, (peer, old) in enumerate(zip(state.peers, right.leaves, strict=True)):
            leaf = wire.decode(wire.Leaf, old, 1000)
            seal = keys.Seal.between(peer.sealing, s1, me, peer.id, (leaf.seed_commitment, leaf.key_commitment))
            parts = {
                keys.SEED: seal.open(keys.SEED, leaf.seed_box, leaf.seed_commitment),
                keys.MASK_KEY: seal.open(keys.MASK_KEY, leaf.key_box, leaf.key_commitment),
            }
            parts = {kind: self.change(kind, position, part) for kind, part in parts.items()}
            hashes = tuple(keys.share_commitment(s1, me, peer.id, kind, part) for kind, part in parts.items())
            seal = keys.Seal.between(peer.sealing, s1, me, peer.id, hashes)
            boxes = [seal.close(kind, part) for kind, part in parts.items()]
            new = wire.encode(wire.Leaf(peer.id, hashes[0], boxes[0], hashes[1], boxes[1]))
            leaves.append(self.leaf(position, new))
        root = merkle.root([merkle.leaf_hash(leaf) for leaf in leaves])
        commitment = self.seed_commitment or right.seed_commitment
        entry = wire.SignedRoot(me, root, commitment, bytes(64))
        signature = identity.sign(labels.SIGN_DEAL, wire.root_payload(s1, entry))
        # It must believe its own deal, or it would call the server a liar.
        own = msgspec.structs.replace(entry, signature=signature)
        store._states[identity.public, wire.session_of(world.plan)] = self.believing(state, own)
        return world.sealed(me, Step.SHARE, wire.Deal(me, commitment, tuple(leaves), signature))

    @staticmethod
    def believing(state, own):

        return encode_state(msgspec.structs.replace(state, own=own))


def other_share(share):
    """Not one more: X25519 clamps the lowest bits, so a mask secret larger by one is the same key."""
    return ((shares.parse(share) + 2**64) % shares.PRIME).to_bytes(33, "little")


def broken_leaf(data):
    leaf = wire.decode(wire.Leaf, data, 1000)
    return wire.encode(msgspec.structs.replace(leaf, seed_box=bytes(49)))


def reopened(world, holder, change, dealers=lambda entries: entries):
    """Changes a holder's opening and signs it again."""
    seen = {}

    def tamper(step, who, up, data):
        if step is Step.AGREE and not up:
            seen["uploads"] = wire.decode(wire.Uploads, data, 1 << 20)
        if (step, who, up) != (Step.UNMASK, holder, True):
            return data
        opening = envelope.unverified(wire.Opening, data)
        opened = tuple(wire.OpenedShare(e.dealer, change(e.share)) for e in dealers(opening.shares))
        outcome = agreed_outcome(world, holder)
        signature = world.identities[holder].sign(labels.SIGN_OPENING, wire.opening_payload(outcome, holder, opened))
        return world.sealed(holder, Step.UNMASK, wire.Opening(holder, opened, signature))

    return tamper


def agreed_outcome(world, holder):
    """What the holder agreed to, from its own earlier state."""
    return world.outcomes[holder]


def spoil_pads(monkeypatch, culprit, victims, change):
    """One client deals a changed pad to some holders; its leaves, root and signature are otherwise right."""
    seal = hybrid.seal_pad

    def spoiling(encapsulate, public, s1, low, high, pad):
        if low == culprit and high in victims:
            return change(lambda given: seal(encapsulate, public, s1, low, high, given), pad)
        return seal(encapsulate, public, s1, low, high, pad)

    monkeypatch.setattr(hybrid, "seal_pad", spoiling)


def flipped(part):
    def change(seal, pad):
        sealed = seal(pad)
        data = getattr(sealed, part)
        return replace(sealed, **{part: bytes([data[0] ^ 1]) + data[1:]})

    return change
