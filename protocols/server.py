"""The server's side: five collecting states and the result.

Each state says what to send (`outgoing`), takes one client's answer at a time (`receive`) and ends with
`close`, which gives the next state. Uploads are added on arrival, so memory is one accumulator per
vector, and what it holds is masked until the survivors' shares take the masks off the sum itself.

`receive` raises FaultyClient for a bad answer and remembers the blame; the client then counts as
dropped, unless an answer of its own was already taken. An identical repetition is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocols import keys, labels, leaves, merkle, ring, wire
from protocols.collect import Collector, Outgoing
from protocols.errors import FaultyClient, Malformed
from protocols.graph import Graph
from protocols.identity import Identity, Verify, verify_signature
from protocols.recovery import Openings, remove_masks
from protocols.roster import Roster
from protocols.wire import RoundPlan, Step


@dataclass(frozen=True)
class Recovered:
    """The end: the sum over the survivors, and nothing about any one of them.

    `dropped` dealt but did not upload; clients lost before that are in neither list. `blamed` maps
    clients to what they did wrong, with or without effect.
    """

    totals: dict[str, NDArray[np.int64]]
    survivors: tuple[int, ...]
    dropped: tuple[int, ...]
    blamed: dict[int, str]


def open_session(
    identity: Identity, plan: RoundPlan, roster: Roster, verify: Verify = verify_signature
) -> AwaitingAnnouncements:
    """Starts a session: signs the plan for its cohort. ValueError if the plan does not fit the roster."""
    if (plan.roster_digest, plan.roster_version) != (roster.digest, roster.version):
        raise ValueError("the plan names another roster")
    if not wire.ascending(plan.cohort) or any(client not in roster for client in plan.cohort):
        raise ValueError("the cohort must be ascending ids of the roster")
    signature = identity.sign(labels.SIGN_PLAN, wire.encode(plan))
    message = wire.encode(wire.SignedPlan(plan, signature))
    collector = Collector(plan, roster, verify, wire.session_of(plan), frozenset(plan.cohort), {})
    return AwaitingAnnouncements(collector, message)


class AwaitingAnnouncements:
    """Sent the plan; collects keys."""

    step = Step.ANNOUNCE

    def __init__(self, collector: Collector, message: bytes) -> None:
        self._collector = collector
        self._entries: dict[int, wire.Announcement] = {}
        self.outgoing = Outgoing(tuple(sorted(collector.asked)), lambda client: message)

    @property
    def blamed(self) -> dict[int, str]:
        """Clients that did something wrong so far, and what."""
        return self._collector.blamed

    def receive(self, client: int, data: bytes) -> None:
        """Takes one announcement. Unusable keys are refused here, so that no honest client meets them."""
        collector = self._collector
        if not collector.is_new(client, data):
            return
        entry = collector.decode(client, wire.Announcement, data)
        payload = wire.announcement_payload(collector.session, entry)
        collector.check(client, entry.client, labels.SIGN_ANNOUNCEMENT, payload, entry.signature)
        try:
            leaves.refuse_unusable(collector.plan, entry.mask_key)
            leaves.refuse_unusable(collector.plan, entry.seal_key)
        except keys.UnusableKey as error:
            raise collector.blame(client, f"announced {error}") from None
        collector.take(client, data)
        self._entries[client] = entry

    def close(self) -> AwaitingDeals:
        """Relays all announcements to all announcers, or raises TooFewClients."""
        collector = self._collector
        collector.need(self.step, len(self._entries), collector.plan.floor)
        return AwaitingDeals(collector, self._entries)


class AwaitingDeals:
    """Sent all announcements; collects dealt leaves."""

    step = Step.SHARE

    def __init__(self, collector: Collector, announced: dict[int, wire.Announcement]) -> None:
        announcers = tuple(sorted(announced))
        entries = tuple(announced[client] for client in announcers)
        message = wire.encode(wire.Announcements(collector.session, entries))
        self._collector = collector.after(announcers)
        self._announced = announced
        self._s1 = labels.digest(labels.HASH_ANNOUNCED, message)
        self._graph = Graph(collector.plan, self._s1, announcers)
        self._roots: dict[int, wire.SignedRoot] = {}
        self._leaves: dict[int, dict[int, bytes]] = {}
        self._openings = Openings(collector.plan, self._s1, self._graph)
        self.outgoing = Outgoing(announcers, lambda client: message)

    @property
    def blamed(self) -> dict[int, str]:
        """Clients that did something wrong so far, and what."""
        return self._collector.blamed

    def receive(self, client: int, data: bytes) -> None:
        """Takes one deal: a leaf for every holder in order, under a root that the server computes itself."""
        collector = self._collector
        if not collector.is_new(client, data):
            return
        deal = collector.decode(client, wire.Deal, data)
        root = merkle.root([merkle.leaf_hash(leaf) for leaf in deal.leaves])
        entry = wire.SignedRoot(deal.dealer, root, deal.seed_commitment, deal.signature)
        payload = wire.root_payload(self._s1, entry)
        collector.check(client, deal.dealer, labels.SIGN_DEAL, payload, deal.signature)
        dealt = self._parse(client, deal)
        collector.take(client, data)
        self._roots[client] = entry
        self._leaves[client] = dict(zip(self._graph.holders(client), deal.leaves, strict=True))
        self._openings.add_deal(client, deal.seed_commitment, dealt)

    def close(self) -> AwaitingUploads:
        """Delivers to every sharer its own leaves and everybody's roots, or raises TooFewClients."""
        collector = self._collector
        collector.need(self.step, len(self._roots), collector.plan.floor)
        sharers = tuple(sorted(self._roots))
        roots = wire.encode(wire.Roots(collector.session, tuple(self._roots[dealer] for dealer in sharers)))
        outgoing = Outgoing(sharers, _deliver(collector.session, roots, sharers, self._leaves))
        s2 = labels.digest(labels.HASH_DEALT, self._s1, roots)
        return AwaitingUploads(collector.after(sharers), outgoing, s2, self._announced, self._openings)

    def _parse(self, client: int, deal: wire.Deal) -> tuple[wire.Leaf, ...]:
        collector = self._collector
        kind = leaves.kind(collector.plan)
        limit = wire.limit(kind, collector.plan)
        try:
            dealt = tuple(wire.decode(kind, leaf, limit) for leaf in deal.leaves)
        except Malformed as error:
            raise collector.blame(client, f"dealt a malformed leaf: {error}") from None
        if tuple(leaf.holder for leaf in dealt) != self._graph.holders(client):
            raise collector.blame(client, "did not deal exactly one leaf to each holder")
        if not all(leaves.has_right_pad(leaf, client) for leaf in dealt):
            raise collector.blame(client, "dealt a malformed leaf: a pad to every holder of higher id, and to no other")
        return dealt


def _deliver(
    session: bytes, roots: bytes, sharers: tuple[int, ...], leaves: dict[int, dict[int, bytes]]
) -> Callable[[int], bytes]:
    """Makes each holder's message; inclusion paths are computed once per dealer."""
    inbox: dict[int, list[wire.Delivery]] = {sharer: [] for sharer in sharers}
    for dealer in sharers:
        paths = merkle.inclusion_paths([merkle.leaf_hash(leaf) for leaf in leaves[dealer].values()])
        for (holder, leaf), path in zip(leaves[dealer].items(), paths, strict=True):
            if holder in inbox:
                inbox[holder].append(wire.Delivery(dealer, leaf, path))
    return lambda client: wire.encode(wire.Deliveries(session, roots, tuple(inbox[client])))


class AwaitingUploads:
    """Delivered the deals; adds up masked vectors."""

    step = Step.MASK

    def __init__(
        self,
        collector: Collector,
        outgoing: Outgoing,
        s2: bytes,
        announced: dict[int, wire.Announcement],
        openings: Openings,
    ) -> None:
        plan = collector.plan
        self._collector = collector
        self._s2 = s2
        self._announced = announced
        self._openings = openings
        self._entries: dict[int, wire.UploadDigest] = {}
        self._sums = {name: np.zeros(length, ring.lanes(plan.ring_bits)) for name, length in plan.vectors}
        self.outgoing = outgoing

    @property
    def blamed(self) -> dict[int, str]:
        """Clients that did something wrong so far, and what."""
        return self._collector.blamed

    def receive(self, client: int, data: bytes) -> None:
        """Takes one upload and adds it. Nothing is added unless all of it is right."""
        collector = self._collector
        if not collector.is_new(client, data):
            return
        upload = collector.decode(client, wire.Upload, data)
        entry = wire.UploadDigest(upload.client, wire.upload_digest(upload.vectors), upload.signature)
        payload = wire.upload_payload(self._s2, entry)
        collector.check(client, upload.client, labels.SIGN_UPLOAD, payload, upload.signature)
        self._check_vectors(client, upload)
        for (name, _), packed in zip(collector.plan.vectors, upload.vectors, strict=True):
            ring.add_packed(self._sums[name], packed, collector.plan.ring_bits)
        collector.take(client, data)
        self._entries[client] = entry

    def close(self) -> AwaitingAgreements:
        """Shows the survivors to the survivors, or raises TooFewClients."""
        collector = self._collector
        collector.need(self.step, len(self._entries), collector.plan.floor)
        return AwaitingAgreements(collector, self._s2, self._announced, self._openings, self._entries, self._sums)

    def _check_vectors(self, client: int, upload: wire.Upload) -> None:
        plan = self._collector.plan
        if len(upload.vectors) != len(plan.vectors):
            raise self._collector.blame(client, "uploaded another number of vectors")
        try:
            for (_, length), packed in zip(plan.vectors, upload.vectors, strict=True):
                ring.check_packed(packed, length, plan.ring_bits)
        except Malformed as error:
            raise self._collector.blame(client, f"uploaded a malformed vector: {error}") from None


class AwaitingAgreements:
    """Showed the uploads; collects signatures on the outcome."""

    step = Step.AGREE

    def __init__(
        self,
        collector: Collector,
        s2: bytes,
        announced: dict[int, wire.Announcement],
        openings: Openings,
        uploads: dict[int, wire.UploadDigest],
        sums: dict[str, ring.Lanes],
    ) -> None:
        survivors = tuple(sorted(uploads))
        entries = tuple(uploads[client] for client in survivors)
        dropped = tuple(sorted(collector.asked - set(survivors)))
        message = wire.encode(wire.Uploads(collector.session, entries))
        self._collector = collector.after(survivors)
        self._s2 = s2
        self._announced = announced
        self._sums = sums
        self._openings = openings
        self._outcome = wire.list_digest(s2, entries, dropped)
        self._dropped = dropped
        self._entries: dict[int, wire.Agreement] = {}
        self.outgoing = Outgoing(survivors, lambda client: message)

    @property
    def blamed(self) -> dict[int, str]:
        """Clients that did something wrong so far, and what."""
        return self._collector.blamed

    def receive(self, client: int, data: bytes) -> None:
        """Takes one agreement."""
        collector = self._collector
        if not collector.is_new(client, data):
            return
        entry = collector.decode(client, wire.Agreement, data)
        payload = wire.agreement_payload(self._outcome, client)
        collector.check(client, entry.signer, labels.SIGN_AGREEMENT, payload, entry.signature)
        collector.take(client, data)
        self._entries[client] = entry

    def close(self) -> AwaitingOpenings:
        """Shows exactly T agreements to all who agreed, or raises TooFewClients."""
        collector = self._collector
        signers = tuple(sorted(self._entries))
        collector.need(self.step, len(signers), max(collector.plan.quorum, collector.plan.threshold))
        quorum = tuple(self._entries[client] for client in signers[: collector.plan.quorum])
        message = wire.encode(wire.Quorum(collector.session, quorum))
        survivors = tuple(sorted(collector.asked))
        self._openings.settle(self._outcome, survivors, self._dropped)
        return AwaitingOpenings(
            collector.after(signers),
            Outgoing(signers, lambda client: message),
            self._s2,
            self._announced,
            self._openings,
            self._sums,
        )


class AwaitingOpenings:
    """Showed the quorum; collects the shares that take the masks off the sum."""

    step = Step.UNMASK

    def __init__(
        self,
        collector: Collector,
        outgoing: Outgoing,
        s2: bytes,
        announced: dict[int, wire.Announcement],
        openings: Openings,
        sums: dict[str, ring.Lanes],
    ) -> None:
        self._collector = collector
        self._s2 = s2
        self._announced = announced
        self._openings = openings
        self._sums = sums
        self.outgoing = outgoing

    @property
    def blamed(self) -> dict[int, str]:
        """Clients that did something wrong so far, and what."""
        return self._collector.blamed

    def receive(self, client: int, data: bytes) -> None:
        """Takes one holder's shares. Those that match their commitments count even if others do not."""
        collector = self._collector
        if not collector.is_new(client, data):
            return
        opening = collector.decode(client, wire.Opening, data)
        payload = wire.opening_payload(self._openings.outcome, client, opening.shares)
        collector.check(client, opening.holder, labels.SIGN_OPENING, payload, opening.signature)
        collector.take(client, data)
        try:
            self._openings.take(client, opening.shares)
        except FaultyClient as error:
            raise collector.blame(error.client, error.reason) from None

    def close(self) -> Recovered:
        """The sum, or TooFewClients, or FaultyClient for a dealer whose own deal cannot be rebuilt."""
        collector = self._collector
        try:
            secrets = self._openings.rebuild(self._announced, collector.blamed)
            remove_masks(collector.plan, self._s2, self._openings, self._announced, secrets, self._sums)
        except FaultyClient as error:
            raise collector.blame(error.client, error.reason) from None
        bits = collector.plan.ring_bits
        totals = {name: ring.to_signed(ring.reduce(total, bits), bits) for name, total in self._sums.items()}
        return Recovered(totals, self._openings.survivors, self._openings.dropped, dict(collector.blamed))


State = AwaitingAnnouncements | AwaitingDeals | AwaitingUploads | AwaitingAgreements | AwaitingOpenings
