"""Attacks that work on systems in use, tried on this one. Each runs twice: against our code, where it must fail, and
against a copy weakened in one place, where it must succeed; else its failure would prove nothing."""

import msgspec
import numpy as np
import pytest

from protocols import client, envelope, keys, labels, masks, member, merkle, ring, shares, wire
from protocols.drive import MemoryStore
from protocols.errors import FaultyServer, ProtocolError, Refused, TooFewClients
from protocols.server import open_session
from protocols.wire import Step

WEAKENED = pytest.mark.parametrize("weakened", [False, True], ids=["ours", "weakened"])


class ForgetfulStore(MemoryStore):
    """What a client without a record does: it answers whatever it is asked, as often as it is asked.

    It keeps the state after each step; `before` says which one the next answer starts from.
    """

    before = Step.ANNOUNCE

    def reply(self, identity, session, step):
        return None

    def last_session(self, identity, server, run):
        return -1

    def status(self, identity, session):
        return None

    def put(self, identity, session, step, request_digest, state, reply):
        self._states[identity, session, step] = state
        self.before = step

    def state(self, identity, session):
        return self._states.get((identity, session, self.before))


class Observer:
    """An honest run up to one step, with everything that passed by kept."""

    def __init__(self, world, until):
        self.requests, self.answers = {}, {}
        state = open_session(world.server, world.plan, world.roster, world.verify)
        for step in Step:
            self.requests[step] = {i: state.outgoing[i] for i in state.outgoing}
            if step is until:
                return
            self.answers[step] = {i: world.ask(i, step, m) for i, m in self.requests[step].items()}
            for i, answer in self.answers[step].items():
                state.receive(i, answer)
            state = state.close()

    def view(self, world):
        """(s1, s2, announcements by client) as the server computes them."""
        s1 = labels.digest(labels.HASH_ANNOUNCED, self.requests[Step.SHARE][world.ids[0]])
        message = wire.decode(wire.Deliveries, self.requests[Step.MASK][world.ids[0]], 1 << 20)
        s2 = labels.digest(labels.HASH_DEALT, s1, message.roots)
        announced = {i: envelope.unverified(wire.Announcement, a) for i, a in self.answers[Step.ANNOUNCE].items()}
        return s1, s2, announced


def unmasked(world, victim, upload, seed, mask_secret, s2, announced, others):
    """What an attacker reads who has both secrets of one client."""
    vectors = envelope.unverified(wire.Upload, upload).vectors
    bits, read = world.plan.ring_bits, {}
    for (name, length), data in zip(world.plan.vectors, vectors, strict=True):
        total = ring.unpack(data, length, bits)
        masks.add_mask(total, keys.self_key(seed, s2, victim, name), -1)
        for other in others:
            shared = keys.agree(mask_secret, announced[other].mask_key)
            masks.add_mask(total, keys.pair_key(shared, s2, victim, other, name), -1 if victim < other else 1)
        read[name] = ring.to_signed(ring.reduce(total, bits), bits)
    return read


def reads(world, victim, read):
    return all(np.array_equal(read[name], world.values[victim][name]) for name in read)


def rebuilt(plan, openings, victim):
    points = {i: place + 1 for place, i in enumerate(plan.cohort)}
    found = {}
    for opening in openings:
        for entry in opening.shares:
            if entry.dealer == victim and entry.share:
                found[points[opening.holder]] = shares.parse(entry.share)
    if len(found) < plan.threshold:
        return None
    chosen = sorted(found)[: plan.threshold]
    return shares.rebuild(chosen, [found[point] for point in chosen])


def split_view(world, victim, groups):
    """Tells group 0 that everyone survived and group 1 that the victim dropped; gives both kinds' openings."""
    seen = Observer(world, Step.AGREE)
    right = wire.decode(wire.Uploads, seen.requests[Step.AGREE][world.ids[0]], 1 << 20)
    without = msgspec.structs.replace(right, entries=tuple(e for e in right.entries if e.client != victim))
    opened = []
    for group, message in zip(groups, (right, without), strict=True):
        agreements, answers = [], []
        for i in group:
            try:
                agreements.append(envelope.unverified(wire.Agreement, ask(world, i, Step.AGREE, wire.encode(message))))
            except ProtocolError:
                continue
        quorum = wire.encode(wire.Quorum(right.session, tuple(agreements[: world.plan.quorum])))
        for i in group:
            try:
                answers.append(envelope.unverified(wire.Opening, ask(world, i, Step.UNMASK, quorum)))
            except ProtocolError:
                continue
        opened.append(answers)
    return seen, opened


def ask(world, i, step, message):
    store = world.drivers[i]._store
    if isinstance(store, ForgetfulStore):
        order = list(Step)
        store.before = order[order.index(step) - 1]
    return world.ask(i, step, message)


def victim_from_both_shares(world, victim, groups):
    """Whether the victim's values come out of a split view."""
    seen, (as_survivor, as_dropped) = split_view(world, victim, groups)
    seed, mask_secret = (rebuilt(world.plan, opened, victim) for opened in (as_survivor, as_dropped))
    if seed is None or mask_secret is None:
        return False
    _, s2, announced = seen.view(world)
    others = [i for i in world.ids if i != victim]
    upload = seen.answers[Step.MASK][victim]
    return reads(world, victim, unmasked(world, victim, upload, seed, mask_secret, s2, announced, others))


@WEAKENED
def test_asking_the_same_clients_for_both_shares_of_a_victim(weakened, make_world):
    """SECAGG.md F3 and F7. Weakened: clients keep no record of what they answered."""
    world = make_world(ring_bits=40)
    victim, others = world.ids[2], [i for i in world.ids if i != world.ids[2]]
    if weakened:
        for i in others:
            world.drivers[i]._store = ForgetfulStore()
    assert victim_from_both_shares(world, victim, [others, others]) is weakened


@WEAKENED
def test_a_plan_with_low_thresholds_and_a_split_view(weakened, make_world, monkeypatch):
    """SECAGG.md F5. Weakened: clients take thresholds from the server."""
    world = make_world(ring_bits=40)
    world.change_plan(quorum=2, threshold=2, floor=5)
    if weakened:
        monkeypatch.setattr(member, "refuse_weaker", lambda *arguments: None)
    victim = world.ids[2]
    groups = [[world.ids[0], world.ids[1], victim], list(world.ids[3:])]
    if weakened:
        for i in world.ids:
            world.drivers[i].member = world.member(i, min_survivors=1)
        assert victim_from_both_shares(world, victim, groups)
    else:
        with pytest.raises(Refused):
            split_view(world, victim, groups)


@WEAKENED
def test_filling_a_quorum_with_repetitions(weakened, make_world, monkeypatch):
    """SECAGG.md F4. Weakened: the quorum counts entries, not distinct signers. Then two outcomes are opened."""
    world = make_world()
    seen = Observer(world, Step.AGREE)
    right = wire.decode(wire.Uploads, seen.requests[Step.AGREE][world.ids[0]], 1 << 20)
    without = msgspec.structs.replace(right, entries=right.entries[:-1])
    if weakened:
        monkeypatch.setattr(wire, "ascending", lambda ids: True)
    opened = 0
    for group, message in ((world.ids[3:], right), (world.ids[:3], without)):
        signed = [envelope.unverified(wire.Agreement, world.ask(i, Step.AGREE, wire.encode(message))) for i in group]
        quorum = wire.encode(wire.Quorum(right.session, tuple((signed * 2)[: world.plan.quorum])))
        try:
            opened += bool([world.ask(i, Step.UNMASK, quorum) for i in group])
        except FaultyServer:
            continue
    assert opened == (2 if weakened else 0)


@WEAKENED
def test_an_honest_split_view_never_reaches_two_quorums(weakened, make_world, monkeypatch):
    """No check but the count itself. Weakened: half of the clients are enough."""
    world = make_world()
    if weakened:
        monkeypatch.setattr(member, "refuse_weaker", lambda *arguments: None)
        world.change_plan(quorum=3)
    _, opened = split_view(world, world.ids[0], [world.ids[:3], world.ids[3:]])
    assert [bool(answers) for answers in opened] == [weakened, weakened]


@WEAKENED
def test_a_sum_over_the_victim_and_a_colluder(weakened, make_world, make_link, monkeypatch):
    """SECAGG.md D3. Weakened: clients accept any floor; then one ordinary session reads the victim."""
    world = make_world(ring_bits=40)
    world.change_plan(quorum=2, threshold=2, floor=2)
    victim, colluder = world.ids[1], world.ids[4]
    if weakened:
        monkeypatch.setattr(member, "refuse_weaker", lambda *arguments: None)
        for i in world.ids:
            world.drivers[i].member = world.member(i, min_survivors=1)
    lost = set(world.ids) - {victim, colluder}
    link = make_link(world, {Step.MASK: lost})
    if not weakened:
        with pytest.raises(TooFewClients):
            world.run(link)
        assert set(link.refusals) == set(world.ids)
        return
    recovered, _ = world.run(link)
    read = {name: total - world.values[colluder][name] for name, total in recovered.totals.items()}
    assert reads(world, victim, read)


@WEAKENED
def test_a_server_that_plays_all_the_neighbours(weakened, make_world):
    """SECAGG.md F6. Weakened: clients do not check the peers' signatures."""
    world = make_world(ring_bits=40)
    victim = world.ids[0]
    if weakened:
        checked = world.verify
        world.verify = lambda *a: checked(*a) if a[1] == labels.SIGN_PLAN else None
        world.drivers[victim].member = world.member(victim)
        assert reads(world, victim, play_all_neighbours(world, victim))
    else:
        with pytest.raises(FaultyServer, match="did not sign"):
            play_all_neighbours(world, victim)


def play_all_neighbours(world, victim):
    """Everyone but the victim is invented; what it seals to them is read."""
    own = envelope.unverified(wire.Announcement, world.ask(victim, Step.ANNOUNCE, world.signed(world.plan)))
    session = wire.session_of(world.plan)
    secrets = {i: (bytes([i]) * 32, bytes([i + 100]) * 32) for i in world.ids if i != victim}
    invented = {
        i: wire.Announcement(i, keys.public_key(m), keys.public_key(s), bytes(64)) for i, (m, s) in secrets.items()
    }
    everyone = tuple((invented | {victim: own})[i] for i in world.ids)
    announcements = wire.encode(wire.Announcements(session, everyone))
    s1 = labels.digest(labels.HASH_ANNOUNCED, announcements)
    deal = envelope.unverified(wire.Deal, world.ask(victim, Step.SHARE, announcements))
    seed_shares = {}
    for leaf in (wire.decode(wire.Leaf, data, 1000) for data in deal.leaves):
        if leaf.holder != victim:
            shared = keys.agree(secrets[leaf.holder][1], own.seal_key)
            commitments = (leaf.seed_commitment, leaf.key_commitment)
            seal = keys.Seal.between(shared, s1, victim, leaf.holder, commitments)
            share = seal.open(keys.SEED, leaf.seed_box, leaf.seed_commitment)
            seed_shares[world.ids.index(leaf.holder) + 1] = shares.parse(share)
    points = sorted(seed_shares)[: world.plan.threshold]
    seed = shares.rebuild(points, [seed_shares[point] for point in points])
    deliveries, s2 = invented_deliveries(world, victim, session, s1, deal)
    upload = world.ask(victim, Step.MASK, deliveries)
    vectors, read = envelope.unverified(wire.Upload, upload).vectors, {}
    for (name, length), data in zip(world.plan.vectors, vectors, strict=True):
        total = ring.unpack(data, length, 40)
        masks.add_mask(total, keys.self_key(seed, s2, victim, name), -1)
        for i, (mask_secret, _) in secrets.items():
            shared = keys.agree(mask_secret, own.mask_key)
            masks.add_mask(total, keys.pair_key(shared, s2, victim, i, name), -1 if victim < i else 1)
        read[name] = ring.to_signed(ring.reduce(total, 40), 40)
    return read


def invented_deliveries(world, victim, session, s1, deal):
    """Roots and leaves of invented dealers, with the victim's own true one among them."""
    roots, leaves = [], []
    for i in world.ids:
        dealt = deal.leaves if i == victim else tuple(bytes([n]) for n in range(len(world.ids)))
        hashes = [merkle.leaf_hash(leaf) for leaf in dealt]
        commitment, signature = (deal.seed_commitment, deal.signature) if i == victim else (bytes(32), bytes(64))
        roots.append(wire.SignedRoot(i, merkle.root(hashes), commitment, signature))
        place = world.ids.index(victim)
        leaves.append(wire.Delivery(i, dealt[place], merkle.inclusion_path(hashes, place)))
    encoded = wire.encode(wire.Roots(session, tuple(roots)))
    s2 = labels.digest(labels.HASH_DEALT, s1, encoded)
    return wire.encode(wire.Deliveries(session, encoded, tuple(leaves))), s2


@WEAKENED
def test_reflecting_a_clients_own_boxes_to_it(weakened, make_world, monkeypatch):
    """SECAGG.md G1. Weakened: no tree, and sealing that does not say who deals to whom. Then the client takes the
    share of its own seed, which it dealt to a neighbour, for the neighbour's, and would open it as such."""
    if weakened:
        weaken_sealing(monkeypatch)
    world = make_world()
    victim, peer = world.ids[0], world.ids[3]
    seen = Observer(world, Step.MASK)
    deal = envelope.unverified(wire.Deal, seen.answers[Step.SHARE][victim])
    message = wire.decode(wire.Deliveries, seen.requests[Step.MASK][victim], 1 << 20)
    reflected = tuple(
        msgspec.structs.replace(entry, leaf=deal.leaves[3]) if entry.dealer == peer else entry
        for entry in message.leaves
    )
    request = wire.encode(msgspec.structs.replace(message, leaves=reflected))
    try:
        world.ask(victim, Step.MASK, request)
    except FaultyServer:
        assert not weakened
        return
    state = client.decode_state(
        world.drivers[victim]._store.state(world.identities[victim].public, wire.session_of(world.plan))
    )
    held = next(h for h in state.held if h.dealer == peer)
    own_share = opened_by_peer(world, seen, deal.leaves[3], victim, peer)
    assert weakened == (held.seed_share == own_share)


def weaken_sealing(monkeypatch):
    between, commit = keys.Seal.between.__func__, keys.share_commitment
    monkeypatch.setattr(
        keys.Seal, "between", classmethod(lambda cls, shared, s1, d, h, c: between(cls, shared, s1, 0, 0, c))
    )
    monkeypatch.setattr(keys, "share_commitment", lambda s1, d, h, kind, share: commit(s1, 0, 0, kind, share))
    monkeypatch.setattr(merkle, "root_from_path", lambda *arguments: b"anything")
    monkeypatch.setattr(client, "_check_leaves", lambda *arguments: None)


def opened_by_peer(world, seen, data, victim, peer):
    """The share that the victim dealt to the peer, read with the peer's keys."""
    leaf = wire.decode(wire.Leaf, data, 1000)
    state = client.decode_state(
        world.drivers[peer]._store.state(world.identities[peer].public, wire.session_of(world.plan))
    )
    sealing = next(p.sealing for p in state.peers if p.id == victim)
    seal = keys.Seal.between(sealing, state.s1, victim, peer, (leaf.seed_commitment, leaf.key_commitment))
    return seal.open(keys.SEED, leaf.seed_box, leaf.seed_commitment)


def test_a_reflected_box_does_not_open_even_without_the_tree(make_world, monkeypatch):
    """Sealing alone stops it: nothing is held of that dealer."""
    world = make_world()
    monkeypatch.setattr(client, "_check_leaves", lambda *arguments: None)
    victim, peer = world.ids[0], world.ids[3]
    seen = Observer(world, Step.MASK)
    deal = envelope.unverified(wire.Deal, seen.answers[Step.SHARE][victim])
    message = wire.decode(wire.Deliveries, seen.requests[Step.MASK][victim], 1 << 20)
    leaves = tuple(msgspec.structs.replace(e, leaf=deal.leaves[3]) if e.dealer == peer else e for e in message.leaves)
    world.ask(victim, Step.MASK, wire.encode(msgspec.structs.replace(message, leaves=leaves)))
    state = client.decode_state(
        world.drivers[victim]._store.state(world.identities[victim].public, wire.session_of(world.plan))
    )
    assert next(h for h in state.held if h.dealer == peer).seed_share == b""


@WEAKENED
def test_asking_for_the_same_upload_twice(weakened, make_world):
    """SECAGG.md F7: fresh noise or values under the same masks would show their difference."""
    world = make_world(ring_bits=40)
    victim = world.ids[0]
    if weakened:
        world.drivers[victim]._store = ForgetfulStore()
    request = Observer(world, Step.MASK).requests[Step.MASK][victim]
    uploads = []
    for fresh in (0, 1000):
        world.values[victim] = {"update": np.full(5, fresh), "scores": np.zeros(2, np.int64)}
        data = envelope.unverified(wire.Upload, ask(world, victim, Step.MASK, request)).vectors[0]
        uploads.append(ring.unpack(data, 5, 40))
    difference = ring.to_signed(ring.reduce(uploads[1] - uploads[0], 40), 40)
    assert difference.tolist() == ([1000] * 5 if weakened else [0] * 5)


@WEAKENED
def test_running_the_same_round_again(weakened, make_world):
    """SECAGG.md F7. Weakened: the client keeps no round counter; it would contribute twice to one charged round."""
    world = make_world()
    first = world.ids[0]
    if weakened:
        world.drivers[first]._store = ForgetfulStore()
    world.ask(first, Step.ANNOUNCE, world.signed(world.plan))
    again = world.signed(msgspec.structs.replace(world.plan, settings=b"[]"))
    if weakened:
        world.ask(first, Step.ANNOUNCE, again)
    else:
        with pytest.raises(Refused, match="does not come after"):
            world.ask(first, Step.ANNOUNCE, again)
