"""A client's upload in its envelope, packed where it is sent from and read where it arrived.

The bytes are those that `envelope.sign` and `wire.encode` give for the same `wire.Upload`. Everything in them but the
vectors and the two signatures follows from the plan and the client's id; this module knows that layout, so that
neither side copies anything of a vector's size, and the server knows a wrong upload by its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import msgspec
import numpy as np

from protocols import envelope, labels, ring, wire
from protocols.envelope import bin_head
from protocols.errors import Malformed
from protocols.identity import SIGNATURE_BYTES, Identity
from protocols.wire import Step


@dataclass(frozen=True)
class Layout:
    """The bytes before each vector, where each begins, and those before the two signatures."""

    client: int
    heads: tuple[bytes, ...]
    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    tail: bytes
    size: int

    @classmethod
    def of(cls, client: int, lengths: Sequence[int], bits: int) -> Layout:
        """The layout of one client's upload of vectors of these lengths."""
        sizes = tuple(ring.packed_size(length, bits) for length in lengths)
        skeleton = wire.encode(wire.Upload(client, tuple(b"" for _ in sizes), wire.UNSIGNED))
        tail = bin_head(SIGNATURE_BYTES)
        opening = skeleton[: len(skeleton) - SIGNATURE_BYTES - len(tail) - 2 * len(sizes)]
        heads = [bin_head(size) for size in sizes]
        body = len(opening) + sum(map(len, heads)) + sum(sizes) + len(tail) + SIGNATURE_BYTES
        opening = envelope.PREFIX + bin_head(body) + opening
        if heads:
            heads[0] = opening + heads[0]
        else:
            tail = opening + tail
        starts, end = [], 0
        for head, size in zip(heads, sizes, strict=True):
            starts.append(end + len(head))
            end += len(head) + size
        whole = end + len(tail) + SIGNATURE_BYTES + len(envelope.TAIL) + SIGNATURE_BYTES
        return cls(client, tuple(heads), tuple(starts), sizes, tail, whole)


class Outgoing:
    """An upload under construction: `pack` once for each vector, in the plan's order, then `signed`."""

    def __init__(self, client: int, lengths: Sequence[int], bits: int) -> None:
        self.client = client
        self._bits = bits
        self._lengths = tuple(lengths)
        self._layout = Layout.of(client, lengths, bits)
        # Holds the only reference to its bytes, so that they are given out uncopied. What follows a vector is written
        # after it, and the signatures are longer than the packing's slack.
        self._message = BytesIO(bytes(self._layout.size))
        self._view = self._message.getbuffer()
        self._vectors: list[memoryview] = []

    def pack(self, fill: ring.Fill) -> None:
        """The next vector; `fill` as in `ring.pack_into`."""
        at = len(self._vectors)
        head, start, size = self._layout.heads[at], self._layout.starts[at], self._layout.sizes[at]
        self._view[start - len(head) : start] = head
        space = np.frombuffer(self._view[start : start + size + ring.SLACK], np.uint8)
        ring.pack_into(space, self._lengths[at], self._bits, fill)
        self._vectors.append(self._view[start : start + size])

    def signed(self, session: bytes, s2: bytes, identity: Identity) -> tuple[wire.UploadDigest, bytes]:
        """What the client signed, and the message in its envelope. ValueError unless every vector was packed."""
        if len(self._vectors) != len(self._lengths):
            raise ValueError(f"{len(self._vectors)} of {len(self._lengths)} vectors are packed")
        blank = wire.UploadDigest(self.client, wire.upload_digest(self._vectors), wire.UNSIGNED)
        signature = identity.sign(labels.SIGN_UPLOAD, wire.upload_payload(s2, blank))
        own = msgspec.structs.replace(blank, signature=signature)
        outer = envelope.signature(identity, session, self.client, Step.MASK, content_digest(own))
        end = self._layout.tail + signature + envelope.TAIL + outer
        self._view[-len(end) :] = end
        for view in (*self._vectors, self._view):
            view.release()  # else the message would be copied
        return own, self._message.getvalue()


@dataclass(frozen=True)
class Incoming:
    """An upload as it arrived: its vectors are views of the message. Nothing is checked but the layout."""

    entry: wire.UploadDigest
    vectors: tuple[memoryview, ...]
    signature: bytes

    @classmethod
    def read(cls, data: bytes, client: int, plan: wire.RoundPlan) -> Incoming:
        """The upload in `data`. Malformed unless every byte around vectors and signatures is the layout's."""
        layout = Layout.of(client, [length for _, length in plan.vectors], plan.ring_bits)
        # The length is known to the byte, so that garbage is refused before anything of it is read.
        if len(data) != layout.size:
            raise Malformed(f"{len(data)} bytes, an upload has {layout.size}")
        view, end, vectors = memoryview(data), 0, []
        for head, start, size in zip(layout.heads, layout.starts, layout.sizes, strict=True):
            if view[end:start] != head:
                raise Malformed("not an upload of the plan's vectors")
            end = start + size
            vectors.append(view[start:end])
        inner = end + len(layout.tail)
        outer = inner + SIGNATURE_BYTES + len(envelope.TAIL)
        if view[end:inner] != layout.tail or view[outer - len(envelope.TAIL) : outer] != envelope.TAIL:
            raise Malformed("not an upload of the plan's vectors")
        entry = wire.UploadDigest(client, wire.upload_digest(vectors), data[inner : inner + SIGNATURE_BYTES])
        return cls(entry, tuple(vectors), data[outer:])


def content_digest(entry: wire.UploadDigest) -> bytes:
    """What stands for an upload in its envelope's signature."""
    return envelope.content_digest(wire.encode(entry))
