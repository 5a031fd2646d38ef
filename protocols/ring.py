"""Integers modulo 2^b: lanes that hold them, the signed reading of them, and their packed bytes.

A lane is a little-endian uint32 when b <= 32, else a uint64. Sums may run modulo the lane's own width,
because 2^b divides it; `reduce` brings them back below 2^b.

Packing works on 64-bit words: a word that begins at the byte where a field of the bit string begins holds all of
it, because a field has at most 57 bits or begins at few enough places within its byte. Two elements of 30 bits or
fewer make one field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Malformed

MIN_BITS = 8
MAX_BITS = 62
MAX_LANE_BYTES = 8

Lanes = NDArray[Any]  # uint32 or uint64, as `lanes(bits)` says

# Coordinates handled at once: few enough for the cache, and a multiple of 16, so that pieces and their halves
# end on whole bytes.
PIECE = 1 << 15
SLACK = 8  # bytes after a bit string that the last word may reach into
SPARE = 16

Words = NDArray[np.uint64]
Octets = NDArray[np.uint8]

Fill = Callable[[slice, Lanes, Octets], None]
"""(piece, lanes, spare): writes the piece's elements to `lanes`; may use `spare`, which is SPARE bytes longer."""


def lanes(bits: int) -> np.dtype[Any]:
    """The dtype that holds ring elements of `bits` bits (8 to 62, else ValueError)."""
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"ring_bits must be between {MIN_BITS} and {MAX_BITS}, not {bits}")
    return np.dtype("<u4") if bits <= 32 else np.dtype("<u8")


def to_ring(values: NDArray[np.int64], bits: int) -> Lanes:
    """Signed integers modulo 2^bits, as a new array of lanes of the same length."""
    if values.dtype != np.int64 or values.ndim != 1:
        raise ValueError("values must be a one-dimensional int64 array")
    return reduce(values.astype(lanes(bits)), bits)


def to_signed(elements: Lanes, bits: int) -> NDArray[np.int64]:
    """The representatives in [-2^(bits-1), 2^(bits-1)) of ring elements."""
    shift = np.int64(64 - bits)
    signed = elements.astype(np.int64)
    # The element's top bit becomes the sign bit, and the way back extends it.
    signed <<= shift
    signed >>= shift
    return signed


def reduce(elements: Lanes, bits: int) -> Lanes:
    """Takes lanes modulo 2^bits, in place, and returns them."""
    elements &= elements.dtype.type((1 << bits) - 1)
    return elements


def pieces(count: int) -> Iterator[slice]:
    """Cuts a vector of `count` coordinates into pieces that fit the cache and pack to whole bytes."""
    size = piece_size(count)
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def piece_size(count: int) -> int:
    """Coordinates of one piece. Beside a short vector the working space of a whole one would be the larger part of what
    a client holds, and half of it is as fast.
    """
    return max(1, min(count, PIECE if count > 4 * PIECE else PIECE // 2))


def packed_size(count: int, bits: int) -> int:
    """Bytes of `count` packed elements."""
    return (count * bits + 7) // 8


def pack(elements: Lanes, bits: int) -> bytes:
    """Ring elements below 2^bits as a little-endian bit string, `bits` each, the last byte filled with
    zeros.
    """

    def fill(piece: slice, chosen: Lanes, _: Octets) -> None:
        chosen[...] = elements[piece]

    space = np.zeros(packed_size(len(elements), bits) + SLACK, np.uint8)
    pack_into(space, len(elements), bits, fill)
    return space[:-SLACK].tobytes()


def pack_into(space: Octets, count: int, bits: int, fill: Fill) -> None:
    """Packs `count` elements, taken modulo 2^bits, where they are to lie. `fill` is asked for piece after piece, as
    `pieces` cuts them; nothing of the vector's size is held.

    `space` is zero, and SLACK bytes longer than the packed elements; these bytes stay zero. ValueError for another
    length.
    """
    if len(space) != packed_size(count, bits) + SLACK:
        raise ValueError(f"{len(space)} bytes of space, expected {packed_size(count, bits) + SLACK}")
    scratch = _Scratch(piece_size(count), bits)
    for piece in pieces(count):
        fill(piece, scratch.lanes[: piece.stop - piece.start], scratch.spare)
        _pack_piece(piece.stop - piece.start, bits, space[piece.start * bits // 8 :], scratch)


def unpack(data: bytes, count: int, bits: int) -> Lanes:
    """The inverse of `pack`. Raises Malformed on a wrong length or on padding that is not zero."""
    total = np.zeros(count, lanes(bits))
    add_packed(total, data, bits)
    return total


def check_packed(data: bytes | memoryview, count: int, bits: int) -> None:
    """Raises Malformed unless `data` could be `count` packed elements: its length and its padding are right."""
    if len(data) != packed_size(count, bits):
        raise Malformed(f"{len(data)} packed bytes, expected {packed_size(count, bits)}")
    used = count * bits % 8
    # Bits that nobody reads would give one vector many digests, and a client two signatures for one upload.
    if used and data[-1] >> used:
        raise Malformed("padding bits are not zero")


def add_packed(total: Lanes, data: bytes | memoryview, bits: int) -> None:
    """Adds packed elements to lanes in place, modulo the lanes' width. Malformed, before anything is added, as
    `check_packed` says.
    """
    check_packed(data, len(total), bits)
    if bits == 8 * total.dtype.itemsize:
        total += np.frombuffer(data, total.dtype)
        return
    source = np.frombuffer(data, np.uint8)
    octets = np.zeros(packed_size(piece_size(len(total)), bits) + SLACK, np.uint8)
    scratch = _Scratch(piece_size(len(total)), bits)
    for piece in pieces(len(total)):
        part = total[piece]
        start, size = piece.start * bits // 8, packed_size(len(part), bits)
        octets[:size] = source[start : start + size]
        part += _unpack_piece(octets, len(part), bits, scratch).astype(part.dtype, copy=False)


class _Scratch:
    """Three arrays of words for one vector's packing. Fresh ones for every piece would cost more than the packing:
    the system hands out memory of this size page by page.
    """

    def __init__(self, count: int, bits: int) -> None:
        fields = -(-count // _elements_per_field(bits))
        self.one, self.two = np.empty(fields + SPARE // 8, np.uint64), np.empty(fields, np.uint64)
        self.three = np.empty(fields // 2 + 1, np.uint64)  # at most every other field's word stands alone
        self.lanes: Lanes = self.two.view(lanes(bits)) if bits <= 32 else self.two  # what is packed, and first
        self.spare = self.one.view(np.uint8)


def _pack_piece(count: int, bits: int, octets: Octets, scratch: _Scratch) -> None:
    """`scratch.lanes` into `octets`, which are zero; all of scratch is written over."""
    if bits == 32:
        octets[: 4 * count] = scratch.lanes[:count].view(np.uint8)
        return
    fields = _to_fields(count, bits, scratch)
    for offset, low, width, stride in _parts(bits):
        part = (fields >> np.uint64(low)) & np.uint64((1 << width) - 1) if width < stride else fields
        for chosen, words, shift in _words(octets, offset, len(fields), stride):
            # Whole copies in and out, each from or to one run of words, are several times faster than arithmetic on
            # unaligned words, or than a copy from some places to others.
            new, old = scratch.two[: len(words)], scratch.three[: len(words)]
            np.left_shift(part[chosen], shift, out=new)
            if offset or chosen.start:  # else nothing is there yet that must stay
                old[...] = words
                new |= old
            words[...] = new


def _unpack_piece(octets: Octets, count: int, bits: int, scratch: _Scratch) -> Lanes:
    fields = scratch.one[: -(-count // _elements_per_field(bits))]
    fields.fill(0)
    for offset, low, width, stride in _parts(bits):
        part = scratch.two[: len(fields)]
        for chosen, words, shift in _words(octets, offset, len(fields), stride):
            aligned = scratch.three[: len(words)]
            aligned[...] = words
            np.right_shift(aligned, shift, out=part[chosen])
        part &= np.uint64((1 << width) - 1)
        part <<= np.uint64(low)
        fields |= part
    return _from_fields(fields, bits, scratch)[:count]


def _elements_per_field(bits: int) -> int:
    return 2 if bits <= 32 and _fits(2 * bits) else 1


def _fits(width: int) -> bool:
    """Whether one 64-bit word holds such a field wherever in a byte it begins, in a string of such fields."""
    return width + 8 - gcd(8, width) <= 64


def _parts(bits: int) -> list[tuple[int, int, int, int]]:
    """How a field is written: (bit of the string, bit of the field, width, bits from field to field)."""
    stride = bits * _elements_per_field(bits)
    if _fits(stride):
        return [(0, 0, stride, stride)]
    return [(0, 0, 32, stride), (32, 32, stride - 32, stride)]


def _words(octets: Octets, offset: int, count: int, stride: int) -> Iterator[tuple[slice, Words, np.uint64]]:
    """The 64-bit words at the bytes where fields begin, for those fields together whose words do not overlap: (which
    fields, their words, by how many bits they begin later).
    """
    period = 8 // gcd(8, stride)
    period *= -(-64 // (period * stride))
    for first in range(min(period, count)):
        at = offset + first * stride
        shape, strides = (len(range(first, count, period)),), (period * stride // 8,)
        words: Words = np.ndarray(shape, "<u8", octets.data, at // 8, strides)
        yield slice(first, None, period), words, np.uint64(at % 8)


def _to_fields(count: int, bits: int, scratch: _Scratch) -> Words:
    """`scratch.lanes` as fields, in `scratch.one`."""
    low = np.uint64((1 << bits) - 1)
    if _elements_per_field(bits) == 1:
        fields = scratch.one[:count]
        fields[...] = scratch.lanes[:count]
        fields &= low
        return fields
    scratch.lanes[count : count + count % 2] = 0
    pairs = scratch.two[: -(-count // 2)]
    fields = np.right_shift(pairs, np.uint64(32 - bits), out=scratch.one[: len(pairs)])
    fields &= low << np.uint64(bits)
    pairs &= low
    fields |= pairs
    return fields


def _from_fields(fields: Words, bits: int, scratch: _Scratch) -> Lanes:
    """In scratch, over the fields."""
    if _elements_per_field(bits) == 1:
        return fields
    low = np.uint64((1 << bits) - 1)
    pairs = np.left_shift(fields, np.uint64(32 - bits), out=scratch.two[: len(fields)])
    pairs &= low << np.uint64(32)
    fields &= low
    pairs |= fields
    return pairs.view("<u4")
