"""What a client refuses, message by message. Each case changes one thing of an honest session."""

import msgspec
import numpy as np
import pytest

from protocols import client, envelope, keys, labels, leaves, merkle, wire
from protocols.drive import MemoryStore
from protocols.errors import BadSignature, FaultyClient, FaultyClientOrServer, FaultyServer, TooFewClients
from protocols.wire import Step

KINDS = {
    Step.SHARE: wire.Announcements,
    Step.MASK: wire.Deliveries,
    Step.AGREE: wire.Uploads,
    Step.UNMASK: wire.Quorum,
}


@pytest.fixture
def stopped(make_world, make_link):
    """stopped(step) -> (world, the member, its state and the honest request of that step), for the first client."""

    def stop(step, **kwargs):
        world = make_world(**kwargs)
        me = world.ids[0]
        found = {}

        def tamper(at, who, up, data):
            if (at, who, up) == (step, me, False):
                found["request"] = data
                return None
            return data

        world.run_quietly(make_link(world, tamper=tamper))
        store = world.drivers[me]._store
        identity = world.identities[me].public
        state = client.decode_state(store.state(identity, wire.session_of(world.plan)))
        return world, world.member(me), state, found["request"]

    return stop


def replaced(step, request, **fields):
    return wire.encode(msgspec.structs.replace(wire.decode(KINDS[step], request, 1 << 20), **fields))


def act(step, member, state, request, world):
    if step is Step.SHARE:
        return client.share(member, state, request, bytes(32))
    if step is Step.MASK:
        return client.mask(member, state, request, world.values[member.id])
    return (client.agree if step is Step.AGREE else client.unmask)(member, state, request)


@pytest.mark.parametrize("step", list(KINDS))
def test_the_honest_request_is_answered(step, stopped):
    world, member, state, request = stopped(step)
    act(step, member, state, request, world)


@pytest.mark.parametrize("step", list(KINDS))
def test_a_message_of_another_session_is_refused(step, stopped):
    world, member, state, request = stopped(step)
    with pytest.raises(FaultyServer, match="another session"):
        act(step, member, state, replaced(step, request, session=bytes(32)), world)


@pytest.mark.parametrize("step", list(KINDS))
@pytest.mark.parametrize("change", [lambda d: d + b"\0", lambda d: d[:-1], lambda d: b"", lambda d: d * 100])
def test_other_bytes_are_refused(step, change, stopped):
    world, member, state, request = stopped(step)
    with pytest.raises(FaultyServer, match="malformed"):
        act(step, member, state, change(request), world)


@pytest.mark.parametrize("step", [Step.SHARE, Step.AGREE, Step.UNMASK])
@pytest.mark.parametrize("change", [lambda e: (e[1], e[0], *e[2:]), lambda e: (e[0], *e), lambda e: (*e, e[-1])])
def test_entries_that_repeat_or_are_unordered_are_refused(step, change, stopped):
    """Repetition would let one client count twice towards floor and quorum (SECAGG.md's F4)."""
    world, member, state, request = stopped(step)
    entries = wire.decode(KINDS[step], request, 1 << 20).entries
    with pytest.raises(FaultyServer, match="distinct"):
        act(step, member, state, replaced(step, request, entries=change(entries)), world)


@pytest.mark.parametrize("step", [Step.SHARE, Step.AGREE])
def test_a_message_without_the_clients_own_entry_is_refused(step, stopped):
    world, member, state, request = stopped(step)
    entries = wire.decode(KINDS[step], request, 1 << 20).entries
    with pytest.raises(FaultyServer, match=r"left out|dropped out"):
        act(step, member, state, replaced(step, request, entries=entries[1:]), world)


@pytest.mark.parametrize("step", [Step.SHARE, Step.AGREE])
def test_fewer_entries_than_the_floor_are_refused(step, stopped):
    """A list of one victim would show the victim (SECAGG.md's D3)."""
    world, member, state, request = stopped(step)
    entries = wire.decode(KINDS[step], request, 1 << 20).entries
    floor = world.plan.floor
    act(step, member, state, replaced(step, request, entries=entries[:floor]), world)
    with pytest.raises(FaultyServer, match=f"needs {floor}"):
        act(step, member, state, replaced(step, request, entries=entries[: floor - 1]), world)


@pytest.mark.parametrize(
    ("step", "error"),
    [(Step.SHARE, FaultyServer), (Step.AGREE, FaultyClientOrServer), (Step.UNMASK, FaultyClientOrServer)],
)
def test_an_entry_with_a_wrong_signature_is_refused(step, error, stopped):
    world, member, state, request = stopped(step)
    entries = wire.decode(KINDS[step], request, 1 << 20).entries
    forged = msgspec.structs.replace(entries[2], signature=entries[1].signature)
    with pytest.raises(error):
        act(step, member, state, replaced(step, request, entries=(*entries[:2], forged, *entries[3:])), world)


def test_an_outsider_cannot_be_announced(stopped):
    world, member, state, request = stopped(Step.SHARE)
    entries = wire.decode(wire.Announcements, request, 1 << 20).entries
    outsider = msgspec.structs.replace(entries[-1], client=entries[-1].client + 1)
    with pytest.raises(FaultyServer, match="of the cohort"):
        act(Step.SHARE, member, state, replaced(Step.SHARE, request, entries=(*entries, outsider)), world)


def test_an_own_announcement_with_other_keys_is_refused_even_if_signed(stopped):
    world, member, state, request = stopped(Step.SHARE)
    entries = wire.decode(wire.Announcements, request, 1 << 20).entries
    other = msgspec.structs.replace(entries[0], seal_key=keys.public_key(b"s" * 32))
    payload = wire.announcement_payload(state.session, other)
    other = msgspec.structs.replace(other, signature=member.identity.sign(labels.SIGN_ANNOUNCEMENT, payload))
    with pytest.raises(FaultyServer, match="own announcement"):
        act(Step.SHARE, member, state, replaced(Step.SHARE, request, entries=(other, *entries[1:])), world)


@pytest.mark.parametrize("name", ["mask_key", "seal_key"])
def test_keys_of_small_order_blame_their_owner(name, stopped, make_link):
    """Even if a lying server lets them through."""
    world, member, state, request = stopped(Step.SHARE)
    entries = wire.decode(wire.Announcements, request, 1 << 20).entries
    bad = msgspec.structs.replace(entries[2], **{name: bytes(32)})
    signer = world.identities[bad.client]
    payload = wire.announcement_payload(state.session, bad)
    bad = msgspec.structs.replace(bad, signature=signer.sign(labels.SIGN_ANNOUNCEMENT, payload))
    request = replaced(Step.SHARE, request, entries=(*entries[:2], bad, *entries[3:]))
    if name == "seal_key":
        with pytest.raises(FaultyClient, match="sealing key of small order") as caught:
            act(Step.SHARE, member, state, request, world)
    else:
        shared, _ = act(Step.SHARE, member, state, request, world)
        holder = leaves.Holder.of(shared.plan, shared.s1, member.id, b"", shared.mask_secret)
        with pytest.raises(FaultyClient, match="mask key of small order") as caught:
            holder.pair_secrets(shared.mask_secret, shared.peers[1:], {})
    assert caught.value.client == bad.client


def deliveries_with(request, roots=None, leaves=None):
    message = wire.decode(wire.Deliveries, request, 1 << 20)
    inner = wire.decode(wire.Roots, message.roots, 1 << 20)
    if roots is not None:
        inner = msgspec.structs.replace(inner, entries=roots(inner.entries))
    entries = message.leaves if leaves is None else leaves(message.leaves)
    return wire.encode(wire.Deliveries(message.session, wire.encode(inner), entries))


@pytest.mark.parametrize(
    ("roots", "reason"),
    [
        (lambda e: e[1:], "own root"),
        (lambda e: (e[0], *e), "distinct announcers"),
        (lambda e: (e[1], e[0], *e[2:]), "distinct announcers"),
        (lambda e: e[:3], "needs 4"),
        (lambda e: (*e[:2], msgspec.structs.replace(e[2], seed_commitment=bytes(32)), *e[3:]), "did not sign"),
        (lambda e: (*e[:2], msgspec.structs.replace(e[2], root=bytes(32)), *e[3:]), "did not sign"),
        (lambda e: (msgspec.structs.replace(e[0], root=bytes(32)), *e[1:]), "own root"),
    ],
)
def test_roots_that_are_not_what_the_sharers_signed_are_refused(roots, reason, stopped):
    world, member, state, request = stopped(Step.MASK)
    with pytest.raises(FaultyServer, match=reason):
        act(Step.MASK, member, state, deliveries_with(request, roots=roots), world)


def test_roots_of_another_session_or_form_are_refused(stopped):
    world, member, state, request = stopped(Step.MASK)
    message = wire.decode(wire.Deliveries, request, 1 << 20)
    inner = wire.decode(wire.Roots, message.roots, 1 << 20)
    other = wire.encode(msgspec.structs.replace(inner, session=bytes(32)))
    for roots, reason in ((other, "another session"), (message.roots + b"\0", "malformed roots")):
        with pytest.raises(FaultyServer, match=reason):
            act(Step.MASK, member, state, replaced(Step.MASK, request, roots=roots), world)


def changed_leaf(delivery):
    return msgspec.structs.replace(delivery, leaf=delivery.leaf[:-1] + bytes([delivery.leaf[-1] ^ 1]))


@pytest.mark.parametrize(
    ("leaves", "reason"),
    [
        (lambda e: e[:-1], "exactly one leaf"),
        (lambda e: (*e, e[-1]), "exactly one leaf"),
        (lambda e: (e[1], e[0], *e[2:]), "exactly one leaf"),
        (lambda e: (*e[:3], changed_leaf(e[3]), *e[4:]), "did not deal"),
        (lambda e: (*e[:3], msgspec.structs.replace(e[3], path=e[3].path[:-1]), *e[4:]), "did not deal"),
        (lambda e: (*e[:3], msgspec.structs.replace(e[3], path=(*e[3].path, bytes(32))), *e[4:]), "did not deal"),
        (lambda e: (*e[:3], msgspec.structs.replace(e[2], dealer=e[3].dealer), *e[4:]), "did not deal"),
    ],
)
def test_leaves_that_the_dealers_did_not_deal_to_this_client_are_refused(leaves, reason, stopped):
    world, member, state, request = stopped(Step.MASK)
    with pytest.raises(FaultyServer, match=reason):
        act(Step.MASK, member, state, deliveries_with(request, leaves=leaves), world)


def test_a_leaf_for_another_holder_does_not_pass_with_that_holders_path(stopped, make_world):
    """The position in the tree is the client's own to compute."""
    world, member, state, request = stopped(Step.MASK)
    store = world.drivers[world.ids[1]]._store
    theirs = next(
        envelope.unverified(wire.Deal, reply)
        for (_, _, step), (_, reply) in store._replies.items()
        if step is Step.SHARE
    )
    hashes = [merkle.leaf_hash(leaf) for leaf in theirs.leaves]
    other = wire.Delivery(world.ids[1], theirs.leaves[3], merkle.inclusion_path(hashes, 3))
    with pytest.raises(FaultyServer, match="did not deal"):
        act(Step.MASK, member, state, deliveries_with(request, leaves=lambda e: (e[0], other, *e[2:])), world)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"update": np.zeros(5, np.int64)},
        {"update": np.zeros(5, np.int64), "scores": np.zeros(2, np.int64), "more": np.zeros(1, np.int64)},
        {"update": np.zeros(4, np.int64), "scores": np.zeros(2, np.int64)},
        {"update": np.zeros(5), "scores": np.zeros(2, np.int64)},
        {"update": np.zeros((5, 1), np.int64), "scores": np.zeros(2, np.int64)},
    ],
)
def test_values_that_do_not_fit_the_plan_are_the_callers_mistake(values, stopped):
    _, member, state, request = stopped(Step.MASK)
    with pytest.raises(ValueError, match=r"values|vector"):
        client.mask(member, state, request, values)


def test_randomness_of_the_wrong_size_is_the_callers_mistake(stopped):
    world, member, state, request = stopped(Step.SHARE)
    for randomness in (b"", bytes(31), bytes(33)):
        with pytest.raises(ValueError, match="32 random bytes"):
            client.share(member, state, request, randomness)
        with pytest.raises(ValueError, match="32 random bytes"):
            client.announce(member, world.signed(world.plan), world.context, randomness)


def test_a_client_called_dropped_neither_signs_nor_opens(stopped):
    world, member, state, request = stopped(Step.AGREE)
    entries = wire.decode(wire.Uploads, request, 1 << 20).entries
    with pytest.raises(FaultyServer, match="says this client dropped out"):
        act(Step.AGREE, member, state, replaced(Step.AGREE, request, entries=entries[1:]), world)


def test_an_own_upload_with_another_digest_is_refused(stopped):
    world, member, state, request = stopped(Step.AGREE)
    entries = wire.decode(wire.Uploads, request, 1 << 20).entries
    forged = msgspec.structs.replace(entries[0], digest=bytes(32))
    with pytest.raises(FaultyServer, match="own upload"):
        act(Step.AGREE, member, state, replaced(Step.AGREE, request, entries=(forged, *entries[1:])), world)


def test_a_quorum_below_t_opens_nothing(stopped):
    world, member, state, request = stopped(Step.UNMASK)
    entries = wire.decode(wire.Quorum, request, 1 << 20).entries
    assert len(entries) == world.plan.quorum
    with pytest.raises(FaultyServer, match=f"{world.plan.quorum} are needed"):
        act(Step.UNMASK, member, state, replaced(Step.UNMASK, request, entries=entries[:-1]), world)


def test_agreements_of_dropped_clients_do_not_count(stopped, make_world):
    world, member, state, request = stopped(Step.UNMASK)
    entries = wire.decode(wire.Quorum, request, 1 << 20).entries
    state = msgspec.structs.replace(state, survivors=tuple(i for i in state.survivors if i != entries[-1].signer))
    with pytest.raises(FaultyServer, match="not by distinct survivors"):
        act(Step.UNMASK, member, state, request, world)


def test_after_agreeing_only_one_share_of_each_dealer_is_left(stopped, make_link):
    world, member, state, request = stopped(Step.AGREE)
    after, _ = act(Step.AGREE, member, state, request, world)
    held = {h.dealer: (h.seed_share, h.key_share) for h in state.held}
    stored = client.encode_state(after)
    for opening in after.openings:
        kept, forgotten = held[opening.dealer]
        assert opening.share == kept
        assert forgotten not in stored


def test_after_masking_the_clients_own_secrets_are_forgotten(stopped):
    world, member, state, request = stopped(Step.MASK)
    after, _ = act(Step.MASK, member, state, request, world)
    stored = client.encode_state(after)
    assert state.seed not in stored
    assert state.mask_secret not in stored


def test_the_same_values_are_masked_differently_in_every_session(make_world):
    seen = set()
    for round_number in (1, 2, 3):
        world = make_world(session_number=round_number, ring_bits=32)
        for i in world.ids:
            world.values[i] = {"update": np.zeros(5, np.int64), "scores": np.zeros(2, np.int64)}
        store = world.drivers[world.ids[0]]._store
        world.run()
        reply = next(reply for (_, _, step), (_, reply) in store._replies.items() if step is Step.MASK)
        seen.update(envelope.unverified(wire.Upload, reply).vectors)
    assert len(seen) == 6


def test_a_signature_check_that_is_replaced_is_really_used(stopped):
    """`verify` belongs to the member: an engine may remember successes, and nothing else verifies."""
    world, member, state, request = stopped(Step.AGREE)
    asked = []

    def refuse(public, label, payload, signature):
        asked.append(label)
        raise BadSignature("no")

    object.__setattr__(member, "verify", refuse)
    with pytest.raises(FaultyClientOrServer):
        act(Step.AGREE, member, state, request, world)
    assert asked == [labels.SIGN_UPLOAD]
    assert isinstance(world.drivers[world.ids[0]]._store, MemoryStore)


def test_a_root_of_someone_who_did_not_announce_does_not_count(make_world, make_link):
    """A colluder could sign one for the server, which would fill the floor with clients who hold no share."""
    world = make_world()
    me, absent = world.ids[0], world.ids[-1]

    def tamper(step, who, up, data):
        if (step, who, up) != (Step.MASK, me, False):
            return data
        s1 = client.decode_state(world.drivers[me]._store.state(world.identities[me].public, session)).s1
        blank = wire.SignedRoot(absent, bytes(32), bytes(32), bytes(64))
        signature = world.identities[absent].sign(labels.SIGN_DEAL, wire.root_payload(s1, blank))
        invented = msgspec.structs.replace(blank, signature=signature)
        return deliveries_with(data, roots=lambda entries: (*entries, invented))

    session = wire.session_of(world.plan)
    link = make_link(world, {Step.ANNOUNCE: {absent}}, tamper)
    world.run(link)
    assert "distinct announcers" in str(link.refusals[me])


def test_an_upload_of_someone_who_did_not_deal_does_not_count(make_world, make_link):
    """A colluder could sign one for the server, which would fill the floor of survivors."""
    world = make_world()
    me, absent = world.ids[0], world.ids[-1]

    def tamper(step, who, up, data):
        if (step, who, up) != (Step.AGREE, me, False):
            return data
        state = client.decode_state(world.drivers[me]._store.state(world.identities[me].public, session))
        blank = wire.UploadDigest(absent, bytes(32), bytes(64))
        signature = world.identities[absent].sign(labels.SIGN_UPLOAD, wire.upload_payload(state.s2, blank))
        entries = wire.decode(wire.Uploads, data, 1 << 20).entries
        return replaced(Step.AGREE, data, entries=(*entries, msgspec.structs.replace(blank, signature=signature)))

    session = wire.session_of(world.plan)
    link = make_link(world, {Step.SHARE: {absent}}, tamper)
    world.run(link)
    assert "distinct clients that dealt" in str(link.refusals[me])


def test_too_few_holders_on_a_sparse_graph_end_the_step_and_blame_nobody(stopped):
    """Chance may leave fewer than t, so it is no proof against anybody."""
    world, member, state, request = stopped(Step.SHARE)
    state = msgspec.structs.replace(state, plan=world.change_plan(neighbours=2, threshold=4))
    with pytest.raises(TooFewClients) as caught:
        act(Step.SHARE, member, state, request, world)
    assert (caught.value.have, caught.value.need) == (3, 4)


def test_every_name_that_is_offered_exists():
    assert all(hasattr(client, name) for name in client.__all__)
