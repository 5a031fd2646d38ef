"""The envelope of every message from a client, and what reading it costs."""

import tracemalloc
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import envelope, labels, wire
from protocols.errors import Ignored, Malformed
from protocols.identity import Identity, verify_signature
from protocols.server import open_session
from protocols.upload import Incoming
from protocols.wire import Step

IDENTITY = Identity.from_seed(b"e" * 32)
SESSION = bytes(range(32))
EDGES = st.sampled_from([0, 1, 255, 256, 65_535, 65_536, 70_000])


@given(size=EDGES, signature=st.binary(min_size=64, max_size=64))
def test_an_envelope_is_split_where_the_codec_put_it_together(size, signature):
    data = wire.encode(wire.Signed(bytes(size), signature))
    body, found = envelope.split(data, size)
    assert (bytes(body), found) == (bytes(size), signature)
    assert len(data) <= size + envelope.OVERHEAD


@given(
    right=st.builds(wire.Signed, EDGES.map(bytes), st.binary(min_size=64, max_size=64)).map(wire.encode),
    at=st.integers(0, 90),
    cut=st.integers(0, 3),
    insert=st.binary(max_size=3),
)
def test_whatever_splits_is_the_canonical_form_and_nothing_else_does(right, at, cut, insert):
    data = right[:at] + insert + right[at + cut :]
    try:
        read = wire.decode(wire.Signed, data, len(data))
    except Malformed:
        with pytest.raises(Malformed):
            envelope.split(data, len(data))
        return
    body, signature = envelope.split(data, len(data))
    assert (bytes(body), signature) == (read.body, read.signature)


@given(st.binary(max_size=200))
def test_any_bytes_split_or_are_malformed(data):
    with suppress(Malformed):
        body, signature = envelope.split(data, 200)
        assert wire.encode(wire.Signed(bytes(body), signature)) == data


def test_a_signature_holds_for_one_client_session_step_and_message():
    places = [(SESSION, 7, Step.SHARE, b"body")]
    places += [(bytes(32), 7, Step.SHARE, b"body"), (SESSION, 8, Step.SHARE, b"body")]
    places += [(SESSION, 7, step, b"body") for step in Step if step is not Step.SHARE] + [
        (SESSION, 7, Step.SHARE, b"other")
    ]
    payloads = {envelope.payload(*place[:3], envelope.content_digest(place[3])) for place in places}
    assert len(payloads) == len(places)
    made = envelope.signature(IDENTITY, *places[0][:3], envelope.content_digest(b"body"))
    payload = envelope.payload(*places[0][:3], envelope.content_digest(b"body"))
    verify_signature(IDENTITY.public, labels.SIGN_MESSAGE, payload, made)


def test_an_upload_is_read_where_it_was_packed(make_world, make_link):
    world, seen = make_world(vectors=(("update", 300), ("scores", 2))), {}

    def tamper(step, who, up, data):
        if up and step is Step.MASK:
            seen[who] = data
        return data

    world.run(make_link(world, tamper=tamper))
    for client, data in seen.items():
        upload = envelope.unverified(wire.Upload, data)
        read = Incoming.read(data, client, world.plan)
        assert tuple(map(bytes, read.vectors)) == upload.vectors
        assert read.entry == wire.digest_only(upload)
        for other in (data + b"\0", data[:-1], b"\x94" + data[1:], data[:20] + b"\0" + data[21:]):
            with pytest.raises(Malformed):
                Incoming.read(other, client, world.plan)
        with pytest.raises(Malformed):
            Incoming.read(data, client, msgspec.structs.replace(world.plan, vectors=(("update", 301), ("scores", 1))))


@pytest.mark.parametrize("form", ["longer", "another shape", "the plan's own"])
def test_an_upload_that_nobody_signed_costs_no_more_memory_than_its_bytes(form, make_world):
    """24 MiB of it once cost the server 212 MiB before it looked at the signature."""
    world = make_world(clients=6, vectors=(("update", 3_000_000),), ring_bits=62)
    state = open_session(world.server, world.plan, world.roster, world.verify)
    while state.step is not Step.MASK:
        for i in state.outgoing:
            state.receive(i, world.ask(i, state.step, state.outgoing[i]))
        state = state.close()
    size = world.plan.upload_size
    upload = wire.Upload(world.ids[0], (bytes(size),), bytes(64))
    if form == "longer":
        upload = wire.Upload(world.ids[0], (bytes(size + 8),), bytes(64))
    if form == "another shape":
        upload = wire.Upload(world.ids[0], (b"",) * (size // 2), bytes(64))
    data = wire.encode(wire.Signed(wire.encode(upload), bytes(64)))
    tracemalloc.start()
    with pytest.raises(Ignored):
        state.receive(world.ids[0], data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 16
    assert state.blamed == {}
