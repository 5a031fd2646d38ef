"""What the server makes of uploads and deals that are ill-formed, and what it holds while it adds them up."""

import dataclasses

import msgspec
import numpy as np
import pytest

from protocols import envelope, labels, merkle, ring, wire
from protocols.errors import FaultyClient, Ignored
from protocols.server import Inbox, Recovered, open_session
from protocols.states import decode_state, encode_state
from protocols.wire import Step

UP = dict(zip(Step, (wire.Announcement, wire.Deal, wire.Upload, wire.Agreement, wire.Opening), strict=True))


@pytest.fixture
def world(make_world):
    return make_world(clients=8, max_dropout=0.25)


def tampering(step, culprit, change):
    return lambda at, who, up, data: change(data) if (at, who, up) == (step, culprit, True) else data


def assert_sum(world, recovered):
    for name, total in world.plain_sum(recovered.survivors).items():
        assert np.array_equal(recovered.totals[name], total)


def uploading(world, culprit, change):
    """A culprit that uploads something else under a right signature."""

    def tamper(step, who, up, data):
        if (step, who, up) != (Step.MASK, culprit, True):
            return data

        upload = envelope.unverified(wire.Upload, data)
        state = decode_state(
            world.drivers[culprit]._store.state(world.identities[culprit].public, wire.session_of(world.plan))
        )
        vectors = change(upload.vectors)
        entry = wire.UploadDigest(culprit, wire.upload_digest(vectors), bytes(64))
        signature = world.identities[culprit].sign(labels.SIGN_UPLOAD, wire.upload_payload(state.s2, entry))
        return world.sealed(culprit, Step.MASK, wire.Upload(culprit, vectors, signature))

    return tamper


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v[:1],
        lambda v: (*v, b""),
        lambda v: v[::-1],
        lambda v: (v[0][:-1], v[1]),
        lambda v: (v[0] + b"\0", v[1]),
        lambda v: (v[0][:-1], v[1] + b"\0"),
        lambda v: (v[0][:-1] + b"\xff", v[1]),
        lambda v: (v[0], v[1] + b"\0"),
    ],
)
def test_ill_formed_uploads_leave_no_trace_in_the_sum(change, make_world, make_link):
    """20 bits times 5 leave 4 bits of padding; a wrong second vector must not leave the first one added.

    Of another layout than the plan's nothing is read, not even a signature, so nobody is blamed for it.
    """
    world = make_world(clients=8, max_dropout=0.25, vectors=(("update", 5), ("scores", 2)), ring_bits=20)
    culprit = world.ids[0]
    recovered, _ = world.run(make_link(world, tamper=uploading(world, culprit, change)))
    right_layout = [len(vector) for vector in change((bytes(13), bytes(5)))] == [13, 5]
    assert set(recovered.blamed) == ({culprit} if right_layout else set())
    assert culprit not in recovered.survivors
    assert_sum(world, recovered)


def test_any_ring_element_is_accepted_so_a_client_can_spoil_the_sum_by_what_it_uploads(world, make_link):
    """Stated in SPEC.md, section 9: clipping binds honest clients only."""
    culprit = world.ids[0]
    added = ring.pack(np.ones(5, "<u4"), 20)

    def change(vectors):
        total = ring.unpack(vectors[0], 5, 20) + ring.unpack(added, 5, 20)
        return (ring.pack(ring.reduce(total, 20), 20), vectors[1])

    recovered, _ = world.run(make_link(world, tamper=uploading_and_believing(world, culprit, change)))
    honest = world.plain_sum(recovered.survivors)
    assert np.array_equal(recovered.totals["update"], honest["update"] + 1)
    assert recovered.blamed == {}


def uploading_and_believing(world, culprit, change):
    inner = uploading(world, culprit, change)

    def tamper(step, who, up, data):

        changed = inner(step, who, up, data)
        if changed != data:
            upload = envelope.unverified(wire.Upload, changed)
            store, key = world.drivers[culprit]._store, world.identities[culprit].public
            state = decode_state(store.state(key, wire.session_of(world.plan)))
            own = wire.UploadDigest(culprit, wire.upload_digest(upload.vectors), upload.signature)
            store._states[key, wire.session_of(world.plan)] = encode_state(msgspec.structs.replace(state, own=own))
        return changed

    return tamper


@pytest.mark.parametrize(
    "leaves", [lambda v: v[:-1], lambda v: (*v, v[-1]), lambda v: v[::-1], lambda v: (), lambda v: (b"x", *v[1:])]
)
def test_a_deal_that_is_not_one_leaf_per_holder_drops_its_dealer(leaves, world, make_link):
    culprit, kept = world.ids[2], {}

    def tamper(step, who, up, data):
        if step is Step.SHARE and who == culprit:
            if not up:
                kept["s1"] = labels.digest(labels.HASH_ANNOUNCED, data)
                return data
            deal = envelope.unverified(wire.Deal, data)
            changed = leaves(deal.leaves)
            root = merkle.root([merkle.leaf_hash(leaf) for leaf in changed])
            entry = wire.SignedRoot(culprit, root, deal.seed_commitment, bytes(64))
            signature = world.identities[culprit].sign(labels.SIGN_DEAL, wire.root_payload(kept["s1"], entry))
            return world.sealed(culprit, Step.SHARE, wire.Deal(culprit, deal.seed_commitment, changed, signature))
        return data

    recovered, _ = world.run(make_link(world, tamper=tamper))
    assert set(recovered.blamed) == {culprit}
    assert culprit not in recovered.survivors
    assert_sum(world, recovered)


class TestOneState:
    """Repetitions, strangers and order, on the states themselves."""

    def test_an_identical_repetition_is_ignored(self, world):
        state = self.opened(world)
        answer = world.ask(world.ids[0], Step.ANNOUNCE, state.outgoing[world.ids[0]])
        state.receive(world.ids[0], answer)
        state.receive(world.ids[0], answer)
        assert state.blamed == {}

    def test_a_second_different_answer_blames_but_does_not_replace_the_first(self, world):
        state = self.opened(world)
        answer = world.ask(world.ids[0], Step.ANNOUNCE, state.outgoing[world.ids[0]])
        state.receive(world.ids[0], answer)
        with pytest.raises(FaultyClient, match="two different answers"):
            state.receive(world.ids[0], world.sealed_bytes(world.ids[0], Step.ANNOUNCE, b"another"))
        for i in world.ids[1:]:
            state.receive(i, world.ask(i, Step.ANNOUNCE, state.outgoing[i]))
        after = state.close()
        assert len(after.outgoing) == 8

    def test_a_stranger_is_refused(self, world):
        with pytest.raises(Ignored, match="not part of"):
            self.opened(world).receive(12345, world.sealed_bytes(world.ids[0], Step.ANNOUNCE, b""))

    def test_messages_are_made_for_those_who_are_asked_only(self, world):
        state = self.opened(world)
        assert set(state.outgoing) == set(world.ids)
        with pytest.raises(KeyError):
            state.outgoing[12345]

    def test_a_plan_for_another_roster_or_outsiders_is_the_callers_mistake(self, world):
        for fields in ({"roster_version": 9}, {"roster_digest": bytes(32)}, {"cohort": (1,)}, {"cohort": (5, 2)}):
            with pytest.raises(ValueError, match="roster"):
                open_session(world.server, msgspec.structs.replace(world.plan, **fields), world.roster)

    def test_a_session_ends_in_the_sum(self, world):
        state = self.opened(world)
        while not isinstance(state, Recovered):
            for i in state.outgoing:
                state.receive(i, world.ask(i, state.step, state.outgoing[i]))
            state = state.close()
        assert_sum(world, state)

    @staticmethod
    def opened(world) -> Inbox:
        return open_session(world.server, world.plan, world.roster, world.verify)


def test_a_state_of_the_server_is_frozen_and_judging_an_answer_changes_nothing_in_it(world):
    """But the sums, and those only by a right upload: so a replay of the same answers gives the same session."""
    inbox = TestOneState.opened(world)
    while not isinstance(inbox, Recovered):
        state = inbox.state
        for name in (entry.name for entry in dataclasses.fields(state)):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(state, name, None)
        answers = {i: world.ask(i, state.step, state.outgoing[i]) for i in state.outgoing}
        before = seen_of(state)
        for i, answer in answers.items():
            assert state.judge(i, answer, lambda digest, signature: False) is None
            if state.step is not Step.MASK:
                assert state.judge(i, answer, lambda *_: True) == state.judge(i, answer, lambda *_: True)
            assert seen_of(state) == before
        for i, answer in answers.items():
            inbox.receive(i, answer)
        inbox = inbox.close()
        assert seen_of(state)[: len(dataclasses.fields(state)) - 1] == before[: len(dataclasses.fields(state)) - 1]
    assert_sum(world, inbox)


def seen_of(state):
    """Everything in a state that could change, as text; the running sums as bytes."""
    parts = [repr(getattr(state, entry.name)) for entry in dataclasses.fields(state) if entry.name != "sums"]
    return parts + [total.tobytes() for total in getattr(state, "sums", {}).values()]


def test_what_the_server_adds_up_stays_masked_until_the_survivors_open(make_world):
    """Not one client's upload, nor the running sum, equals values that it could be."""
    world = make_world(ring_bits=40, vectors=(("update", 50),))
    for i in world.ids:
        world.values[i] = {"update": np.zeros(50, np.int64)}
    state = open_session(world.server, world.plan, world.roster, world.verify)
    while state.step is not Step.UNMASK:
        for i in state.outgoing:
            state.receive(i, world.ask(i, state.step, state.outgoing[i]))
            if state.step is Step.MASK:
                running = ring.to_signed(ring.reduce(state.state.sums["update"].copy(), 40), 40)
                assert (np.abs(running) > 2**20).mean() > 0.9
        state = state.close()
    for i in state.outgoing:
        state.receive(i, world.ask(i, state.step, state.outgoing[i]))
    assert not state.close().totals["update"].any()
