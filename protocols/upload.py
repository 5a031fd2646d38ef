"""A client's upload, packed where it is sent from: the masked vectors exist once, inside their message.

The bytes are those that `wire.encode` gives for the same `wire.Upload`; this module knows their layout so that nothing
of a vector's size is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from itertools import accumulate

import msgspec
import numpy as np

from protocols import labels, ring, wire
from protocols.identity import SIGNATURE_BYTES, Identity

_BLANK = bytes(SIGNATURE_BYTES)


class Outgoing:
    """An upload under construction: `pack` once for each vector, in the plan's order, then `signed`."""

    def __init__(self, client: int, lengths: Sequence[int], bits: int) -> None:
        self.client = client
        self._bits = bits
        self._lengths = tuple(lengths)
        self._heads = _heads(client, [ring.packed_size(length, bits) for length in lengths])
        self._tail = self._heads.pop()
        sizes = (ring.packed_size(length, bits) for length in lengths)
        self._ends = tuple(accumulate(len(head) + size for head, size in zip(self._heads, sizes, strict=True)))
        # What follows a vector is written after it, and the signature is longer than the packing's slack.
        size = (self._ends[-1] if self._ends else 0) + len(self._tail) + SIGNATURE_BYTES
        self._message = BytesIO(
            bytes(size)
        )  # holds the only reference to its bytes, so that they are given out uncopied
        self._view = self._message.getbuffer()
        self._vectors: list[memoryview] = []

    def pack(self, fill: ring.Fill) -> None:
        """The next vector; `fill` as in `ring.pack_into`."""
        at = len(self._vectors)
        length, head, end = self._lengths[at], self._heads[at], self._ends[at]
        start = end - ring.packed_size(length, self._bits)
        self._view[start - len(head) : start] = head
        space = np.frombuffer(self._view[start : end + ring.SLACK], np.uint8)
        ring.pack_into(space, length, self._bits, fill)
        self._vectors.append(self._view[start:end])

    def signed(self, s2: bytes, identity: Identity) -> tuple[wire.UploadDigest, bytes]:
        """What the client signed, and the message. ValueError unless every vector was packed."""
        if len(self._vectors) != len(self._lengths):
            raise ValueError(f"{len(self._vectors)} of {len(self._lengths)} vectors are packed")
        blank = wire.UploadDigest(self.client, wire.upload_digest(self._vectors), _BLANK)
        signature = identity.sign(labels.SIGN_UPLOAD, wire.upload_payload(s2, blank))
        self._view[-SIGNATURE_BYTES - len(self._tail) :] = self._tail + signature
        for view in (*self._vectors, self._view):
            view.release()  # else the message would be copied
        return msgspec.structs.replace(blank, signature=signature), self._message.getvalue()


def _heads(client: int, sizes: Sequence[int]) -> list[bytes]:
    """The bytes before each vector, and those before the signature."""
    skeleton = wire.encode(wire.Upload(client, tuple(b"" for _ in sizes), _BLANK))
    opening = skeleton[: len(skeleton) - SIGNATURE_BYTES - 2 - 2 * len(sizes)]
    heads = [*(_bin_head(size) for size in sizes), _bin_head(SIGNATURE_BYTES)]
    return [opening + heads[0], *heads[1:]]


def _bin_head(size: int) -> bytes:
    """MessagePack's shortest head of a byte string (bin 8, 16 or 32)."""
    if size < 1 << 8:
        return b"\xc4" + size.to_bytes(1, "big")
    if size < 1 << 16:
        return b"\xc5" + size.to_bytes(2, "big")
    return b"\xc6" + size.to_bytes(4, "big")
