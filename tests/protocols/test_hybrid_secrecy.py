"""What a recording of a hybrid session shows to who breaks X25519; sizes of its messages; what its states print."""

import pytest

from protocols import client, envelope, hybrid, keys, leaves, wire
from protocols.errors import Malformed
from protocols.hybrid import KeyPair
from protocols.wire import Step

S1 = b"1" * 32


@pytest.fixture
def make_hybrid(make_world):
    return lambda **kwargs: make_world(post_quantum=True, **kwargs)


def world_state(world, who):
    store = world.drivers[who]._store
    return client.decode_state(store.state(world.identities[who].public, wire.session_of(world.plan)))


# --- what a recording with every X25519 secret shows ---


@pytest.mark.parametrize("post_quantum", [True, False])
def test_breaking_x25519_opens_recorded_boxes_of_classical_sessions_only(post_quantum, make_world, make_link):
    world = make_world(post_quantum=post_quantum)
    link = make_link(world, {Step.MASK: {world.ids[5]}})
    world.run(link)
    dealer, holder = world.ids[0], world.ids[1]
    broken = broken_sealing(make_world(post_quantum=post_quantum), make_link, dealer, holder)
    deal = next(m for m in (as_deal(data) for _, _, data in link.up) if m is not None and m.dealer == dealer)
    kind = wire.HybridLeaf if post_quantum else wire.Leaf
    leaf = wire.decode(kind, deal.leaves[1], 5000)
    s1, sealing = broken
    seal = keys.Seal.between(sealing, s1, dealer, holder, (leaf.seed_commitment, leaf.key_commitment))
    if post_quantum:
        with pytest.raises(Malformed):
            seal.open(keys.SEED, leaf.seed_box, leaf.seed_commitment)
    else:
        assert len(seal.open(keys.SEED, leaf.seed_box, leaf.seed_commitment)) == 33


def as_deal(data):
    try:
        return envelope.unverified(wire.Deal, data)
    except Malformed:
        return None


def broken_sealing(world, make_link, dealer, holder):
    """The X25519 secret of two clients' sealing keys, as one would compute who breaks either key."""
    stop = make_link(world, tamper=lambda step, who, up, data: None if step is Step.MASK else data)
    world.run_quietly(stop)
    state = world_state(world, holder)
    return state.s1, next(peer.sealing for peer in state.peers if peer.id == dealer)


def test_both_secrets_are_in_every_derived_key():
    for one, two in ((bytes(32), b"x" * 32), (b"x" * 32, bytes(32))):
        assert hybrid.pair_secret(one, two, S1, 1, 2) != hybrid.pair_secret(one, one, S1, 1, 2)
        assert hybrid.sealing_secret(one, two, S1, 1, 2, b"c") != hybrid.sealing_secret(two, two, S1, 1, 2, b"c")
    assert hybrid.sealing_secret(one, two, S1, 1, 2, b"c") != hybrid.sealing_secret(one, two, S1, 1, 2, b"d")
    assert hybrid.sealing_secret(one, two, S1, 1, 2, b"c") != hybrid.sealing_secret(one, two, S1, 2, 1, b"c")


# --- sizes and secrets ---


def test_every_hybrid_message_is_within_its_limit_and_the_limit_is_near(make_hybrid, make_link):
    world = make_hybrid(clients=9)
    link = make_link(world)
    world.run(link)
    assert world.plan.key_bytes == hybrid.PUBLIC_BYTES
    for kind in (wire.Announcement, wire.Deal):
        bodies = [bytes(envelope.split(data, len(data))[0]) for _, _, data in link.up]
        sizes = [len(body) for body in bodies if is_a(kind, body)]
        assert len(sizes) == 9
        assert max(sizes) <= wire.limit(kind, world.plan) <= 2 * max(sizes)
    for kind in (wire.Announcements, wire.Deliveries):
        sizes = [len(data) for _, _, data in link.down if is_a(kind, data)]
        assert max(sizes) <= wire.limit(kind, world.plan) <= 2 * max(sizes)


def is_a(kind, data):
    try:
        wire.decode(kind, data, len(data))
    except Malformed:
        return False
    return True


def test_leaves_of_the_other_kind_are_refused(make_world, make_link):
    world = make_world()
    leaf = wire.encode(wire.HybridLeaf(5, bytes(32), bytes(49), bytes(32), bytes(49), bytes(1088), b"", b"", b""))
    with pytest.raises(Malformed):
        wire.decode(wire.Leaf, leaf, 5000)
    assert leaves.kind(world.plan) is wire.Leaf


def test_states_and_keys_print_no_secret(make_hybrid, make_link):
    world = make_hybrid()
    link = make_link(world, tamper=lambda step, who, up, data: None if step is Step.MASK else data)
    world.run_quietly(link)
    state = world_state(world, world.ids[0])
    assert len(state.seal_secret) == 32
    for secret in (state.seal_secret, state.mask_secret):
        for shown in (
            repr(state),
            repr(KeyPair.from_seed(secret)),
            repr(leaves.Holder.of(state.plan, S1, 1, secret, secret)),
        ):
            assert secret.hex() not in shown
            assert repr(secret) not in shown
            assert repr(KeyPair.from_seed(secret).curve) not in shown
