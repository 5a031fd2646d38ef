"""The server's side: five frozen states and the result.

Who hands what to whom:

                 AwaitingAnnouncements  --plan------------->  clients
    announcements  AwaitingDeals        --announcements---->  announcers          S1 names them
    deals          AwaitingUploads      --leaves, roots---->  sharers             S2 names them
    uploads        AwaitingAgreements   --upload digests--->  survivors           the outcome names them
    agreements     AwaitingOpenings     --T signatures----->  who agreed
    openings       Recovered            the sum over the survivors

A state's `judge` says what one answer is worth, and changes nothing; its `close` makes the next state of all answers
taken. An `Inbox` (collect.py) stands around each and keeps what was taken, whose answer it was and who is to blame.

The one exception: uploads are added on arrival to sums that change in place, since n copies of a vector fit no memory.
What they hold is masked until the survivors' shares take the masks off the sum itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from protocols import keys, labels, leaves, merkle, recovery, ring, wire
from protocols.collect import Inbox, IsNew, Judged, Outgoing, Record, Session, State
from protocols.errors import FaultyClient, FaultyClientOrServer, Ignored, Malformed
from protocols.graph import Graph
from protocols.hybrid import SealedPad
from protocols.identity import Identity, Verify, verify_signature
from protocols.pads import Pads, pads_in
from protocols.recovery import Commitments, Dealt, Opened, Outcome, Recovered
from protocols.roster import Roster
from protocols.upload import Incoming, content_digest
from protocols.wire import RoundPlan, Step

__all__ = [
    "AwaitingAgreements", "AwaitingAnnouncements", "AwaitingDeals", "AwaitingOpenings", "AwaitingUploads", "Inbox",
    "Recovered", "State", "begin", "open_session",
]  # fmt: skip


def open_session(
    identity: Identity,
    plan: RoundPlan,
    roster: Roster,
    verify: Verify = verify_signature,
    record: Record | None = None,
) -> Inbox:
    """Starts a session: signs the plan for its cohort. ValueError if the plan does not fit the roster.

    `record` is given every message that its client signed: with plan and roster they are the session's transcript.
    """
    signature = identity.sign(labels.SIGN_PLAN, wire.encode(plan))
    return begin(plan, roster, verify, wire.encode(wire.SignedPlan(plan, signature)), record)


def begin(plan: RoundPlan, roster: Roster, verify: Verify, opening: bytes, record: Record | None = None) -> Inbox:
    """`open_session` with the server's opening message given: whoever replays a transcript has none, and needs none."""
    if (plan.roster_digest, plan.roster_version) != (roster.digest, roster.version):
        raise ValueError("the plan names another roster")
    # Our own misuse, hence no blame: clients would refuse such a plan, and blame this server for it.
    if not wire.ascending(plan.cohort) or any(client not in roster for client in plan.cohort):
        raise ValueError("the cohort must be ascending ids of the roster")
    session = Session(plan, roster, verify, wire.session_of(plan))
    return Inbox(AwaitingAnnouncements(session, opening), record=record)


@dataclass(frozen=True)
class AwaitingAnnouncements:
    """Sent the plan; collects keys."""

    session: Session
    message: bytes

    step: ClassVar[Step] = Step.ANNOUNCE

    @cached_property
    def outgoing(self) -> Outgoing:
        """The signed plan, to the cohort."""
        return Outgoing(self.session.plan.cohort, lambda client: self.message)

    @property
    def least(self) -> int:
        """Fewer announcers could not survive to the floor."""
        return self.session.plan.floor

    def judge(self, client: int, data: bytes, is_new: IsNew) -> Judged | None:
        """Takes one announcement. Unusable keys are refused here, so that no honest client meets them."""
        session = self.session
        entry = session.open(client, wire.Announcement, data, is_new)
        if entry is None:
            return None
        payload = wire.announcement_payload(session.id, entry)
        session.check(client, entry.client, labels.SIGN_ANNOUNCEMENT, payload, entry.signature)
        try:
            leaves.refuse_unusable(session.plan, entry.mask_key)
            leaves.refuse_unusable(session.plan, entry.seal_key)
        except keys.UnusableKey as error:
            raise FaultyClient(client, f"announced {error}") from None
        return Judged(entry)

    def close(self, answers: Mapping[int, wire.Announcement]) -> AwaitingDeals:
        """Relays all announcements to all announcers."""
        announced = {client: answers[client] for client in sorted(answers)}
        message = wire.encode(wire.Announcements(self.session.id, tuple(announced.values())))
        s1 = labels.digest(labels.HASH_ANNOUNCED, message)
        return AwaitingDeals(self.session, message, announced, s1, Graph(self.session.plan, s1, announced))


@dataclass(frozen=True)
class Deal:
    """What the server keeps of one deal: the leaves only until they are delivered."""

    root: wire.SignedRoot
    leaves: Mapping[int, bytes]
    commitments: Commitments
    pads: Mapping[tuple[int, int], SealedPad]


@dataclass(frozen=True)
class AwaitingDeals:
    """Sent all announcements; collects dealt leaves."""

    session: Session
    message: bytes
    announced: Mapping[int, wire.Announcement]
    s1: bytes
    graph: Graph

    step: ClassVar[Step] = Step.SHARE

    @cached_property
    def outgoing(self) -> Outgoing:
        """All announcements, to the announcers."""
        return Outgoing(tuple(self.announced), lambda client: self.message)

    @property
    def least(self) -> int:
        """Fewer sharers could not survive to the floor."""
        return self.session.plan.floor

    def judge(self, client: int, data: bytes, is_new: IsNew) -> Judged | None:
        """Takes one deal: a leaf for every holder in order, under a root that the server computes itself."""
        deal = self.session.open(client, wire.Deal, data, is_new)
        if deal is None:
            return None
        # Computed from what is here: a root that the dealer names could be signed over other leaves than it dealt, and
        # their holders would be blamed for what they never had.
        root = merkle.root([merkle.leaf_hash(leaf) for leaf in deal.leaves])
        entry = wire.SignedRoot(deal.dealer, root, deal.seed_commitment, deal.signature)
        payload = wire.root_payload(self.s1, entry)
        self.session.check(client, deal.dealer, labels.SIGN_DEAL, payload, deal.signature)
        dealt = self._parsed(client, deal)
        of = dict(zip(self.graph.holders(client), deal.leaves, strict=True))
        # All that recovery needs: boxes go out with the deliveries and are kept no longer.
        commitments = {leaf.holder: (leaf.seed_commitment, leaf.key_commitment) for leaf in dealt}
        return Judged(Deal(entry, of, commitments, pads_in(client, dealt)))

    def close(self, answers: Mapping[int, Deal]) -> AwaitingUploads:
        """Delivers to every sharer its own leaves and everybody's roots."""
        session, deals = self.session, {client: answers[client] for client in sorted(answers)}
        roots = wire.encode(wire.Roots(session.id, tuple(deal.root for deal in deals.values())))
        dealt = Dealt(
            session.plan,
            self.s1,
            self.graph,
            self.announced,
            {client: deal.root.seed_commitment for client, deal in deals.items()},
            {client: deal.commitments for client, deal in deals.items()},
            Pads({pair: pad for deal in deals.values() for pair, pad in deal.pads.items()}),
        )
        outgoing = Outgoing(tuple(deals), _deliver(session.id, roots, {i: deal.leaves for i, deal in deals.items()}))
        s2 = labels.digest(labels.HASH_DEALT, self.s1, roots)
        sums = {name: np.zeros(length, ring.lanes(session.plan.ring_bits)) for name, length in session.plan.vectors}
        return AwaitingUploads(session, outgoing, dealt, s2, sums)

    def _parsed(self, client: int, deal: wire.Deal) -> tuple[wire.Leaf, ...]:
        kind = leaves.kind(self.session.plan)
        limit = wire.limit(kind, self.session.plan)
        try:
            dealt = tuple(wire.decode(kind, leaf, limit) for leaf in deal.leaves)
        except Malformed as error:
            raise FaultyClient(client, f"dealt a malformed leaf: {error}") from None
        if tuple(leaf.holder for leaf in dealt) != self.graph.holders(client):
            raise FaultyClient(client, "did not deal exactly one leaf to each holder")
        if not all(leaves.has_right_pad(leaf, client) for leaf in dealt):
            raise FaultyClient(client, "dealt a malformed leaf: a pad to every holder of higher id, and to no other")
        return dealt


def _deliver(session: bytes, roots: bytes, dealt: Mapping[int, Mapping[int, bytes]]) -> Callable[[int], bytes]:
    """Makes each holder's message; inclusion paths are computed once per dealer, when the first message is wanted."""
    inbox: dict[int, list[wire.Delivery]] = {}

    def make(client: int) -> bytes:
        if not inbox:
            inbox.update({sharer: [] for sharer in dealt})
            for dealer, leaves_of in dealt.items():
                paths = merkle.inclusion_paths([merkle.leaf_hash(leaf) for leaf in leaves_of.values()])
                for (holder, leaf), path in zip(leaves_of.items(), paths, strict=True):
                    if holder in inbox:
                        inbox[holder].append(wire.Delivery(dealer, leaf, path))
        return wire.encode(wire.Deliveries(session, roots, tuple(inbox[client])))

    return make


@dataclass(frozen=True)
class AwaitingUploads:
    """Delivered the deals; adds up masked vectors, in `sums`."""

    session: Session
    outgoing: Outgoing
    dealt: Dealt
    s2: bytes
    sums: Mapping[str, ring.Lanes] = field(repr=False)

    step: ClassVar[Step] = Step.MASK

    @property
    def least(self) -> int:
        """No sum over fewer than the floor is ever opened."""
        return self.session.plan.floor

    def judge(self, client: int, data: bytes, is_new: IsNew) -> Judged | None:
        """Takes one upload and adds it. Nothing is added unless all of it is right. In a hybrid session takes a
        complaint, too: its client uploads nothing, and accuses.
        """
        plan = self.session.plan
        try:
            upload = Incoming.read(data, client, plan)  # copies nothing: garbage costs its bytes
        except Malformed as error:
            if plan.post_quantum:
                return self._complaint(client, data, is_new)
            raise Ignored(client, str(error)) from None
        entry = upload.entry
        if not is_new(content_digest(entry), upload.signature):
            return None
        payload = wire.upload_payload(self.s2, entry)
        self.session.check(client, client, labels.SIGN_UPLOAD, payload, entry.signature)
        try:
            # All vectors before any is added: a wrong second one must not leave the first one in the sum.
            for (_, length), packed in zip(plan.vectors, upload.vectors, strict=True):
                ring.check_packed(packed, length, plan.ring_bits)
        except Malformed as error:
            raise FaultyClient(client, f"uploaded a malformed vector: {error}") from None
        for (name, _), packed in zip(plan.vectors, upload.vectors, strict=True):
            ring.add_packed(self.sums[name], packed, plan.ring_bits)
        return Judged(entry)

    def _complaint(self, client: int, data: bytes, is_new: IsNew) -> Judged | None:
        """Which of the two lies shows only if the session goes on and the client's mask seed is rebuilt."""
        entry = self.session.open(client, wire.Complaint, data, is_new)
        if entry is None:
            return None
        if entry.s2 != self.s2:
            raise FaultyClientOrServer(client, "holds another view of the session ('complaint')")
        if entry.client != client or not self.dealt.pads.has(entry.dealer, client):
            raise FaultyClient(client, "complained about a pad that it was not dealt")
        return Judged(None, accused=entry.dealer)

    def close(self, answers: Mapping[int, wire.UploadDigest]) -> AwaitingAgreements:
        """Shows the survivors to the survivors."""
        survivors = tuple(sorted(answers))
        entries = tuple(answers[client] for client in survivors)
        # Who dealt and did not upload: the survivors' masks with them are in the sum, and come off with their keys.
        dropped = tuple(client for client in self.outgoing if client not in answers)
        message = wire.encode(wire.Uploads(self.session.id, entries))
        outcome = Outcome(wire.list_digest(self.s2, entries, dropped), survivors, dropped)
        return AwaitingAgreements(self.session, message, self.dealt, self.s2, outcome, self.sums)


@dataclass(frozen=True)
class AwaitingAgreements:
    """Showed the uploads; collects signatures on the outcome."""

    session: Session
    message: bytes
    dealt: Dealt
    s2: bytes
    outcome: Outcome
    sums: Mapping[str, ring.Lanes] = field(repr=False)

    step: ClassVar[Step] = Step.AGREE

    @cached_property
    def outgoing(self) -> Outgoing:
        """The survivors' upload digests, to the survivors."""
        return Outgoing(self.outcome.survivors, lambda client: self.message)

    @property
    def least(self) -> int:
        """A quorum, and enough holders to open anything."""
        return max(self.session.plan.quorum, self.session.plan.threshold)

    def judge(self, client: int, data: bytes, is_new: IsNew) -> Judged | None:
        """Takes one agreement."""
        entry = self.session.open(client, wire.Agreement, data, is_new)
        if entry is None:
            return None
        payload = wire.agreement_payload(self.outcome.digest, client)
        self.session.check(client, entry.signer, labels.SIGN_AGREEMENT, payload, entry.signature)
        return Judged(entry)

    def close(self, answers: Mapping[int, wire.Agreement]) -> AwaitingOpenings:
        """Shows exactly T agreements to all who agreed."""
        signers = tuple(sorted(answers))
        # T of them and no more: further signatures prove nothing new, and go to every client.
        quorum = tuple(answers[client] for client in signers[: self.session.plan.quorum])
        message = wire.encode(wire.Quorum(self.session.id, quorum))
        dealt = self.dealt.without_needless_pads(self.outcome.dropped)
        return AwaitingOpenings(self.session, message, signers, dealt, self.s2, self.outcome, self.sums)


@dataclass(frozen=True)
class AwaitingOpenings:
    """Showed the quorum; collects the shares that take the masks off the sum."""

    session: Session
    message: bytes
    signers: tuple[int, ...]
    dealt: Dealt
    s2: bytes
    outcome: Outcome
    sums: Mapping[str, ring.Lanes] = field(repr=False)

    step: ClassVar[Step] = Step.UNMASK

    @cached_property
    def outgoing(self) -> Outgoing:
        """The quorum, to all who agreed."""
        return Outgoing(self.signers, lambda client: self.message)

    @property
    def least(self) -> int:
        """Of each dealer t right shares are needed, which `close` counts dealer by dealer."""
        return 0

    def judge(self, client: int, data: bytes, is_new: IsNew) -> Judged | None:
        """Takes one holder's shares. Those that match their commitments count even if others do not."""
        opening = self.session.open(client, wire.Opening, data, is_new)
        if opening is None:
            return None
        payload = wire.opening_payload(self.outcome.digest, client, opening.shares)
        self.session.check(client, opening.holder, labels.SIGN_OPENING, payload, opening.signature)
        opened = recovery.check_opening(self.dealt, self.outcome, client, opening.shares)
        wrong = f"opened {opened.wrong} shares that do not match their commitments" if opened.wrong else ""
        return Judged(opened, wrong)

    def close(self, answers: Mapping[int, Opened]) -> Recovered:
        """The sum, or TooFewClients, or FaultyClient for a dealer whose own deal cannot be rebuilt."""
        # All of them, each checked against its commitment, before the first mask comes off: a wrong one found later
        # would leave a sum of noise that nobody is to blame for.
        secrets = recovery.rebuild(self.dealt, self.outcome, answers)
        recovery.remove_masks(self.dealt, self.s2, self.outcome, secrets, self.sums)
        bits = self.session.plan.ring_bits
        totals = {name: ring.to_signed(ring.reduce(total, bits), bits) for name, total in self.sums.items()}
        outcome = self.outcome
        return Recovered(totals, outcome.survivors, outcome.dropped, {}, recovery.disputes(answers))
