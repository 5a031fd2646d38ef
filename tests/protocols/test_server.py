"""Whom the server blames, for what, and that everybody else's sum still comes out."""

import msgspec
import numpy as np
import pytest

from protocols import keys, labels, merkle, shares, wire
from protocols.errors import FaultyClient, TooFewClients
from protocols.states import Agreed, decode_state, encode_state
from protocols.wire import Step

UP = dict(zip(Step, (wire.Announcement, wire.Deal, wire.Upload, wire.Agreement, wire.Opening), strict=True))


@pytest.fixture
def world(make_world):
    return make_world(n=8, max_dropout=0.25)


def tampering(step, culprit, change):
    return lambda at, who, up, data: change(data) if (at, who, up) == (step, culprit, True) else data


def assert_sum(world, recovered):
    for name, total in world.plain_sum(recovered.survivors).items():
        assert np.array_equal(recovered.totals[name], total)


@pytest.mark.parametrize("step", list(Step))
@pytest.mark.parametrize(
    "change",
    [
        lambda d: b"",
        lambda d: d + b"\0",
        lambda d: bytes([d[0] ^ 1]) + d[1:],
        lambda d: d[:-1] + bytes([d[-1] ^ 1]),
        lambda d: d * 2,
    ],
)
def test_a_garbled_answer_blames_its_client_and_costs_only_that_client(step, change, world, make_link):
    culprit = world.ids[3]
    recovered, _ = world.run(make_link(world, tamper=tampering(step, culprit, change)))
    assert set(recovered.blamed) == {culprit}
    assert (culprit in recovered.survivors) is (step in (Step.AGREE, Step.UNMASK))
    assert_sum(world, recovered)


@pytest.mark.parametrize("step", list(Step))
def test_answering_with_anothers_message_blames_the_impostor(step, world, make_link):
    """Under another name, or with another's signature under one's own: neither is accepted."""
    culprit, seen = world.ids[3], {}

    def tamper(at, who, up, data):
        if up and at is step:
            seen[who] = data
            if who == culprit:
                return seen[world.ids[0]]
        return data

    recovered, _ = world.run(make_link(world, tamper=tamper))
    assert set(recovered.blamed) == {culprit}
    assert "under another name" in recovered.blamed[culprit]
    assert_sum(world, recovered)


@pytest.mark.parametrize("name", ["mask_key", "seal_key"])
def test_keys_of_small_order_are_refused_before_anyone_else_meets_them(name, world, make_link):
    culprit = world.ids[1]
    session = wire.session_of(world.plan)

    def change(data):
        bad = msgspec.structs.replace(wire.decode(wire.Announcement, data, 1000), **{name: bytes(32)})
        payload = wire.announcement_payload(session, bad)
        signature = world.identities[culprit].sign(labels.SIGN_ANNOUNCEMENT, payload)
        return wire.encode(msgspec.structs.replace(bad, signature=signature))

    link = make_link(world, tamper=tampering(Step.ANNOUNCE, culprit, change))
    recovered, _ = world.run(link)
    assert recovered.blamed == {culprit: "announced a key of small order"}
    assert link.refusals == {}
    assert_sum(world, recovered)


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
        right = wire.decode(wire.Deal, data, 1 << 20)
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
        return wire.encode(wire.Deal(me, commitment, tuple(leaves), signature))

    @staticmethod
    def believing(state, own):

        return encode_state(msgspec.structs.replace(state, own=own))


def other_share(share):
    """Not one more: X25519 clamps the lowest bits, so a mask secret larger by one is the same key."""
    return ((shares.parse(share) + 2**64) % shares.PRIME).to_bytes(33, "little")


@pytest.mark.parametrize("kind", [keys.SEED, keys.MASK_KEY])
def test_a_dealer_of_inconsistent_shares_ends_the_session_and_is_blamed(kind, world, make_link):
    """A seed share counts if the dealer survives, a mask key share if it drops."""
    culprit = world.ids[2]
    dealer = Dealer(world, culprit, lambda k, position, share: other_share(share) if k == kind else share)
    lost = {Step.MASK: {culprit}} if kind == keys.MASK_KEY else {}
    with pytest.raises(FaultyClient, match=r"another secret|inconsistent") as caught:
        world.run(make_link(world, lost, tamper=dealer.tamper))
    assert caught.value.client == culprit


def test_shares_of_the_kind_that_is_not_opened_do_no_harm(world, make_link):
    dealer = Dealer(world, world.ids[2], lambda k, p, share: other_share(share) if k == keys.MASK_KEY else share)
    recovered, _ = world.run(make_link(world, tamper=dealer.tamper))
    assert recovered.blamed == {}
    assert_sum(world, recovered)


def test_a_dealer_that_commits_to_another_seed_is_blamed(world, make_link):
    dealer = Dealer(world, world.ids[2], seed_commitment=bytes(32))
    with pytest.raises(FaultyClient, match="another secret") as caught:
        world.run(make_link(world, tamper=dealer.tamper))
    assert caught.value.client == world.ids[2]


def broken_leaf(data):
    leaf = wire.decode(wire.Leaf, data, 1000)
    return wire.encode(msgspec.structs.replace(leaf, seed_box=bytes(49)))


def test_a_dealer_whose_leaves_do_not_open_for_most_is_blamed(world, make_link):
    dealer = Dealer(world, world.ids[2], leaf=lambda position, data: broken_leaf(data) if position > 2 else data)
    with pytest.raises(FaultyClient, match="do not open") as caught:
        world.run(make_link(world, tamper=dealer.tamper))
    assert caught.value.client == world.ids[2]


def test_leaves_that_do_not_open_for_a_few_do_no_harm(world, make_link):
    """Three of eight complain, five shares are enough: nobody is blamed, and nothing is lost."""
    dealer = Dealer(world, world.ids[2], leaf=lambda position, data: broken_leaf(data) if position < 3 else data)
    recovered, _ = world.run(make_link(world, tamper=dealer.tamper))
    assert recovered.blamed == {}
    assert len(recovered.survivors) == 8
    assert_sum(world, recovered)


@pytest.mark.parametrize("bad", [keys.SEED, keys.MASK_KEY])
def test_a_holder_of_what_is_no_field_element_cannot_be_framed_with_it(bad, world, make_link):
    """The dealer commits to it; whoever opened it would be blamed. An honest holder has nothing to open instead."""
    culprit, framed = world.ids[2], 5
    lost = {Step.MASK: {culprit}} if bad == keys.MASK_KEY else {}
    dealer = Dealer(world, culprit, lambda k, at, share: b"\xff" * 33 if (k, at) == (bad, framed) else share)
    recovered, _ = world.run(make_link(world, lost, tamper=dealer.tamper))
    assert recovered.blamed == {}
    assert_sum(world, recovered)


def test_c_false_complaints_blame_nobody(world, make_link):
    """With exactly t holders left, one liar can end the session but frame no dealer."""
    liar, gone = world.ids[0], set(world.ids[5:])
    link = make_link(world, {Step.UNMASK: gone}, tamper=reopened(world, liar, lambda share: b""))
    with pytest.raises(TooFewClients) as caught:
        world.run(link)
    assert (caught.value.have, caught.value.need, caught.value.blamed) == (4, 5, {})


def reopened(world, holder, change, dealers=lambda entries: entries):
    """Changes a holder's opening and signs it again."""
    seen = {}

    def tamper(step, who, up, data):
        if step is Step.AGREE and not up:
            seen["uploads"] = wire.decode(wire.Uploads, data, 1 << 20)
        if (step, who, up) != (Step.UNMASK, holder, True):
            return data
        opening = wire.decode(wire.Opening, data, 1 << 20)
        opened = tuple(wire.OpenedShare(e.dealer, change(e.share)) for e in dealers(opening.shares))
        outcome = agreed_outcome(world, holder)
        signature = world.identities[holder].sign(labels.SIGN_OPENING, wire.opening_payload(outcome, holder, opened))
        return wire.encode(wire.Opening(holder, opened, signature))

    return tamper


def agreed_outcome(world, holder):
    """What the holder agreed to, from its own earlier state."""
    return world.outcomes[holder]


@pytest.fixture(autouse=True)
def outcomes(world):
    """Remembers every outcome that a client agrees to: the state that holds it is gone one step later."""

    world.outcomes = {}
    for i in world.ids:
        store = world.drivers[i]._store
        put = store.put

        def keep(identity, session, step, digest, state, reply, put=put, i=i):
            known = decode_state(state)
            if isinstance(known, Agreed):
                world.outcomes[i] = known.outcome
            put(identity, session, step, digest, state, reply)

        store.put = keep
    return world.outcomes


@pytest.mark.parametrize("change", [lambda share: bytes(33), lambda share: b"\xff" * 33, lambda share: b"\x01"])
def test_wrong_openings_blame_their_holder_and_are_skipped(change, world, make_link):
    culprit = world.ids[0]
    recovered, _ = world.run(make_link(world, {Step.MASK: {world.ids[4]}}, tamper=reopened(world, culprit, change)))
    assert set(recovered.blamed) == {culprit}
    assert "do not match their commitments" in recovered.blamed[culprit]
    assert_sum(world, recovered)


@pytest.mark.parametrize("dealers", [lambda e: e[1:], lambda e: (*e, e[-1]), lambda e: e[::-1], lambda e: ()])
def test_openings_of_other_dealers_than_called_for_blame_their_holder(dealers, world, make_link):
    culprit = world.ids[0]
    tamper = reopened(world, culprit, lambda share: share, dealers)
    recovered, _ = world.run(make_link(world, tamper=tamper))
    assert recovered.blamed == {culprit: "did not open exactly one share per dealer"}
    assert_sum(world, recovered)


def test_with_t_right_openings_c_wrong_ones_are_survived_and_below_t_nothing_comes_out(world, make_link):
    wrong = reopened(world, world.ids[0], lambda share: bytes(33))
    recovered, _ = world.run(make_link(world, {Step.UNMASK: set(world.ids[6:])}, tamper=wrong))
    assert_sum(world, recovered)
