"""The client's five steps: announce, share, mask, agree, unmask.

Each takes the state before it, the server's bytes and fresh randomness, and returns the state after it
and the bytes to send. Nothing is sent, stored or remembered here; drive.py does that, and sees to it
that no step is answered twice. Everything that the client's own record can give is derived from it,
never read from the server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from protocols import envelope, hybrid, keys, labels, leaves, masks, merkle, ring, shares, upload, wire
from protocols.errors import BadSignature, FaultyClient, FaultyClientOrServer, FaultyServer, Malformed, TooFewClients
from protocols.graph import Graph
from protocols.member import Limits, Member, open_plan
from protocols.states import (
    Agreed,
    Announced,
    Held,
    Masked,
    Peer,
    Settled,
    Shared,
    State,
    Stopped,
    decode_state,
    encode_state,
)
from protocols.wire import Step

__all__ = [
    "Agreed", "Announced", "Limits", "Masked", "Member", "Settled", "Shared", "Stopped",
    "agree", "announce", "announce_for", "decode_state", "encode_state", "mask", "open_plan", "share", "unmask",
]  # fmt: skip

Values = Mapping[str, NDArray[np.int64]]

RANDOM_BYTES = 32


def announce(
    member: Member, plan_bytes: bytes, context: Mapping[str, bytes], randomness: bytes
) -> tuple[Announced, bytes]:
    """Accepts a plan (see `open_plan`) and announces two fresh keys under the client's signature."""
    return announce_for(member, open_plan(member, plan_bytes, context), randomness)


def announce_for(member: Member, plan: wire.RoundPlan, randomness: bytes) -> tuple[Announced, bytes]:
    """The announcement for a plan that `open_plan` gave: between the two a client may train for hours."""
    _check_randomness(randomness)
    session = wire.session_of(plan)
    # Bound to the session: randomness that repeats (a restored machine, a bad generator) still gives other keys.
    mask_secret = labels.derive(randomness, labels.KEY_MASK_SECRET, session, member.id)
    seal_secret = labels.derive(randomness, labels.KEY_SEAL_SECRET, session, member.id)
    mask_key, seal_key = (leaves.public_key(plan, secret) for secret in (mask_secret, seal_secret))
    blank = wire.Announcement(member.id, mask_key, seal_key, wire.UNSIGNED)
    payload = wire.announcement_payload(session, blank)
    own = msgspec.structs.replace(blank, signature=member.identity.sign(labels.SIGN_ANNOUNCEMENT, payload))
    after = Announced(plan, session, mask_secret, seal_secret, own)
    return after, _signed(member, after, Step.ANNOUNCE, own)


def share(member: Member, state: Announced, relayed: bytes, randomness: bytes) -> tuple[Shared, bytes]:
    """Deals shares of a fresh self-mask seed and of the mask secret key to the neighbours and itself."""
    _check_randomness(randomness)
    message = _decode(wire.Announcements, relayed, state)
    announcers = _check_announcements(state, message)
    # Over the bytes as they came. A server that shows clients different announcements gives them different S1, hence
    # masks that never cancel and outcomes that find no quorum.
    s1 = labels.digest(labels.HASH_ANNOUNCED, relayed)
    graph = Graph(state.plan, s1, announcers)
    holders = graph.holders(member.id)
    _check_announced_by(member, state, message, holders)
    # Sparse graphs only, and chance alone does it with 2^-30 (SPEC.md, section 4): nobody is to blame.
    if len(holders) < state.plan.threshold:
        raise TooFewClients(Step.SHARE.value, len(holders), state.plan.threshold)
    peers = _agree_sealing(state, message, holders)
    seed = labels.derive(randomness, labels.KEY_SEED, s1, member.id)
    dealt = _deal(member, state, s1, graph, message, peers, seed, randomness)
    blank = wire.SignedRoot(
        member.id,
        merkle.root([merkle.leaf_hash(leaf) for leaf in dealt]),
        keys.seed_commitment(s1, member.id, seed),
        wire.UNSIGNED,
    )
    signature = member.identity.sign(labels.SIGN_DEAL, wire.root_payload(s1, blank))
    own = msgspec.structs.replace(blank, signature=signature)
    deal = wire.Deal(member.id, own.seed_commitment, dealt, signature)
    kept = state.seal_secret if state.plan.post_quantum else b""
    after = Shared(state.plan, state.session, s1, announcers, peers, state.mask_secret, seed, own, kept)
    return after, _signed(member, after, Step.SHARE, deal)


def mask(
    member: Member, state: Shared, relayed: bytes, values: Values | Callable[[wire.RoundPlan], Values]
) -> tuple[Masked | Stopped, bytes]:
    """Uploads the values (signed integers, taken modulo 2^b) under one self mask and a mask per neighbour
    that dealt. In a hybrid session a pad that does not open ends the client's part, and its dealer is accused: a mask
    of the client's own making could be taken off the sum by nobody.

    If `values` is a function of the plan, it is called only after all that the server sent was checked, so
    that garbage costs nobody a round of training. ValueError unless the values are one-dimensional int64
    arrays of exactly the plan's names and lengths.
    """
    message = _decode(wire.Deliveries, relayed, state)
    try:
        roots = wire.decode(wire.Roots, message.roots, wire.limit(wire.Roots, state.plan))
    except Malformed as error:
        raise FaultyServer(f"sent malformed roots: {error}") from None
    sharers = _check_roots(state, roots)
    graph = Graph(state.plan, state.s1, state.announcers)
    dealers = tuple(sorted(set(sharers).intersection(graph.holders(member.id))))
    _check_dealt_by(member, state, roots, dealers)
    _check_leaves(member.id, graph, roots, dealers, message.leaves)
    s2 = labels.digest(labels.HASH_DEALT, state.s1, message.roots)  # as S1, of who dealt what
    holder = leaves.Holder.of(state.plan, state.s1, member.id, state.seal_secret, state.mask_secret)
    leaf_of = {delivery.dealer: delivery.leaf for delivery in message.leaves}
    try:
        pads = {dealer: holder.pad_in(dealer, leaf) for dealer, leaf in leaf_of.items() if dealer < member.id}
    except FaultyClient as error:
        stopped = Stopped(state.session, error.client)
        return stopped, _signed(member, stopped, Step.MASK, wire.Complaint(member.id, error.client, s2))
    held, agreed = _open_leaves(holder, state, leaf_of, pads)
    values = values(state.plan) if callable(values) else values
    _check_values(state.plan, values)
    outgoing = upload.Outgoing(member.id, [length for _, length in state.plan.vectors], state.plan.ring_bits)
    _mask_into(outgoing, state, s2, agreed, values)
    own, data = outgoing.signed(state.session, s2, member.identity)
    return Masked(state.plan, state.session, s2, sharers, held, own), data


def agree(member: Member, state: Masked, relayed: bytes) -> tuple[Agreed, bytes]:
    """Signs one outcome, and keeps of each dealer only the share which that outcome calls for."""
    message = _decode(wire.Uploads, relayed, state)
    survivors = _check_uploads(member, state, message)
    # Derived, never read: a client in neither list, or in both, would have its masks taken off by half.
    dropped = tuple(client for client in state.sharers if client not in survivors)
    outcome = wire.list_digest(state.s2, message.entries, dropped)
    # Either share, never both: the other one is gone before anything is signed.
    openings = tuple(
        wire.OpenedShare(held.dealer, held.seed_share if held.dealer in survivors else held.key_share)
        for held in state.held
    )
    after = Agreed(state.plan, state.session, outcome, tuple(sorted(survivors)), dropped, openings)
    payload = wire.agreement_payload(outcome, member.id)
    own = wire.Agreement(member.id, member.identity.sign(labels.SIGN_AGREEMENT, payload))
    return after, _signed(member, after, Step.AGREE, own)


def unmask(member: Member, state: Agreed, relayed: bytes) -> tuple[Settled, bytes]:
    """Opens the kept shares, after a quorum of distinct survivors signed exactly the outcome this client
    signed.
    """
    message = _decode(wire.Quorum, relayed, state)
    signers = [entry.signer for entry in message.entries]
    # Ascending, so distinct: one signature counted twice would let c colluders and few others make a quorum.
    if not wire.ascending(signers) or not set(signers) <= set(state.survivors):
        raise FaultyServer("sent agreements that are not by distinct survivors")
    if len(signers) < state.plan.quorum:
        raise FaultyServer(f"sent {len(signers)} agreements, {state.plan.quorum} are needed")
    for entry in message.entries:
        payload = wire.agreement_payload(state.outcome, entry.signer)
        try:
            member.verify(member.roster.public(entry.signer), labels.SIGN_AGREEMENT, payload, entry.signature)
        except BadSignature:
            raise FaultyClientOrServer(entry.signer, "does not agree to this client's list") from None
    payload = wire.opening_payload(state.outcome, member.id, state.openings)
    signature = member.identity.sign(labels.SIGN_OPENING, payload)
    after = Settled(state.session, state.survivors, state.dropped)
    return after, _signed(member, after, Step.UNMASK, wire.Opening(member.id, state.openings, signature))


def _signed(member: Member, after: State, step: Step, message: wire.Answer) -> bytes:
    """A message in its envelope. Uploads, which are large, are built inside theirs."""
    return envelope.sign(member.identity, after.session, member.id, step, message)


Message = TypeVar("Message", wire.Announcements, wire.Deliveries, wire.Uploads, wire.Quorum)


def _decode(kind: type[Message], relayed: bytes, state: Announced | Shared | Masked | Agreed) -> Message:
    try:
        message = wire.decode(kind, relayed, wire.limit(kind, state.plan))
    except Malformed as error:
        raise FaultyServer(f"sent a malformed message: {error}") from None
    if message.session != state.session:
        raise FaultyServer("sent a message of another session")
    return message


def _check_announcements(state: Announced, message: wire.Announcements) -> tuple[int, ...]:
    """The announcers, if they are enough clients of the cohort."""
    announcers = tuple(entry.client for entry in message.entries)
    if not wire.ascending(announcers) or not set(announcers) <= set(state.plan.cohort):
        raise FaultyServer("sent announcements that are not by distinct clients of the cohort")
    # A server in the middle would announce keys of its own in this client's name, and read what is sealed to them.
    if state.own not in message.entries:
        raise FaultyServer("left out or changed this client's own announcement")
    _check_floor(state.plan, len(announcers))
    for entry in message.entries:
        if not len(entry.mask_key) == len(entry.seal_key) == state.plan.key_bytes:
            raise FaultyServer("sent a malformed message: a key of the wrong size")
    return announcers


def _check_announced_by(
    member: Member, state: Announced, message: wire.Announcements, holders: tuple[int, ...]
) -> None:
    """The holders' keys are theirs. Nothing is sealed to anybody else, so a stranger's signature on a sparse graph can
    wait for its upload, which covers it (SPEC.md, section 8). On the complete graph nobody is a stranger.
    """
    wanted = frozenset(holders) - {member.id}  # its own entry was compared, byte for byte
    for entry in message.entries:
        if entry.client not in wanted:
            continue
        payload = wire.announcement_payload(state.session, entry)
        try:
            member.verify(member.roster.public(entry.client), labels.SIGN_ANNOUNCEMENT, payload, entry.signature)
        except BadSignature:
            raise FaultyServer(f"sent an announcement that client {entry.client} did not sign") from None


def _agree_sealing(state: Announced, message: wire.Announcements, holders: tuple[int, ...]) -> tuple[Peer, ...]:
    """The holders of this client's shares, itself too, each with its X25519 secret for sealing."""
    by_client = {entry.client: entry for entry in message.entries}
    secret = leaves.curve_secret(state.plan, state.seal_secret)
    peers = []
    for holder in holders:
        entry = by_client[holder]
        try:
            sealing = keys.agree(secret, hybrid.curve_part(entry.seal_key))
        except keys.LowOrderPoint:
            raise FaultyClient(holder, "announced a sealing key of small order") from None
        peers.append(Peer(holder, entry.mask_key, sealing))
    return tuple(peers)


def _deal(
    member: Member,
    state: Announced,
    s1: bytes,
    graph: Graph,
    message: wire.Announcements,
    peers: tuple[Peer, ...],
    seed: bytes,
    randomness: bytes,
) -> tuple[bytes, ...]:
    """One encoded leaf per holder."""
    dealer, threshold = state.own.client, state.plan.threshold
    points = [graph.point(peer.id) for peer in peers]
    dealt = {}
    for kind, secret in ((keys.SEED, seed), (keys.MASK_KEY, state.mask_secret)):
        coefficients = labels.derive(randomness, labels.KEY_COEFFICIENTS, s1, dealer, kind)
        dealt[kind] = shares.split(secret, points, threshold, coefficients)
    by_client = {entry.client: entry for entry in message.entries}
    make = leaves.Dealer(state.plan, s1, dealer, member.encapsulate, state.mask_secret).leaf
    return tuple(
        wire.encode(make(by_client[peer.id], peer.sealing, seed_share, key_share))
        for peer, seed_share, key_share in zip(peers, dealt[keys.SEED], dealt[keys.MASK_KEY], strict=True)
    )


def _check_roots(state: Shared, roots: wire.Roots) -> tuple[int, ...]:
    """The sharers, if they are enough announcers."""
    sharers = tuple(entry.dealer for entry in roots.entries)
    if roots.session != state.session:
        raise FaultyServer("sent roots of another session")
    if not wire.ascending(sharers) or not set(sharers) <= set(state.announcers):
        raise FaultyServer("sent roots that are not by distinct announcers")
    # A stranger's signature is not checked (SPEC.md, section 8): each client stands guard over its own entry.
    if state.own not in roots.entries:
        raise FaultyServer("left out or changed this client's own root")
    _check_floor(state.plan, len(sharers))
    return sharers


def _check_dealt_by(member: Member, state: Shared, roots: wire.Roots, dealers: tuple[int, ...]) -> None:
    """The roots of the neighbours that dealt are theirs, under this client's S1; strangers as for announcements."""
    wanted = frozenset(dealers) - {member.id}
    for entry in roots.entries:
        if entry.dealer not in wanted:
            continue
        payload = wire.root_payload(state.s1, entry)
        try:
            member.verify(member.roster.public(entry.dealer), labels.SIGN_DEAL, payload, entry.signature)
        except BadSignature:
            raise FaultyServer(f"sent a root that client {entry.dealer} did not sign") from None


def _check_leaves(
    me: int,
    graph: Graph,
    roots: wire.Roots,
    dealers: tuple[int, ...],
    deliveries: tuple[wire.Delivery, ...],
) -> None:
    """Every neighbour that dealt has one leaf here, proven to stand under its dealer's signed root."""
    if tuple(delivery.dealer for delivery in deliveries) != dealers:
        raise FaultyServer("did not deliver exactly one leaf of every neighbour that dealt")
    signed = {entry.dealer: entry.root for entry in roots.entries}
    for delivery in deliveries:
        # Place and size are computed here. Read from the message, they would let a server swap leaves between holders,
        # which then do not open, and have an honest dealer accused.
        holders = graph.holders(delivery.dealer)
        try:
            proven = merkle.root_from_path(
                merkle.leaf_hash(delivery.leaf), holders.index(me), len(holders), delivery.path
            )
        except merkle.BadProof:
            proven = None
        if proven != signed[delivery.dealer]:
            raise FaultyServer(f"delivered a leaf that client {delivery.dealer} did not deal to this client")


def _open_leaves(
    holder: leaves.Holder, state: Shared, leaf_of: Mapping[int, bytes], pads: Mapping[int, bytes]
) -> tuple[tuple[Held, ...], dict[int, bytes]]:
    """The shares dealt to this client, and the secret behind its pair masks with each neighbour that dealt."""
    dealt = [peer for peer in state.peers if peer.id in leaf_of]
    held = tuple(holder.shares_in(peer.id, leaf_of[peer.id], peer.sealing) for peer in dealt)
    others = tuple(peer for peer in dealt if peer.id != holder.id)
    return held, holder.pair_secrets(state.mask_secret, others, pads)


def _mask_into(
    outgoing: upload.Outgoing, state: Shared, s2: bytes, agreed: Mapping[int, bytes], values: Values
) -> None:
    """Values + self mask + masks of higher neighbours - masks of lower ones, modulo 2^b, packed."""
    me = outgoing.client
    for name, _ in state.plan.vectors:
        signed_keys = [(keys.self_key(state.seed, s2, me, name), 1)]
        for other, secret in agreed.items():
            signed_keys.append((keys.pair_key(secret, s2, me, other, name), 1 if me < other else -1))
        outgoing.pack(_fill(values[name], masks.Keystreams(signed_keys)))


def _fill(values: NDArray[np.int64], streams: masks.Keystreams) -> ring.Fill:
    """Piece by piece, so that beside the values and the message nothing grows with the vector."""

    def masked(piece: slice, lanes: ring.Lanes, spare: ring.Octets) -> None:
        lanes[...] = values[piece]  # modulo the lanes' width, as `ring.to_ring`
        streams.add_to(lanes, spare)

    return masked


def _check_uploads(member: Member, state: Masked, message: wire.Uploads) -> frozenset[int]:
    """The survivors, if they are enough sharers, this client among them, each with its signature under its
    S2.
    """
    clients = [entry.client for entry in message.entries]
    survivors = frozenset(clients)
    if not wire.ascending(clients) or not survivors <= set(state.sharers):
        raise FaultyServer("sent uploads that are not by distinct clients that dealt")
    if member.id not in survivors:  # it would open its own mask key's shares while its upload is in the server's hands
        raise FaultyServer("says this client dropped out")
    if state.own not in message.entries:
        raise FaultyServer("changed this client's own upload")
    _check_floor(state.plan, len(survivors))
    for entry in message.entries:
        if entry.client == member.id:
            continue  # compared above, byte for byte
        payload = wire.upload_payload(state.s2, entry)
        try:
            member.verify(member.roster.public(entry.client), labels.SIGN_UPLOAD, payload, entry.signature)
        except BadSignature:
            raise FaultyClientOrServer(entry.client, "uploaded under another view of the session") from None
    return survivors


def _check_floor(plan: wire.RoundPlan, count: int) -> None:
    """`open_plan` made sure that the floor is at least T, t and c + 3: a server that drops all but the victim and its
    colluders would read the victim's values off the sum.
    """
    if count < plan.floor:
        raise FaultyServer(f"goes on with {count} clients, the plan needs {plan.floor}")


def _check_values(plan: wire.RoundPlan, values: Values) -> None:
    if set(values) != {name for name, _ in plan.vectors}:
        raise ValueError("values must have exactly the plan's vector names")
    for name, length in plan.vectors:
        if values[name].shape != (length,) or values[name].dtype != np.int64:
            raise ValueError(f"vector '{name}' must be int64 of length {length}")


def _check_randomness(randomness: bytes) -> None:
    if len(randomness) != RANDOM_BYTES:
        raise ValueError(f"{RANDOM_BYTES} random bytes are needed")
