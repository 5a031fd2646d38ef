"""Hybrid sessions: exact under every loss, refused when turned off, and a wrong pad blames the one that sealed it."""

import itertools
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from protocols import client, envelope, hybrid, kem, merkle, recovery, wire
from protocols.errors import FaultyClient, FaultyServer, Malformed, Refused
from protocols.hybrid import KeyPair
from protocols.params import Adversary
from protocols.wire import Step

STEPS = list(Step)
S1 = b"1" * 32
LOW, HIGH = KeyPair.from_seed(b"low" + bytes(29)), KeyPair.from_seed(b"high" + bytes(28))


def assert_exact(world, recovered, lost_before_upload):
    survivors = tuple(i for i in world.ids if i not in lost_before_upload)
    assert recovered.survivors == survivors
    for name, total in world.plain_sum(survivors).items():
        assert np.array_equal(recovered.totals[name], total)


@pytest.fixture
def make_hybrid(make_world):
    return lambda **kwargs: make_world(post_quantum=True, **kwargs)


@pytest.mark.parametrize("adversary", list(Adversary))
@pytest.mark.parametrize(("first", "second"), list(itertools.combinations_with_replacement(STEPS, 2)))
def test_one_client_lost_at_each_of_two_steps(adversary, first, second, make_hybrid, make_link):
    world = make_hybrid(adversary=adversary)
    lost = {step: set() for step in STEPS}
    lost[first].add(world.ids[1])
    lost[second].add(world.ids[4])
    recovered, _ = world.run(make_link(world, lost))
    before = set().union(*(lost[step] for step in (Step.ANNOUNCE, Step.SHARE, Step.MASK)))
    assert_exact(world, recovered, before)
    assert recovered.blamed == {}


def test_every_pattern_of_dropouts_in_the_mask_step(make_hybrid, make_link):
    """Up to two of six, lowest and highest included: pads are recovered from below, from above, and from nobody."""
    for gone in itertools.chain.from_iterable(itertools.combinations(range(6), count) for count in range(3)):
        world = make_hybrid(seed=len(gone))
        lost = {world.ids[i] for i in gone}
        recovered, _ = world.run(make_link(world, {Step.MASK: lost}))
        assert_exact(world, recovered, lost)


@pytest.mark.slow
def test_dropouts_on_the_sparse_graph(make_hybrid, make_link):
    world = make_hybrid(
        clients=202,
        adversary=Adversary.HONEST_BUT_CURIOUS,
        max_corrupt=0.02,
        max_dropout=0.06,
        vectors=(("update", 3),),
    )
    assert world.plan.parameters.graph == "sparse"
    lost = {world.ids[i] for i in (0, 3, 4, 100, 201)}
    recovered, _ = world.run(make_link(world, {Step.MASK: lost}))
    assert_exact(world, recovered, lost)


# --- downgrade ---


@pytest.mark.parametrize("demanded", [True, False])
def test_a_server_that_turns_the_option_off_gets_no_key(demanded, make_hybrid):
    """Without the demand the same plan is answered, with classical keys."""
    world = make_hybrid()
    classical = wire.RoundPlan(*msgspec.structs.astuple(world.plan))
    member = world.member(world.ids[0], post_quantum=demanded)
    if demanded:
        with pytest.raises(Refused, match="post_quantum"):
            client.announce(member, world.signed(classical), world.context, bytes(32))
    else:
        state, _ = client.announce(member, world.signed(classical), world.context, bytes(32))
        assert len(state.own.mask_key) == 32


def test_a_tag_changed_on_the_way_breaks_the_servers_signature(make_hybrid):
    world = make_hybrid()
    signed = wire.decode(wire.SignedPlan, world.signed(world.plan), wire.MAX_PLAN)
    classical = wire.RoundPlan(*msgspec.structs.astuple(world.plan))
    changed = wire.encode(wire.SignedPlan(classical, signed.signature))
    with pytest.raises(FaultyServer, match="did not sign"):
        client.announce(world.member(world.ids[0], post_quantum=False), changed, world.context, bytes(32))
    assert wire.session_of(classical) != wire.session_of(world.plan)


# --- keys ---


@pytest.mark.parametrize("post_quantum", [True, False])
@pytest.mark.parametrize("name", ["mask_key", "seal_key"])
@pytest.mark.parametrize("fault", ["low order", "malformed", "size"])
def test_an_unusable_key_blames_its_announcer_and_nobody_else(post_quantum, name, fault, make_world, make_link):
    if (post_quantum, fault) == (False, "malformed"):
        pytest.skip("a classical key has no other form")
    world = make_world(post_quantum=post_quantum)
    culprit = world.ids[2]

    def tamper(step, who, up, data):
        if (step, who, up) != (Step.ANNOUNCE, culprit, True):
            return data
        entry = envelope.unverified(wire.Announcement, data)
        entry = msgspec.structs.replace(entry, **{name: spoilt(getattr(entry, name), fault)})
        payload = wire.announcement_payload(wire.session_of(world.plan), entry)
        signature = world.identities[culprit].sign("sign announcement", payload)
        return world.sealed(culprit, step, msgspec.structs.replace(entry, signature=signature))

    recovered, _ = world.run(make_link(world, tamper=tamper))
    assert_exact(world, recovered, {culprit})
    assert set(recovered.blamed) == {culprit}


def spoilt(key, fault):
    if fault == "low order":
        return bytes(32) + key[32:]
    if fault == "malformed":
        return key[:32] + b"\xff" * 384 + key[416:]
    return key + bytes(7)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("mask_key", "malformed"),
        ("mask_key", "size"),
        ("seal_key", "low order"),
        ("seal_key", "malformed"),
        ("seal_key", "size"),
    ],
)
def test_clients_refuse_unusable_keys_that_a_lying_server_lets_through(name, fault, make_hybrid, make_link):
    world = make_hybrid()
    culprit, victim = world.ids[2], world.ids[0]
    session = wire.session_of(world.plan)

    def tamper(step, who, up, data):
        if up or step is not Step.SHARE:
            return data
        message = wire.decode(wire.Announcements, data, 1 << 20)
        entries = list(message.entries)
        entry = msgspec.structs.replace(entries[2], **{name: spoilt(getattr(entries[2], name), fault)})
        signature = world.identities[culprit].sign("sign announcement", wire.announcement_payload(session, entry))
        entries[2] = msgspec.structs.replace(entry, signature=signature)
        return wire.encode(msgspec.structs.replace(message, entries=tuple(entries)))

    link = make_link(world, tamper=tamper)
    world.run_quietly(link)
    refusal = link.refusals[victim]
    assert isinstance(refusal, FaultyServer if fault == "size" else FaultyClient)
    assert getattr(refusal, "client", culprit) == culprit


# --- pads ---


@pytest.mark.parametrize("part", ["commitment", "ciphertext", "box"])
def test_a_pad_that_does_not_open_stops_the_holder_and_blames_the_dealer(
    liars, part, make_hybrid, make_link, monkeypatch
):
    """The dealer survives: the server finds what the holder found, and nothing wrong is ever shown as a sum."""
    world = make_hybrid()
    culprit, victim = world.ids[1], world.ids[3]
    liars.spoil_pads(monkeypatch, culprit, {victim}, liars.flipped(part))
    link = make_link(world)
    error = world.run_quietly(link)
    assert world_state(world, victim) == client.Stopped(wire.session_of(world.plan), culprit)
    assert link.refusals == {}
    assert (type(error), error.client) == (FaultyClient, culprit)


@pytest.mark.parametrize("step", [Step.MASK, Step.SHARE])
def test_a_bad_pad_of_a_dealer_that_drops_costs_no_exactness(liars, step, make_hybrid, make_link, monkeypatch):
    world = make_hybrid()
    culprit, victim = world.ids[1], world.ids[3]
    liars.spoil_pads(monkeypatch, culprit, {victim}, liars.flipped("box"))
    recovered, _ = world.run(make_link(world, {step: {culprit}}))
    stopped = {victim} if step is Step.MASK else set()
    assert_exact(world, recovered, {culprit} | stopped)
    assert recovered.blamed == {}


@pytest.mark.parametrize("checked", [True, False])
def test_a_dealer_that_commits_to_another_pad_than_its_seed_gives_is_blamed(
    liars, checked, make_hybrid, make_link, monkeypatch
):
    """It opens for the holder; when the dealer drops, its seed shows. Without the check the sum is silently wrong."""
    world = make_hybrid()
    culprit, victim = world.ids[1], world.ids[3]
    liars.spoil_pads(monkeypatch, culprit, {victim}, lambda seal, pad: seal(bytes(32)))
    if not checked:
        monkeypatch.setattr(hybrid.SealedPad, "commits_to", lambda *arguments: True)
    link = make_link(world, {Step.MASK: {culprit}})
    if checked:
        error = world.run_quietly(link)
        assert (type(error), error.client) == (FaultyClient, culprit)
    else:
        recovered, _ = world.run(link)
        right = world.plain_sum(recovered.survivors)
        assert not np.array_equal(recovered.totals["update"], right["update"])


def test_a_holder_that_went_on_without_the_pad_would_spoil_the_sum(liars, make_hybrid, make_link, monkeypatch):
    """Why a client stops: with the check gone it masks with something else, and nobody notices."""
    world = make_hybrid()
    liars.spoil_pads(monkeypatch, world.ids[1], {world.ids[3]}, liars.flipped("box"))
    open_pad = hybrid.open_pad

    def lenient(*arguments):
        try:
            return open_pad(*arguments)
        except Malformed:
            return bytes(32)

    monkeypatch.setattr(hybrid, "open_pad", lenient)
    recovered, _ = world.run(make_link(world))
    assert recovered.survivors == world.ids
    assert not np.array_equal(recovered.totals["update"], world.plain_sum(world.ids)["update"])


@pytest.mark.parametrize("checked", [True, False])
def test_a_holder_cannot_frame_a_dealer_by_announcing_a_kem_key_of_another_seed(
    checked, make_hybrid, make_link, monkeypatch
):
    """Its rebuilt seed would not open an honest pad. The announced key is compared first, both parts of it."""
    world = make_hybrid()
    framer = world.ids[3]
    other = KeyPair.from_seed(bytes(32))

    def tamper(step, who, up, data):
        if (step, who, up) != (Step.ANNOUNCE, framer, True):
            return data
        entry = envelope.unverified(wire.Announcement, data)
        mask_key = hybrid.curve_part(entry.mask_key) + hybrid.kem_part(other.public)
        entry = msgspec.structs.replace(entry, mask_key=mask_key)
        payload = wire.announcement_payload(wire.session_of(world.plan), entry)
        signed = msgspec.structs.replace(entry, signature=world.identities[framer].sign("sign announcement", payload))
        state = world_state(world, framer)
        store = world.drivers[framer]._store
        changed = client.encode_state(msgspec.structs.replace(state, own=signed))
        store._states[world.identities[framer].public, state.session] = changed
        return world.sealed(framer, step, signed)

    if not checked:
        monkeypatch.setattr(recovery, "_is_secret_of", lambda *arguments: True)
    error = world.run_quietly(make_link(world, tamper=tamper))
    assert isinstance(error, FaultyClient)
    assert (error.client == framer) == checked


def world_state(world, who):
    store = world.drivers[who]._store
    return client.decode_state(store.state(world.identities[who].public, wire.session_of(world.plan)))


def test_a_deal_without_a_needed_pad_or_with_a_needless_one_is_refused(make_hybrid, make_link):
    for place, change in ((4, {"pad_box": b""}), (4, {"pad_commitment": bytes(31)}), (0, {"pad_box": bytes(48)})):
        world = make_hybrid()
        culprit = world.ids[2]
        recovered, _ = world.run(make_link(world, tamper=redealt(world, culprit, place, change)))
        assert_exact(world, recovered, {culprit})
        assert "pad" in recovered.blamed[culprit]


def redealt(world, culprit, place, change):
    """The culprit signs a deal in which one leaf is changed."""

    def tamper(step, who, up, data):
        if (step, who, up) != (Step.SHARE, culprit, True):
            return data
        deal = envelope.unverified(wire.Deal, data)
        dealt = list(deal.leaves)
        leaf = wire.decode(wire.HybridLeaf, dealt[place], 5000)
        dealt[place] = wire.encode(msgspec.structs.replace(leaf, **change))
        root = leaves_root(dealt)
        entry = wire.SignedRoot(culprit, root, deal.seed_commitment, deal.signature)
        payload = wire.root_payload(world_state(world, culprit).s1, entry)
        signature = world.identities[culprit].sign("sign deal", payload)
        return world.sealed(culprit, step, msgspec.structs.replace(deal, leaves=tuple(dealt), signature=signature))

    return tamper


def leaves_root(dealt):
    return merkle.root([merkle.leaf_hash(leaf) for leaf in dealt])


@pytest.mark.parametrize("weakened", [True, False])
def test_a_server_that_swaps_ciphertexts_is_blamed_and_not_the_dealer(weakened, make_hybrid, make_link, monkeypatch):
    """The dealer's signed root covers each ciphertext; without that check an honest dealer would be blamed."""
    if weakened:
        monkeypatch.setattr(client, "_check_leaves", lambda *arguments: None)
    world = make_hybrid()
    victim = world.ids[2]

    def tamper(step, who, up, data):
        if (step, who, up) != (Step.MASK, victim, False):
            return data
        message = wire.decode(wire.Deliveries, data, 1 << 20)
        one, two = (wire.decode(wire.HybridLeaf, delivery.leaf, 5000) for delivery in message.leaves[:2])
        one = msgspec.structs.replace(one, pad_ciphertext=two.pad_ciphertext)
        first = msgspec.structs.replace(message.leaves[0], leaf=wire.encode(one))
        return wire.encode(msgspec.structs.replace(message, leaves=(first, *message.leaves[1:])))

    link = make_link(world, tamper=tamper)
    error = world.run_quietly(link)
    if weakened:
        assert world_state(world, victim) == client.Stopped(wire.session_of(world.plan), world.ids[0])
    else:
        assert type(link.refusals[victim]) is FaultyServer
    assert error is None


def sealed(pad=b"p" * 32, low=1, high=2):
    return hybrid.seal_pad(kem.encapsulate, HIGH.public, S1, low, high, pad)


def test_a_pad_opens_only_for_its_pair_direction_session_and_key():
    """A ciphertext swapped, reflected or replayed opens nowhere."""
    one = sealed()
    assert hybrid.open_pad(HIGH, S1, 1, 2, one) == b"p" * 32
    for mask, s1, low, high in ((HIGH, S1, 2, 1), (HIGH, S1, 1, 3), (HIGH, b"2" * 32, 1, 2), (LOW, S1, 1, 2)):
        with pytest.raises(Malformed):
            hybrid.open_pad(mask, s1, low, high, one)


def test_parts_of_two_pads_do_not_mix():
    one, two = sealed(), sealed(b"q" * 32)
    for part in ("commitment", "ciphertext", "box"):
        with pytest.raises(Malformed):
            hybrid.open_pad(HIGH, S1, 1, 2, replace(one, **{part: getattr(two, part)}))


@pytest.mark.parametrize("weakened", [True, False])
def test_without_the_place_in_its_key_a_pad_could_be_moved_to_another_pair(weakened, monkeypatch):
    if weakened:
        derive, encode, digest = hybrid.labels.derive, hybrid.labels.encode, hybrid.labels.digest
        monkeypatch.setattr(hybrid.labels, "derive", lambda s, label, s1, low, high, *r: derive(s, label, *r))
        monkeypatch.setattr(hybrid.labels, "encode", lambda label, *parts: encode(label))
        monkeypatch.setattr(hybrid.labels, "digest", lambda label, s1, low, high, pad: digest(label, pad))
    one = sealed()
    if weakened:
        assert hybrid.open_pad(HIGH, S1, 1, 3, one) == b"p" * 32
    else:
        with pytest.raises(Malformed):
            hybrid.open_pad(HIGH, S1, 1, 3, one)
