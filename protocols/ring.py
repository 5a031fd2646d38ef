"""Integers modulo 2^b: lanes that hold them, the signed reading of them, and their packed bytes.

A lane is a little-endian uint32 when b <= 32, else a uint64. Sums may run modulo the lane's own width,
because 2^b divides it; `reduce` brings them back below 2^b.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Malformed

MIN_BITS = 8
MAX_BITS = 62

Lanes = NDArray[Any]  # uint32 or uint64, as `lanes(bits)` says

_PIECE = 1 << 16  # coordinates packed at once; a multiple of 8, so that pieces end on whole bytes


def lanes(bits: int) -> np.dtype[Any]:
    """The dtype that holds ring elements of `bits` bits (8 to 62, else ValueError)."""
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"ring_bits must be between {MIN_BITS} and {MAX_BITS}, not {bits}")
    return np.dtype("<u4") if bits <= 32 else np.dtype("<u8")


def to_ring(values: NDArray[np.int64], bits: int) -> Lanes:
    """Signed integers modulo 2^bits, as a new array of lanes of the same length."""
    if values.dtype != np.int64 or values.ndim != 1:
        raise ValueError("values must be a one-dimensional int64 array")
    return reduce(values.astype(np.uint64).astype(lanes(bits)), bits)


def to_signed(elements: Lanes, bits: int) -> NDArray[np.int64]:
    """The representatives in [-2^(bits-1), 2^(bits-1)) of ring elements."""
    shift = np.int64(64 - bits)
    return (elements.astype(np.int64) << shift) >> shift


def reduce(elements: Lanes, bits: int) -> Lanes:
    """Takes lanes modulo 2^bits, in place, and returns them."""
    elements &= elements.dtype.type((1 << bits) - 1)
    return elements


def packed_size(count: int, bits: int) -> int:
    """Bytes of `count` packed elements."""
    return (count * bits + 7) // 8


def pack(elements: Lanes, bits: int) -> bytes:
    """Ring elements below 2^bits as a little-endian bit string, `bits` each, the last byte filled with
    zeros.
    """
    if bits == 8 * elements.dtype.itemsize:
        return elements.tobytes()
    pieces = (elements[start : start + _PIECE] for start in range(0, len(elements), _PIECE))
    return b"".join(_pack_piece(piece, bits) for piece in pieces)


def unpack(data: bytes, count: int, bits: int) -> Lanes:
    """The inverse of `pack`. Raises Malformed on a wrong length or on padding that is not zero."""
    if len(data) != packed_size(count, bits):
        raise Malformed(f"{len(data)} packed bytes, expected {packed_size(count, bits)}")
    used = count * bits % 8
    if used and data[-1] >> used:
        raise Malformed("padding bits are not zero")
    dtype = lanes(bits)
    if bits == 8 * dtype.itemsize:
        return np.frombuffer(data, dtype).copy()
    elements = np.zeros(count, dtype)
    source = np.frombuffer(data, np.uint8)
    for start in range(0, count, _PIECE):
        piece = elements[start : start + _PIECE]
        _unpack_piece(source[start * bits // 8 : packed_size(start + len(piece), bits)], piece, bits)
    return elements


def _pack_piece(piece: Lanes, bits: int) -> bytes:
    octets = np.ascontiguousarray(piece).view(np.uint8).reshape(len(piece), -1)
    matrix = np.unpackbits(octets, axis=1, count=bits, bitorder="little")
    return np.packbits(matrix.reshape(-1), bitorder="little").tobytes()


def _unpack_piece(source: NDArray[np.uint8], piece: Lanes, bits: int) -> None:
    matrix = np.unpackbits(source, count=len(piece) * bits, bitorder="little").reshape(len(piece), bits)
    octets = np.packbits(matrix, axis=1, bitorder="little")
    piece.view(np.uint8).reshape(len(piece), -1)[:, : octets.shape[1]] = octets
