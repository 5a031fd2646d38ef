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

from protocols.ring import PIECE, Lanes

SignedKey = tuple[bytes, int]
"""A 32-byte mask key, and 1 to add its mask or -1 to subtract it."""

_SLACK = 15  # update_into asks for one block less a byte beyond the data
_COUNTER = modes.CTR(bytes(16))
_AT_ONCE = 256  # keystreams open together: bounds the server's memory, which may have to take off a million masks


class Keystreams:
    """The masks of several keys, expanded side by side: each call continues where the one before ended."""

    def __init__(self, keys: Iterable[SignedKey]) -> None:
        self._streams = [
            (Cipher(algorithms.AES(key), _COUNTER).encryptor().update_into, _combine(sign)) for key, sign in keys
        ]
        self._zeros = memoryview(b"")
        self._buffer = np.empty(0, np.uint8)

    def add_to(self, piece: Lanes) -> None:
        """Adds or subtracts the next len(piece) elements of every mask, in place, modulo the lane width."""
        if len(self._zeros) < piece.nbytes:
            self._zeros = memoryview(bytes(piece.nbytes))
            self._buffer = np.empty(piece.nbytes + _SLACK, np.uint8)
        zeros, space = self._zeros[: piece.nbytes], self._buffer.data
        mask = self._buffer[: piece.nbytes].view(piece.dtype)
        for expand, combine in self._streams:
            expand(zeros, space)
            combine(piece, mask, out=piece)


def add_masks(accumulator: Lanes, keys: Iterable[SignedKey]) -> None:
    """Adds or subtracts the masks of all keys, in place, modulo the lane width.

    A mask's element i is bytes [i * w, i * w + w) of its key's keystream, little-endian, w the lane's width.
    """
    remaining = iter(keys)
    while batch := tuple(islice(remaining, _AT_ONCE)):
        streams = Keystreams(batch)
        for start in range(0, len(accumulator), PIECE):
            streams.add_to(accumulator[start : start + PIECE])


def add_mask(accumulator: Lanes, key: bytes, sign: int) -> None:
    """`add_masks` for one key."""
    add_masks(accumulator, [(key, sign)])


def _combine(sign: int) -> np.ufunc:
    if sign not in (1, -1):
        raise ValueError("sign must be 1 or -1")
    return np.add if sign == 1 else np.subtract
