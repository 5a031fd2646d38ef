import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocols import masks, ring

KEY = bytes(range(32))


def test_a_mask_is_the_aes_256_counter_keystream():
    """Its first blocks are AES-256 of the counters 0 and 1, here through the block cipher alone."""
    total = np.zeros(8, "<u4")
    masks.add_mask(total, KEY, 1)
    ecb = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor()  # noqa: S305  # the blocks themselves
    assert total.tobytes() == ecb.update(bytes(16) + bytes(15) + b"\x01")


@pytest.mark.parametrize("bits", [20, 32, 33, 62])
@pytest.mark.parametrize("length", [1, 2, 1000, 70_001])
def test_adding_and_subtracting_a_mask_leaves_nothing(bits, length):
    start = np.random.default_rng(0).integers(0, 2**bits, length).astype(ring.lanes(bits))
    total = start.copy()
    masks.add_mask(total, KEY, 1)
    assert not np.array_equal(total, start)
    masks.add_mask(total, KEY, -1)
    assert np.array_equal(total, start)


def test_a_mask_does_not_depend_on_the_piece_size(monkeypatch):
    whole = np.zeros(1000, "<u8")
    masks.add_mask(whole, KEY, 1)
    monkeypatch.setattr(ring, "PIECE", 64)
    pieces = np.zeros(1000, "<u8")
    masks.add_mask(pieces, KEY, 1)
    assert np.array_equal(whole, pieces)


def test_masks_of_two_keys_share_nothing():
    one, other = np.zeros(1000, "<u8"), np.zeros(1000, "<u8")
    masks.add_mask(one, KEY, 1)
    masks.add_mask(other, KEY[::-1], 1)
    assert not set(one.tolist()) & set(other.tolist())


def test_masked_values_look_uniform():
    """Chi-square over 256 byte values of 1 MB: mean 255, standard deviation 22.6; 6 deviations allowed."""
    total = np.zeros(1 << 18, "<u4")
    masks.add_mask(total, KEY, 1)
    counts = np.bincount(total.view(np.uint8), minlength=256)
    expected = (1 << 20) / 256
    assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 6 * 22.6


def test_only_plus_and_minus_one_are_signs():
    with pytest.raises(ValueError, match="sign"):
        masks.add_mask(np.zeros(2, "<u4"), KEY, 0)


@pytest.mark.parametrize("lane", ["<u4", "<u8"])
def test_many_masks_at_once_are_each_mask_in_turn(lane, monkeypatch):
    monkeypatch.setattr(ring, "PIECE", 64)
    monkeypatch.setattr(masks, "_AT_ONCE", 3)
    signed_keys = [(bytes([i]) * 32, 1 if i % 3 else -1) for i in range(8)]
    together, in_turn = np.zeros(1001, lane), np.zeros(1001, lane)
    masks.add_masks(together, iter(signed_keys))
    for key, sign in signed_keys:
        masks.add_mask(in_turn, key, sign)
    assert np.array_equal(together, in_turn)


def test_a_keystream_continues_where_the_piece_before_ended():
    whole, cut = np.zeros(1000, "<u4"), np.zeros(1000, "<u4")
    masks.add_mask(whole, KEY, 1)
    streams = masks.Keystreams([(KEY, 1)])
    for start in range(0, 1000, 256):
        streams.add_to(cut[start : start + 256], np.empty(256 * 4 + ring.SPARE, np.uint8))
    assert np.array_equal(whole, cut)
