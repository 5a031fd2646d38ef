"""A server that plays every other client towards one: it knows all their secrets, because it made them up."""

from dataclasses import dataclass, field

from protocols import envelope, keys, labels, merkle, shares, wire
from protocols.identity import Identity
from protocols.wire import Announcement, Deal, Delivery, RoundPlan, SignedRoot, Step
from threat_model import views
from threat_model.world import Values, World, invented

BLANK = bytes(64)


@dataclass
class LoneVictim:
    """One session of `victim` with invented clients. `signers` are the keys that these sign with, if any."""

    world: World
    victim: int
    plan: RoundPlan
    signers: dict[int, Identity] = field(default_factory=dict)

    @property
    def others(self) -> list[int]:
        """The ids that the server plays."""
        return [client for client in self.plan.cohort if client != self.victim]

    def read(self) -> Values:
        """The victim's values. Raises what the victim raises."""
        session = wire.session_of(self.plan)
        asked = self.world.ask(self.victim, Step.ANNOUNCE, self.world.signed(self.plan))
        own = envelope.unverified(Announcement, asked)
        announced = {i: self._announcement(session, i) for i in self.others} | {self.victim: own}
        message = wire.encode(wire.Announcements(session, tuple(announced[i] for i in self.plan.cohort)))
        s1 = labels.digest(labels.HASH_ANNOUNCED, message)
        deal = envelope.unverified(Deal, self.world.ask(self.victim, Step.SHARE, message))
        deliveries, s2 = self._deliveries(session, s1, deal)
        upload = envelope.unverified(wire.Upload, self.world.ask(self.victim, Step.MASK, deliveries))
        pairs = {i: keys.agree(self._secret("mask", i), own.mask_key) for i in self.others}
        return views.unmasked(self.plan, upload, self._seed(s1, own, deal), pairs, s2)

    def _secret(self, kind: str, client: int) -> bytes:
        return invented("played", kind, client)

    def _announcement(self, session: bytes, client: int) -> Announcement:
        mask_key, seal_key = (keys.public_key(self._secret(kind, client)) for kind in ("mask", "seal"))
        blank = Announcement(client, mask_key, seal_key, BLANK)
        payload = wire.announcement_payload(session, blank)
        return Announcement(client, mask_key, seal_key, self._sign(client, labels.SIGN_ANNOUNCEMENT, payload))

    def _sign(self, client: int, label: str, payload: bytes) -> bytes:
        signer = self.signers.get(client)
        return BLANK if signer is None else signer.sign(label, payload)

    def _seed(self, s1: bytes, own: Announcement, deal: Deal) -> bytes:
        """The victim's seed, out of the shares that it sealed to the invented clients."""
        found = {}
        for leaf in (wire.decode(wire.Leaf, data, views.LIMIT) for data in deal.leaves):
            if leaf.holder == self.victim:
                continue
            shared = keys.agree(self._secret("seal", leaf.holder), own.seal_key)
            commitments = (leaf.seed_commitment, leaf.key_commitment)
            seal = keys.Seal.between(shared, s1, self.victim, leaf.holder, commitments)
            share = seal.open(keys.SEED, leaf.seed_box, leaf.seed_commitment)
            found[self.plan.cohort.index(leaf.holder) + 1] = shares.parse(share)
        points = sorted(found)[: self.plan.threshold]
        return shares.rebuild(points, [found[point] for point in points])

    def _deliveries(self, session: bytes, s1: bytes, deal: Deal) -> tuple[bytes, bytes]:
        """Roots and leaves of the invented dealers, with the victim's own among them, and S2."""
        roots, leaves, place = [], [], self.plan.cohort.index(self.victim)
        for client in self.plan.cohort:
            dealt = deal.leaves if client == self.victim else tuple(bytes([i]) for i in range(len(self.plan.cohort)))
            hashes = [merkle.leaf_hash(leaf) for leaf in dealt]
            own = client == self.victim
            blank = SignedRoot(client, merkle.root(hashes), deal.seed_commitment if own else bytes(32), BLANK)
            signature = deal.signature if own else self._sign(client, labels.SIGN_DEAL, wire.root_payload(s1, blank))
            roots.append(SignedRoot(client, blank.root, blank.seed_commitment, signature))
            leaves.append(Delivery(client, dealt[place], merkle.inclusion_path(hashes, place)))
        encoded = wire.encode(wire.Roots(session, tuple(roots)))
        s2 = labels.digest(labels.HASH_DEALT, s1, encoded)
        return wire.encode(wire.Deliveries(session, encoded, tuple(leaves))), s2
