"""Clipping: the bound holds exactly, whatever the update; weights survive; nothing shows."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fgrpo_secure.privacy.clip import ClippedUpdate, Update, to_norm

any_update = hnp.arrays(np.float64, st.integers(1, 9), elements=st.floats(width=64))
any_clip = st.floats(1e-100, 1e100)


@given(any_update, any_clip)
def test_the_exact_norm_never_exceeds_the_clip_norm_whatever_the_update(values, clip_norm):
    clipped = to_norm(Update(values), clip_norm)
    square = sum((Fraction(float(value)) ** 2 for value in clipped.values), Fraction(0))
    assert square <= Fraction(clip_norm) ** 2
    assert clipped.bound == clip_norm


def test_long_updates_stay_within_the_clip_norm_exactly_and_close_to_it(exact_square):
    generator = np.random.default_rng(1)
    for dimension in [1, 2, 3, 5, 8] * 20 + [20_000]:
        clipped = to_norm(Update(generator.normal(size=dimension) * 100), 0.1)
        square = exact_square(clipped.values)
        assert square <= Fraction(0.1) ** 2
        assert float(square) == pytest.approx(0.01, rel=1e-10)


def test_an_update_that_fits_is_not_changed():
    values = np.array([0.3, -0.4, 1e-310, 0.0])
    assert to_norm(Update(values), 0.51).values is values


def test_clipping_keeps_the_direction():
    values = np.array([3.0, -4.0, 12.0])
    assert to_norm(Update(values), 1.0).values == pytest.approx(values / 13, rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_anywhere_becomes_zero(bad):
    assert not to_norm(Update(np.array([1.0, bad, 0.1])), 1.0).values.any()


@pytest.mark.parametrize(("size", "clip_norm"), [(1.7e308, 1.0), (5e-324, 1.0), (1e-320, 1e-100), (1e300, 1e-100)])
def test_huge_and_denormal_updates_neither_overflow_nor_vanish(size, clip_norm):
    clipped = to_norm(Update(np.full(3, size)), clip_norm).values
    expected = min(size, clip_norm / 3**0.5)
    assert clipped == pytest.approx(np.full(3, expected), rel=1e-6)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, np.nan, np.inf, 5e-324, 1e101])
def test_a_clip_norm_that_floats_cannot_scale_by_is_refused(clip_norm):
    with pytest.raises(ValueError, match=r"clip_norm is .*; allowed are 1e-100 to 1e\+100"):
        to_norm(Update.zero(2), clip_norm)


def test_weights_survive_the_clip_and_keep_the_bound():
    light = to_norm(Update(np.array([30.0, 40.0])), 1.0).times(0.5)
    heavy = to_norm(Update(np.array([3.0, 4.0])), 1.0).times(1.0)
    assert heavy.values == pytest.approx(2 * light.values, rel=1e-12)
    assert light.bound == heavy.bound == 1.0


@given(st.floats(min_value=0, max_value=1, exclude_min=True))
@settings(max_examples=50)
def test_no_weight_makes_an_update_longer(weight):
    clipped = to_norm(Update(np.array([7.0, -1.0, 3.0])), 2.0)
    assert np.all(np.abs(clipped.times(weight).values) <= np.abs(clipped.values))


@pytest.mark.parametrize("weight", [0.0, -0.1, 1.0000001, 7.25, np.nan, np.inf])
def test_a_weight_outside_its_range_is_refused_without_being_named(weight):
    with pytest.raises(ValueError, match=r"^a weight must be above 0 and at most 1$"):
        ClippedUpdate(np.ones(1), 1.0).times(weight)


@pytest.mark.parametrize("values", [np.zeros((2, 2)), np.zeros(3, np.float32), np.zeros(3, np.int64)])
def test_an_update_is_a_flat_float64_array(values):
    with pytest.raises(ValueError, match="one-dimensional float64"):
        Update(values)


def test_updates_do_not_print_their_values():
    update = Update(np.array([0.123456]))
    assert "123456" not in repr(update) + repr(to_norm(update, 1.0))
