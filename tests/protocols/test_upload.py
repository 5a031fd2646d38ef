import tracemalloc

import numpy as np
import pytest

from protocols import envelope, labels, ring, wire
from protocols.identity import Identity, verify_signature
from protocols.upload import Outgoing
from protocols.wire import Step

SESSION, S2 = bytes(32), bytes(range(32))
IDENTITY = Identity.from_seed(b"u" * 32)


def packed(client, vectors, bits):
    outgoing = Outgoing(client, [len(vector) for vector in vectors], bits)
    for vector in vectors:
        outgoing.pack(lambda piece, space, _, vector=vector: np.copyto(space, vector[piece]))
    return outgoing.signed(SESSION, S2, IDENTITY)


@pytest.mark.parametrize("client", [0, 127, 128, 255, 256, 2**16, 2**32 - 1])
@pytest.mark.parametrize("lengths", [[1], [3, 200, 7], [255, 256, 257], [30_000, 1], [2] * 16])
@pytest.mark.parametrize("bits", [8, 27, 32, 62])
def test_an_upload_packed_in_place_is_the_message_that_the_codec_gives(client, lengths, bits):
    rng = np.random.default_rng(1)
    vectors = [rng.integers(0, 2**bits, length).astype(ring.lanes(bits)) for length in lengths]
    own, data = packed(client, vectors, bits)
    apart = tuple(ring.pack(vector, bits) for vector in vectors)
    assert data == envelope.sign(IDENTITY, SESSION, client, Step.MASK, wire.Upload(client, apart, own.signature))
    assert own.digest == labels.digest(labels.HASH_UPLOAD, *apart)
    verify_signature(IDENTITY.public, labels.SIGN_UPLOAD, wire.upload_payload(S2, own), own.signature)


@pytest.mark.parametrize("length", [254, 255, 256, 257, 65_535, 65_536, 65_537])
def test_the_heads_of_byte_strings_change_where_the_codecs_do(length):
    vectors = [np.arange(length).astype("<u4"), np.ones(1, "<u4")]
    own, data = packed(1, vectors, 8)
    upload = wire.Upload(1, tuple(ring.pack(v & 255, 8) for v in vectors), own.signature)
    assert data == envelope.sign(IDENTITY, SESSION, 1, Step.MASK, upload)


def test_an_upload_exists_once_while_it_is_made():
    """Memory that grows with the vector is the message alone."""
    vector = np.zeros(1_000_000, "<u4")
    tracemalloc.start()
    _, data = packed(1, [vector], 29)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(data) + (1 << 19)


def test_an_upload_without_all_its_vectors_is_not_signed():
    outgoing = Outgoing(1, [2, 2], 20)
    outgoing.pack(lambda piece, space, _: space.fill(0))
    with pytest.raises(ValueError, match="1 of 2 vectors"):
        outgoing.signed(SESSION, S2, IDENTITY)


def test_packing_needs_space_of_the_right_size():
    with pytest.raises(ValueError, match="bytes of space"):
        ring.pack_into(np.zeros(10, np.uint8), 8, 9, lambda *_: None)
