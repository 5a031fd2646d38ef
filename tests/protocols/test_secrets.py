"""Nothing that is printed shows a secret: every state, message and exception is searched for planted ones."""

import dataclasses
import traceback

import numpy as np
import pytest
from rich.pretty import pretty_repr

from protocols import identity, keys, recovery, ring, states, wire
from protocols.errors import ProtocolError
from protocols.server import open_session
from protocols.states import Agreed, Announced, Held, Masked, Peer, Settled, Shared, decode_state, encode_state
from protocols.wire import Step

PLANTED = b"planted secret of 32 bytes, here"
SHARE = PLANTED + b"\0"


@pytest.fixture
def plan(make_world):
    return make_world().plan


def forms(secret):
    """How a secret could look in text."""
    return [repr(secret)[2:-1], secret.hex(), str(int.from_bytes(secret, "little")), secret.decode()]


def assert_hidden(shown):
    for form in forms(PLANTED):
        assert form not in shown


def all_states(plan):
    announcement = wire.Announcement(2, bytes(32), bytes(32), bytes(64))
    root = wire.SignedRoot(2, bytes(32), bytes(32), bytes(64))
    digest = wire.UploadDigest(2, bytes(32), bytes(64))
    return [
        Announced(plan, bytes(32), PLANTED, PLANTED, announcement),
        Shared(plan, bytes(32), bytes(32), (2,), (Peer(2, bytes(32), PLANTED),), PLANTED, PLANTED, root),
        Masked(plan, bytes(32), bytes(32), (2,), (Held(2, SHARE, SHARE),), digest),
        Agreed(plan, bytes(32), bytes(32), (2,), (5,), (wire.OpenedShare(2, SHARE),)),
    ]


def test_no_state_shows_its_secrets_in_any_text_form(plan):
    for state in all_states(plan):
        for shown in (repr(state), str(state), f"{state}", pretty_repr(state), repr([state]), repr({"s": state})):
            assert_hidden(shown)
        assert PLANTED in encode_state(state), "the test plants what it searches for"


def test_no_part_of_a_state_shows_its_secrets(plan):
    parts = [Peer(2, bytes(32), PLANTED), Held(2, SHARE, SHARE), wire.OpenedShare(2, SHARE)]
    parts.append(wire.Opening(2, (wire.OpenedShare(2, SHARE),), bytes(64)))
    for part in parts:
        assert_hidden(repr(part))
        assert_hidden(pretty_repr(part))


def test_states_survive_their_store(plan):
    for state in [*all_states(plan), Settled(bytes(32), (2,), (5,))]:
        assert decode_state(encode_state(state)) == state


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x93\xa9announced\x00\x00"])
def test_bytes_that_are_no_state_are_refused(data):
    with pytest.raises(ValueError, match="state"):
        decode_state(data)


def test_a_state_above_its_bound_is_refused_before_it_is_read(plan, monkeypatch):
    data = encode_state(all_states(plan)[0])
    monkeypatch.setattr(states, "MAX_BYTES", len(data) - 1)
    with pytest.raises(ValueError, match="too large"):
        decode_state(data)


def test_a_world_that_is_printed_shows_no_identity(make_world):
    world = make_world()
    seeds = [identity._secret for identity in world.identities.values()]
    shown = repr([world.drivers[i].member for i in world.ids]) + pretty_repr(world.drivers[world.ids[0]].member)
    for seed in seeds:
        assert bytes(seed).hex() not in shown
        assert repr(bytes(seed)) not in shown


def test_no_error_of_a_garbled_session_shows_a_secret(make_world):
    """Every state's secrets are collected, every request is garbled in many places, every error is searched."""
    world = make_world()
    me = world.ids[0]
    store, key = world.drivers[me]._store, world.identities[me].public
    state, secrets, errors = open_session(world.server, world.plan, world.roster, world.verify), set(), []
    while True:
        request = state.outgoing[me]
        for place in range(0, len(request), max(1, len(request) // 40)):
            garbled = request[:place] + bytes([request[place] ^ 1]) + request[place + 1 :]
            try:
                world.ask(me, state.step, garbled)
            except ProtocolError as error:
                errors.append("".join(traceback.format_exception(error, limit=0)) + repr(vars(error)))
        for i in state.outgoing:
            answer = world.ask(i, state.step, state.outgoing[i])
            state.receive(i, answer)
        secrets |= secrets_of(decode_state(store.state(key, wire.session_of(world.plan))))
        if state.step is Step.UNMASK:
            break
        state = state.close()
    assert len(errors) > 100
    assert len(secrets) > 15
    text = "\n".join(errors)
    for secret in secrets:
        for form in (secret.hex(), repr(secret)[2:-1]):
            assert form not in text


def secrets_of(state):
    if isinstance(state, Announced):
        return {state.mask_secret, state.seal_secret}
    if isinstance(state, Shared):
        return {state.mask_secret, state.seed, *(peer.sealing for peer in state.peers)}
    if isinstance(state, Masked):
        return {part for held in state.held for part in (held.seed_share, held.key_share)}
    return set()


def test_no_value_is_on_the_wire_in_any_integer_form(make_world, make_link):
    """With a positive control: the same search finds the values in an upload whose masks are left out."""
    world = make_world(ring_bits=40, vectors=(("update", 6), ("scores", 1)))
    planted = [123456789, -987654321, 55555555555, 1234567, 7654321, -31415926]
    for n, i in enumerate(world.ids):
        world.values[i] = {"update": np.roll(np.array(planted), n), "scores": np.array([424242 + n])}
    link = make_link(world, {Step.MASK: {world.ids[2]}})
    world.run(link)
    wire_bytes = b"".join(message for _, _, message in link.up + link.down)
    assert not found(planted, wire_bytes)
    unmasked = ring.pack(ring.to_ring(world.values[world.ids[0]]["update"], 40), 40)
    assert found(planted, wire_bytes + unmasked)


def found(planted, data):
    """Values whose encoding, in any width from 32 bits, either order, or as a float, stands in the data."""
    hits = set()
    for value in planted:
        sized = [(value % 2**width).to_bytes(width // 8, order) for width in (40, 64) for order in ("little", "big")]
        if abs(value) < 2**31:
            sized += [(value % 2**32).to_bytes(4, order) for order in ("little", "big")]
        sized += [np.float64(value).tobytes(), np.float32(value).tobytes(), str(value).encode()]
        if any(form in data for form in sized):
            hits.add(value)
    return hits


def test_fields_that_hold_secrets_are_never_in_a_dataclass_text():
    for module, kind, names in (
        (identity, "Identity", {"_secret"}),
        (keys, "Seal", {"_cipher"}),
        (recovery, "Opened", {"shares"}),
    ):
        for entry in dataclasses.fields(getattr(module, kind)):
            assert entry.repr is (entry.name not in names)
