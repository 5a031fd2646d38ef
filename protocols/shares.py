"""Shamir's secret sharing over the integers modulo the prime 2^256 + 297.

A secret is 32 bytes, read little-endian; a share is 33 bytes, the polynomial's value at the holder's point.
Shares carry no check of their own: keys.py commits to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

from protocols import labels
from protocols.errors import Malformed

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33

_COEFFICIENT_BYTES = 48  # reduced modulo the prime: within 2^-127 of uniform
_UNREDUCED_STEPS = 24  # Horner steps between reductions: small integers grow more cheaply than they reduce


def split(secret: bytes, points: Sequence[int], threshold: int, key: bytes) -> list[bytes]:
    """Shares of a 32-byte secret for holders at distinct nonzero points; any `threshold` of them rebuild it.

    `key` is 32 fresh secret bytes, used for this secret alone; the coefficients are its keystream.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError("a secret has 32 bytes")
    # With t = 1 a share is the secret; with a point twice, or at zero, fewer than t shares would do.
    if not 2 <= threshold <= len(points) or len(set(points)) != len(points) or min(points) < 1:
        raise ValueError("points must be distinct and positive, at least `threshold` of them, and threshold >= 2")
    # The secret is the value at zero; the leading coefficient may be zero, as it must for shares to be uniform.
    polynomial = [*_coefficients(key, threshold - 1), int.from_bytes(secret, "little")]
    return [_value(polynomial, point).to_bytes(SHARE_BYTES, "little") for point in points]


def parse(share: bytes) -> int:
    """A share as a field element. Raises Malformed unless it has 33 bytes and lies below the prime."""
    value = int.from_bytes(share, "little")
    # One byte form for each share: value and value + PRIME are one point, and would have two commitments.
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise Malformed("not a share")
    return value


def rebuild(points: Sequence[int], values: Sequence[int]) -> bytes:
    """The 32-byte secret on which exactly the threshold number of shares agree.

    Raises Malformed if the result is no 32-byte secret, which needs inconsistent shares.
    """
    weights = lagrange_at_zero(tuple(points))
    secret = sum(weight * value for weight, value in zip(weights, values, strict=True)) % PRIME
    if secret >> 256:
        raise Malformed("the shares rebuild no secret")
    return secret.to_bytes(SECRET_BYTES, "little")


@lru_cache(maxsize=1024)
def lagrange_at_zero(points: tuple[int, ...]) -> tuple[int, ...]:
    """Weights w with f(0) = sum of w_i f(x_i) for every polynomial of degree below len(points).

    Points are public, so remembering them is safe; survivors' shares mostly come from few sets of holders.
    """
    everything = prod(points) % PRIME
    # The products run over small integers: cheaper to reduce once than at every step.
    denominators = [own * prod(other - own for other in points if other != own) % PRIME for own in points]
    return tuple(everything * inverse % PRIME for inverse in _inverses(denominators))


def _coefficients(key: bytes, count: int) -> list[int]:
    """`count` uniform field elements, the highest power first."""
    keystream = labels.stream(key, count * _COEFFICIENT_BYTES)
    chunks = (keystream[i : i + _COEFFICIENT_BYTES] for i in range(0, len(keystream), _COEFFICIENT_BYTES))
    return [int.from_bytes(chunk, "little") % PRIME for chunk in chunks]


def _value(polynomial: Sequence[int], point: int) -> int:
    """Horner's rule, highest power first, with a reduction every few steps."""
    value = 0
    for start in range(0, len(polynomial), _UNREDUCED_STEPS):
        for coefficient in polynomial[start : start + _UNREDUCED_STEPS]:
            value = value * point + coefficient
        value %= PRIME
    return value


def _inverses(values: Sequence[int]) -> list[int]:
    """All inverses modulo the prime for the price of one (Montgomery)."""
    prefix = [1]
    for value in values:
        prefix.append(prefix[-1] * value % PRIME)
    inverse = pow(prefix[-1], -1, PRIME)
    inverses = []
    for value, before in zip(reversed(values), reversed(prefix[:-1]), strict=True):
        inverses.append(inverse * before % PRIME)
        inverse = inverse * value % PRIME
    return inverses[::-1]
