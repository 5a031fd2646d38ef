"""Mask expansion: an AES-256-CTR keystream read as ring elements, straight into an accumulator.

The counter starts at zero, so a key must mask one vector once: keys.py binds every key to the session's
S2, the clients and the vector's name. Lanes wrap around at their own width; `ring.reduce` comes last.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocols.ring import Lanes

_PIECE = 1 << 18  # bytes: measured best; keystream and accumulator pieces stay in cache together
_ZEROS = bytes(_PIECE)
_SLACK = 15  # update_into asks for one block less a byte beyond the data


def add_mask(accumulator: Lanes, key: bytes, sign: int) -> None:
    """Adds (`sign` = 1) or subtracts (`sign` = -1) the mask of a 32-byte key, in place, modulo the lane
    width.

    The mask's element i is bytes [i * w, i * w + w) of the keystream, little-endian, w the lane's width.
    """
    if sign not in (1, -1):
        raise ValueError("sign must be 1 or -1")
    width = accumulator.dtype.itemsize
    step = _PIECE // width
    combine = np.add if sign == 1 else np.subtract
    keystream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    buffer = np.empty(min(_PIECE, accumulator.nbytes) + _SLACK, np.uint8)
    for start in range(0, len(accumulator), step):
        piece = accumulator[start : start + step]
        keystream.update_into(_ZEROS[: piece.nbytes], buffer.data)
        combine(piece, buffer[: piece.nbytes].view(accumulator.dtype), out=piece)
