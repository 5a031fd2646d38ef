import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import shares
from protocols.errors import Malformed

SECRET = st.binary(min_size=32, max_size=32)


def is_prime(number, bases=(2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)):
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in bases:
        value = pow(base, odd, number)
        if value in (1, number - 1):
            continue
        for _ in range(twos - 1):
            value = value * value % number
            if value == number - 1:
                break
        else:
            return False
    return True


def test_the_modulus_is_prime_and_above_every_secret():
    assert is_prime(shares.PRIME)
    assert not is_prime(shares.PRIME + 2)
    assert shares.PRIME > 2**256


@given(SECRET, SECRET, st.integers(2, 6), st.data())
def test_any_threshold_of_shares_rebuilds_the_secret(secret, key, threshold, data):
    points = data.draw(st.lists(st.integers(1, 2000), min_size=threshold, max_size=9, unique=True))
    dealt = dict(zip(points, shares.split(secret, points, threshold, key), strict=True))
    some = data.draw(st.permutations(points))[:threshold]
    assert shares.rebuild(some, [shares.parse(dealt[point]) for point in some]) == secret


def test_every_subset_of_threshold_size_rebuilds_and_smaller_ones_do_not():
    secret = bytes(range(32))
    dealt = [shares.parse(share) for share in shares.split(secret, [1, 2, 3, 4, 5], 3, bytes(32))]
    for some in itertools.combinations(range(5), 3):
        assert shares.rebuild([i + 1 for i in some], [dealt[i] for i in some]) == secret
    for some in itertools.combinations(range(5), 2):
        try:
            wrong = shares.rebuild([i + 1 for i in some], [dealt[i] for i in some])
        except Malformed:
            continue
        assert wrong != secret


def test_shares_below_the_threshold_fit_every_secret():
    """For two shares of threshold three and any guess there is exactly one polynomial: they say nothing."""
    points, values = [1, 2], [123, 456]
    for guess in (0, 7, shares.PRIME - 1):
        weights = shares.lagrange_at_zero((1, 2, 3))
        rest = guess - weights[0] * values[0] - weights[1] * values[1]
        third = rest * pow(weights[2], -1, shares.PRIME) % shares.PRIME
        rebuilt = sum(w * v for w, v in zip(weights, [*values, third], strict=True)) % shares.PRIME
        assert rebuilt == guess
    assert points == [1, 2]


def test_a_long_polynomial_is_evaluated_without_losing_digits():
    secret, points = b"\xff" * 32, list(range(1, 203))
    dealt = [shares.parse(share) for share in shares.split(secret, points, 150, b"k" * 32)]
    assert shares.rebuild(points[20:170], dealt[20:170]) == secret


@pytest.mark.parametrize("bad", [b"", bytes(32), bytes(34), b"\xff" * 33, shares.PRIME.to_bytes(33, "little")])
def test_what_is_no_field_element_is_no_share(bad):
    with pytest.raises(Malformed):
        shares.parse(bad)
    assert shares.parse((shares.PRIME - 1).to_bytes(33, "little")) == shares.PRIME - 1


def test_shares_that_rebuild_more_than_32_bytes_are_refused():
    with pytest.raises(Malformed):
        shares.rebuild([1, 2], [2**256, 2**256])


@pytest.mark.parametrize(("points", "threshold"), [([1, 2], 3), ([1, 1], 2), ([0, 1], 2), ([1, 2], 1), ([1, 2, 2], 2)])
def test_misuse_is_refused(points, threshold):
    with pytest.raises(ValueError, match="points"):
        shares.split(bytes(32), points, threshold, bytes(32))
    with pytest.raises(ValueError, match="32 bytes"):
        shares.split(bytes(31), [1, 2], 2, bytes(32))


def test_as_many_values_as_points_are_needed():
    with pytest.raises(ValueError, match="zip"):
        shares.rebuild([1, 2], [1, 2, 3])
