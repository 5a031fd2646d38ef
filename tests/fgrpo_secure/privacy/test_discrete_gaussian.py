"""The sampler: its distribution against high precision and an independent library, and its bytes for ever."""

import hashlib

import mpmath  # type: ignore[import-untyped]  # it ships no types
import numpy as np
import opendp.prelude as dp
import pytest
from scipy import stats  # type: ignore[import-untyped]  # scipy ships no types

from fgrpo_secure.privacy import discrete_gaussian, keystream
from fgrpo_secure.privacy.discrete_gaussian import CELL_BITS, TABLE_DISTANCE, largest_sample, pick, sample, table
from fgrpo_secure.privacy.keystream import Keystream

KEY = bytes(range(32))
REST = 1 << (CELL_BITS - 64)


def masses(gaussian):
    """What each magnitude's probability is, as integers of sum 2^(cell_bits + CELL_BITS)."""
    mass = [0] * len(gaussian.alias)
    for cell, alias in enumerate(gaussian.alias.tolist()):
        threshold = int(gaussian.top[cell]) * REST + gaussian.rest[cell]
        if alias == cell:
            threshold = 1 << CELL_BITS
        mass[cell] += threshold
        mass[alias] += (1 << CELL_BITS) - threshold
    return mass


@pytest.mark.parametrize("variance", [1, 2, 16, 527, 4096, 65_536])
def test_the_table_is_within_2_to_the_minus_128_of_the_discrete_gaussian(variance):
    gaussian = table(variance)
    mass = masses(gaussian)
    total = 1 << (gaussian.cell_bits + CELL_BITS)
    assert sum(mass) == total
    assert not any(mass[gaussian.largest + 1 :])
    with mpmath.workprec(700):
        reach = 2 * gaussian.largest + 10
        weights = [mpmath.exp(-mpmath.mpf(k * k) / (2 * variance)) for k in range(reach)]
        norm = weights[0] + 2 * mpmath.fsum(weights[1:])
        exact = [weights[0] / norm, *(2 * weight / norm for weight in weights[1:])]
        drawn = [mpmath.mpf(each) / total for each in mass] + [mpmath.mpf(0)] * max(0, reach - len(mass))
        distance = mpmath.fsum(abs(a - b) for a, b in zip(exact, drawn, strict=False)) / 2
        assert distance <= TABLE_DISTANCE < mpmath.mpf(2) ** -128


@pytest.mark.parametrize("variance", [1, 16, 2500])
def test_samples_pass_a_chi_square_test(variance):
    drawn = sample(table(variance), 1_000_000, KEY)
    edge = int(4 * variance**0.5)
    values = np.arange(-edge, edge + 1)
    weights = np.exp(-(values**2) / (2 * variance))
    norm = np.exp(-(np.arange(-20 * edge, 20 * edge + 1) ** 2) / (2 * variance)).sum()
    observed = np.bincount(np.clip(drawn, -edge - 1, edge + 1) + edge + 1, minlength=2 * edge + 3)
    tail = (1 - weights.sum() / norm) / 2
    expected = 1_000_000 * np.concatenate([[tail], weights / norm, [tail]])
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4


@pytest.mark.parametrize("variance", [16, 527, 1 << 20])
def test_the_first_four_moments_are_right(variance):
    count = 1_000_000
    drawn = sample(table(variance), count, KEY) / variance**0.5
    assert abs(drawn.mean()) < 5 / count**0.5
    assert abs(drawn.var() - 1) < 5 * (2 / count) ** 0.5
    assert abs((drawn**3).mean()) < 5 * (15 / count) ** 0.5
    assert abs((drawn**4).mean() - 3) < 5 * (96 / count) ** 0.5


def test_neighbouring_samples_and_their_signs_do_not_depend_on_each_other():
    drawn = sample(table(400), 1_000_000, KEY).astype(float)
    for lag in (1, 2, 4, keystream.PIECE):
        for series in (drawn, np.sign(drawn), np.abs(drawn) - np.abs(drawn).mean()):
            correlation = np.corrcoef(series[:-lag], series[lag:])[0, 1]
            assert abs(correlation) < 5 / 1000


def test_samples_agree_with_opendps():
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.l2_distance(T=float)
    oracle = dp.m.make_gaussian(*space, scale=5.0)
    theirs = np.concatenate([np.array(oracle([0] * 5000)) for _ in range(4)])
    ours = sample(table(25), 20_000, KEY)
    edges = np.arange(-12, 13)
    counts = [np.bincount(np.digitize(each, edges), minlength=len(edges) + 1) for each in (ours, theirs)]
    assert stats.chi2_contingency(counts).pvalue > 1e-6  # their samples differ from run to run


@pytest.mark.parametrize(
    ("variance", "digest"),
    [
        (16, "a8aa4ceddf72f074606440044e76a63d2b383bfeef9844b25c4af3038138bd99"),
        (527, "3c128220b0410d09c2a6bf8faecf3c9d34a4efbdc20e7dca8361eefd49bbad61"),
        (1 << 20, "cd7fd8c504ae8087e4ba249c6a2319fd98483afc4254a94863b36ba6cab9e9be"),
    ],
)
def test_a_key_gives_the_same_million_samples_for_ever(variance, digest):
    drawn = sample(table(variance), 1_000_000, KEY)
    assert hashlib.sha256(drawn.astype("<i8").tobytes()).hexdigest() == digest


def test_fewer_samples_are_a_prefix_of_more():
    gaussian = table(99)
    many = sample(gaussian, 2 * keystream.PIECE + 5, KEY)
    for count in (0, 1, 1000, keystream.PIECE, keystream.PIECE + 1):
        assert np.array_equal(sample(gaussian, count, KEY), many[:count])


def test_different_keys_give_different_samples():
    gaussian = table(99)
    assert not np.array_equal(sample(gaussian, 50, KEY), sample(gaussian, 50, bytes(32)))


def test_a_coin_below_the_threshold_keeps_the_cell_and_one_above_gives_its_alias():
    gaussian = table(50)
    cell = next(c for c in range(5, 99) if 0 < gaussian.top[c] < 2**64 - 1 and gaussian.alias[c] != c)
    words = np.array([cell, cell, cell | 1 << 31], np.uint32)
    top = int(gaussian.top[cell])
    coins = np.array([top - 1, top + 1, top - 1], np.uint64)
    assert pick(gaussian, words, coins, Keystream(KEY)).tolist() == [cell, gaussian.alias[cell], -cell]


def test_a_tie_is_decided_by_the_rest_of_the_threshold():
    gaussian = table(50)
    cell = next(c for c in range(5, 99) if gaussian.alias[c] != c and 0.2 < gaussian.rest[c] / REST < 0.8)
    words, coins = np.full(200, cell, np.uint32), np.full(200, gaussian.top[cell], np.uint64)
    stream = Keystream(KEY)
    kept = [int.from_bytes(stream.take(16), "little") < gaussian.rest[cell] for _ in range(200)]
    expected = [cell if keep else gaussian.alias[cell] for keep in kept]
    assert 0 < sum(kept) < 200
    assert pick(gaussian, words, coins, Keystream(KEY)).tolist() == expected


def test_no_sample_exceeds_the_stated_magnitude():
    for variance in [*range(1, 300), 527, 4096, 65_536]:
        assert table(variance).largest <= largest_sample(variance) <= table(variance).largest + 4
    assert largest_sample(0) == 0


@pytest.mark.parametrize("variance", [-1, 0, 2**34 + 1])
def test_a_variance_out_of_range_is_refused(variance):
    with pytest.raises(ValueError, match=r"a noise variance is .*; allowed are 1 to 17179869184"):
        discrete_gaussian.table(variance)


def test_a_key_of_another_length_is_refused():
    with pytest.raises(ValueError, match="a key must have 32 bytes, not 16"):
        sample(table(16), 1, bytes(16))


def test_a_table_is_built_once_for_all_shares_of_a_variance():
    first = table(12_345)
    assert table(12_345) is first
    built = table.cache_info().misses
    sample(table(12_345), 10, b"a" * 32)
    assert table.cache_info().misses == built


@pytest.mark.parametrize("variance", [-1, 2**34 + 1])
def test_no_bound_is_stated_for_a_variance_that_cannot_be_sampled(variance):
    with pytest.raises(ValueError, match="variance"):
        discrete_gaussian.largest_sample(variance)
