"""Which Ed25519 signatures count: SPEC.md, section 3, on signatures that only a dishonest signer makes.

Implementations differ there (Chalkias, Garillot, Nikolaenko 2020, eprint 2020/1244), and clients that differ on one
signature would hold different lists. Points are computed here by hand, after RFC 8032, section 6.
"""

import hashlib

import pytest

from protocols import labels
from protocols.errors import BadSignature
from protocols.identity import verify_signature

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT = pow(2, (P - 1) // 4, P)
BASE_Y = 4 * pow(5, -1, P) % P
LABEL, PAYLOAD = "sign roster", b"payload"


def x_of(y, odd):
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    return x if x % 2 == odd else P - x


def add(one, other):
    (a, b), (c, d) = one, other
    t = D * a * b * c * d % P
    return ((a * d + b * c) * pow(1 + t, -1, P) % P, (b * d + a * c) * pow(1 - t, -1, P) % P)


def times(scalar, point):
    found = (0, 1)
    while scalar:
        found = add(found, point) if scalar & 1 else found
        point, scalar = add(point, point), scalar >> 1
    return found


def encoded(point, y=None):
    return ((point[1] if y is None else y) | (point[0] % 2) << 255).to_bytes(32, "little")


BASE = (x_of(BASE_Y, 0), BASE_Y)


def torsion_point():
    """A point of order eight: what the large order leaves of a point that is not in its subgroup."""
    y = 2
    while True:
        square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        if pow(square, (P - 1) // 2, P) == 1:
            point = times(ORDER, (x_of(y, 0), y))
            if times(4, point) != (0, 1):
                return point
        y += 1


EIGHT = torsion_point()


def signed(a, public, nonce, r=None, beyond=0):
    """A signature by the scalar `a` under any encoding of a key, with any encoding of R."""
    r = encoded(times(nonce, BASE)) if r is None else r
    hashed = hashlib.sha512(r + public + labels.encode(LABEL, PAYLOAD)).digest()
    h = int.from_bytes(hashed, "little") % ORDER
    return r + ((nonce + h * a) % ORDER + beyond * ORDER).to_bytes(32, "little"), h


def accepted(public, signature):
    try:
        verify_signature(public, LABEL, PAYLOAD, signature)
    except BadSignature:
        return False
    return True


A = 8 * 12345678901234567890
KEY = encoded(times(A, BASE))


def cases():
    """(name, public key, signature)."""
    yield "right", KEY, signed(A, KEY, 77)[0]
    yield "S + L", KEY, signed(A, KEY, 77, beyond=1)[0]
    for order in (1, 2, 4, 8):
        small = times(8 // order, EIGHT)
        yield f"key of order {order}", encoded(small), signed(0, encoded(small), 77)[0]
    yield "key with y >= p", encoded((0, 1), P + 1), signed(0, encoded((0, 1), P + 1), 77)[0]
    yield "R of order 1", KEY, signed(A, KEY, 0)[0]
    yield "R with y >= p", KEY, signed(A, KEY, 0, encoded((0, 1), P + 1))[0]


def mixed_key(wanted):
    """A key with a part of order eight, and a signature whose hash is, or is not, a multiple of eight."""
    public = encoded(add(times(A, BASE), EIGHT))
    for nonce in range(1, 200):
        signature, h = signed(A, public, nonce)
        if (h % 8 == 0) == wanted:
            return public, signature
    raise AssertionError


def mixed_nonce():
    """R with a part of order eight, under a key without one."""
    r = encoded(add(times(77, BASE), EIGHT))
    return KEY, signed(A, KEY, 77, r)[0]


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case[0])
def test_only_the_right_one_of_these_signatures_counts(case):
    """S below L; no key and no R of small order; nothing but the canonical encoding of either."""
    name, public, signature = case
    assert accepted(public, signature) is (name == "right")


def test_the_equation_holds_without_the_cofactor():
    """With it, signatures that differ by a point of small order would count here and not there."""
    assert accepted(*mixed_key(True))
    assert not accepted(*mixed_key(False))
    assert not accepted(*mixed_nonce())
