"""AES-256-CTR as a source of uniform words for rounding and noise.

A (key, start) pair names one endless stream, the same on every machine. Callers take a fresh key per vector.
"""

from collections.abc import Iterator

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

KEY_BYTES = 32
PIECE = 1 << 14  # words drawn at once: the temporaries of a piece stay in the second-level cache

# What is encrypted, so that the keystream itself comes out.
_ZEROS = bytes(8 * PIECE)
_SLACK = 15  # update_into asks for one block less a byte beyond the data


class Keystream:
    """The keystream of `key` from block `start` on; successive calls continue it."""

    def __init__(self, key: bytes, start: int = 0) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key must have {KEY_BYTES} bytes, not {len(key)}")
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(start.to_bytes(16, "big"))).encryptor()
        self._buffer = np.empty(8 * PIECE + _SLACK, np.uint8)

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        return self._cipher.update(bytes(count))

    def words32(self, count: int) -> NDArray[np.uint32]:
        """The next `count` <= PIECE little-endian 32-bit words, valid until the next call."""
        return self._fill(4 * count).view("<u4")

    def words64(self, count: int) -> NDArray[np.uint64]:
        """The next `count` <= PIECE little-endian 64-bit words, valid until the next call."""
        return self._fill(8 * count).view("<u8")

    def _fill(self, size: int) -> NDArray[np.uint8]:
        self._cipher.update_into(memoryview(_ZEROS)[:size], self._buffer.data)
        return self._buffer[:size]


def pieces(count: int) -> Iterator[slice]:
    """Slices of at most PIECE that cover `count` words in order."""
    return (slice(start, min(start + PIECE, count)) for start in range(0, count, PIECE))
