import hashlib
import hmac

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from protocols import labels

PARTS = st.lists(st.binary(max_size=12), max_size=4)


@given(PARTS, PARTS)
def test_different_parts_never_encode_alike(one, other):
    assert (labels.encode("x", *one) == labels.encode("x", *other)) == (one == other)


def test_moving_bytes_between_parts_changes_the_encoding():
    """Plain joining would let ("ab", "c") stand for ("a", "bc")."""
    assert labels.encode("x", b"ab", b"c") != labels.encode("x", b"a", b"bc")
    assert labels.encode("x", b"y") != labels.encode("xy", b"")
    assert labels.encode("x") != labels.encode("x", b"")


def test_hashes_and_keys_are_the_standard_functions():
    info = labels.encode("x", 1, "y", b"z")
    assert labels.digest("x", 1, "y", b"z") == hashlib.sha256(info).digest()
    extracted = hmac.digest(bytes(32), b"secret", "sha256")
    assert labels.derive(b"secret", "x", 1, "y", b"z") == HKDFExpand(hashes.SHA256(), 32, info).derive(extracted)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_keys_of_any_secret_and_place_are_those_of_a_library(secret, part):
    library = HKDF(hashes.SHA256(), 32, None, labels.encode("x", part))
    assert labels.derive(secret, "x", part) == library.derive(secret)


def test_the_version_is_part_of_every_encoding():
    assert labels.encode("x").startswith(f"fgrpo-aggregation/{labels.VERSION}".encode())


def test_a_digest_of_long_parts_is_the_same_digest():
    parts = (b"", b"a" * 70_000, b"b")
    assert labels.digest_long(labels.HASH_UPLOAD, *parts) == labels.digest(labels.HASH_UPLOAD, *parts)
