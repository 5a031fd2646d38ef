"""Mask expansion: AES-256-CTR keystreams read as ring elements, straight into an accumulator.

The counter starts at zero, so a key must mask one vector once: keys.py binds every key to the session's
S2, the clients and the vector's name. Lanes wrap around at their own width; `ring.reduce` comes last.

The loop over masks runs inside the loop over pieces, so that a piece of the accumulator stays in the cache
while every mask is added to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocols.ring import MAX_LANE_BYTES, PIECE, SPARE, Lanes, Octets, piece_size, pieces

SignedKey = tuple[bytes, int]
"""A 32-byte mask key, and 1 to add its mask or -1 to subtract it."""

_COUNTER = modes.CTR(bytes(16))
# The cipher adds its keystream to what it is given; to zeros, so that the keystream is what comes out.
_ZEROS = memoryview(bytes(MAX_LANE_BYTES * PIECE))  # what is encrypted
_AT_ONCE = 256  # keystreams open together: bounds the server's memory, which may have to take off a million masks


class Keystreams:
    """The masks of several keys, expanded side by side: each call continues where the one before ended."""

    def __init__(self, keys: Iterable[SignedKey]) -> None:
        self._streams = [
            (Cipher(algorithms.AES(key), _COUNTER).encryptor().update_into, _combine(sign)) for key, sign in keys
        ]

    def add_to(self, piece: Lanes, spare: Octets) -> None:
        """Adds or subtracts the next len(piece) elements of every mask, at most PIECE of them, in place, modulo the
        lane width. `spare` is written over; it is SPARE bytes longer, because the cipher asks for 15 more than it uses.
        """
        zeros, space = _ZEROS[: piece.nbytes], spare.data
        mask = spare[: piece.nbytes].view(piece.dtype)
        for expand, combine in self._streams:
            expand(zeros, space)
            combine(piece, mask, out=piece)


def add_masks(accumulator: Lanes, keys: Iterable[SignedKey]) -> None:
    """Adds or subtracts the masks of all keys, in place, modulo the lane width.

    A mask's element i is bytes [i * w, i * w + w) of its key's keystream, little-endian, w the lane's width.
    """
    remaining = iter(keys)
    spare = np.empty(piece_size(len(accumulator)) * accumulator.itemsize + SPARE, np.uint8)
    while batch := tuple(islice(remaining, _AT_ONCE)):
        streams = Keystreams(batch)
        for piece in pieces(len(accumulator)):
            streams.add_to(accumulator[piece], spare)


def add_mask(accumulator: Lanes, key: bytes, sign: int) -> None:
    """`add_masks` for one key."""
    add_masks(accumulator, [(key, sign)])


def _combine(sign: int) -> np.ufunc:
    if sign not in (1, -1):
        raise ValueError("sign must be 1 or -1")
    return np.add if sign == 1 else np.subtract
