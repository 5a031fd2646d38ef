import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import ring
from protocols.errors import Malformed

BITS = st.integers(ring.MIN_BITS, ring.MAX_BITS)


@given(BITS, st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40))
def test_the_ring_is_the_integers_modulo_two_to_the_bits(bits, numbers):
    elements = ring.to_ring(np.array(numbers, np.int64), bits)
    assert elements.tolist() == [number % 2**bits for number in numbers]
    half = 2 ** (bits - 1)
    assert ring.to_signed(elements, bits).tolist() == [(n + half) % 2**bits - half for n in numbers]


@given(BITS, st.integers(0, 50), st.integers(0, 2**32))
def test_packing_is_the_little_endian_bit_string_and_unpacks(bits, count, seed):
    numbers = np.random.default_rng(seed).integers(0, 2**bits, count)
    elements = numbers.astype(ring.lanes(bits))
    packed = ring.pack(elements, bits)
    whole = sum(int(number) << (bits * i) for i, number in enumerate(numbers))
    assert packed == whole.to_bytes((bits * count + 7) // 8, "little")
    assert ring.unpack(packed, count, bits).tolist() == numbers.tolist()


@pytest.mark.parametrize("bits", [8, 20, 27, 32, 41, 62])
def test_packing_in_pieces_equals_packing_at_once(bits, monkeypatch):
    elements = np.random.default_rng(1).integers(0, 2**bits, 1000).astype(ring.lanes(bits))
    whole = ring.pack(elements, bits)
    monkeypatch.setattr(ring, "PIECE", 64)
    assert ring.pack(elements, bits) == whole
    assert np.array_equal(ring.unpack(whole, 1000, bits), elements)


def test_wrong_lengths_and_padding_are_refused():
    packed = ring.pack(np.array([1, 2, 3], "<u4"), 9)
    assert len(packed) == 4
    for bad in (packed[:-1], packed + b"\0", packed[:-1] + bytes([packed[-1] | 0x08])):
        with pytest.raises(Malformed):
            ring.unpack(bad, 3, 9)


def test_lanes_are_as_narrow_as_the_ring_allows():
    assert ring.lanes(32).itemsize == 4
    assert ring.lanes(33).itemsize == 8
    for bits in (7, 63):
        with pytest.raises(ValueError, match="ring_bits"):
            ring.lanes(bits)


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((2, 2), np.int64), np.zeros(3, np.int32)])
def test_only_vectors_of_int64_enter_the_ring(values):
    with pytest.raises(ValueError, match="int64"):
        ring.to_ring(values, 20)


@given(st.integers(1, 31))
def test_unpacked_elements_can_be_changed(bits):
    bits = max(bits, ring.MIN_BITS)
    elements = ring.unpack(ring.pack(np.array([5], ring.lanes(bits)), bits), 1, bits)
    elements += elements
    assert elements.tolist() == [10]


@given(BITS, st.integers(1, 50), st.integers(0, 2**32))
def test_packed_elements_add_to_a_sum_as_unpacked_ones_do(bits, count, seed):
    one, other = np.random.default_rng(seed).integers(0, 2**bits, (2, count)).astype(ring.lanes(bits))
    total = one.copy()
    ring.add_packed(total, ring.pack(other, bits), bits)
    assert np.array_equal(total, one + other)


@pytest.mark.parametrize("bits", [9, 32, 62])
def test_nothing_is_added_of_packed_bytes_that_are_wrong(bits):
    total = np.arange(3).astype(ring.lanes(bits))
    with pytest.raises(Malformed):
        ring.add_packed(total, ring.pack(total, bits) + b"\0", bits)
    assert total.tolist() == [0, 1, 2]
