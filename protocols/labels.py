"""Domain separation: the one injective encoding under every hash, key derivation and signature.

A label is used for one purpose only, and a label fixes the number and the types of the parts that follow
it, so two different inputs never give the same bytes.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

VERSION = 2
NAME = b"fgrpo-aggregation/"  # begins whatever is signed under a label, in any version
PROTOCOL = NAME + str(VERSION).encode()

# What is signed.
SIGN_ROSTER = "sign roster"
SIGN_HANDOVER = "sign handover"
SIGN_ENROLMENT = "sign enrolment"
SIGN_PLAN = "sign plan"
SIGN_MESSAGE = "sign message"  # the envelope of whatever a client sends
SIGN_ANNOUNCEMENT = "sign announcement"
SIGN_DEAL = "sign deal"
SIGN_UPLOAD = "sign upload"
SIGN_AGREEMENT = "sign agreement"
SIGN_OPENING = "sign opening"

# What is hashed.
HASH_ROSTER = "hash roster"
HASH_SESSION = "hash session"
HASH_SHARDS = "hash shards"
HASH_MESSAGE = "hash message"
HASH_ANNOUNCED = "hash announced"  # gives S1
HASH_DEALT = "hash dealt"  # gives S2
HASH_UPLOAD = "hash upload"
HASH_LIST = "hash list"
HASH_OPENING = "hash opening"
COMMIT_SHARE = "commit share"
COMMIT_SEED = "commit seed"
COMMIT_PAD = "commit pad"

# What is derived.
KEY_MASK_SECRET = "key mask secret"
KEY_SEAL_SECRET = "key seal secret"
KEY_SEED = "key seed"
KEY_COEFFICIENTS = "key coefficients"
KEY_SEAL = "key seal"
KEY_PAIR = "key pair"
KEY_SELF = "key self"
KEY_GRAPH = "key graph"

# What is derived in hybrid sessions only.
KEY_CURVE = "key curve"
KEY_KEM = "key kem"
KEY_HYBRID_SEAL = "key hybrid seal"
KEY_HYBRID_PAIR = "key hybrid pair"
KEY_PAD = "key pad"
KEY_PAD_BOX = "key pad box"

SEALED_SHARE = "sealed share"  # associated data of one sealed share
SEALED_PAD = "sealed pad"  # associated data of one sealed pad

Part = bytes | str | int

_sha256 = hashlib.sha256
_INNER, _OUTER = b"\x36" * 32, b"\x5c" * 32  # half of HMAC's pads (RFC 2104): a 32-byte key fills half a block
_INNER_INT, _OUTER_INT = int.from_bytes(_INNER, "big"), int.from_bytes(_OUTER, "big")
_NO_SALT_INNER, _NO_SALT_OUTER = _sha256(2 * _INNER), _sha256(2 * _OUTER)
_EIGHT = (8).to_bytes(4, "big")


def encode(label: str, *parts: Part) -> bytes:
    """The protocol's name, the label and the parts, each after its length in 4 big-endian bytes.

    Text is UTF-8, an integer is 8 big-endian bytes (0 to 2^64 - 1, else OverflowError).
    """
    pieces = [_opening(label)]
    for part in parts:
        if isinstance(part, bytes):
            # Its length before every part: without it ("ab", "c") and ("a", "bc") would be one message under two
            # meanings.
            pieces.append(len(part).to_bytes(4, "big"))
            pieces.append(part)
        elif isinstance(part, int):
            pieces.append(_EIGHT + part.to_bytes(8, "big"))
        else:
            pieces.append(_text(part))
    return b"".join(pieces)


@lru_cache(maxsize=1024)
def _text(part: str) -> bytes:
    data = part.encode()
    return len(data).to_bytes(4, "big") + data


@lru_cache(maxsize=64)
def _opening(label: str) -> bytes:
    return PROTOCOL + _text(label)


def digest(label: str, *parts: Part) -> bytes:
    """SHA-256 of `encode(label, *parts)`: 32 bytes."""
    return hashlib.sha256(encode(label, *parts)).digest()


def digest_long(label: str, *parts: bytes | memoryview) -> bytes:
    """`digest` of long parts, without the copy that joins them."""
    running = hashlib.sha256(_opening(label))
    for part in parts:
        running.update(len(part).to_bytes(4, "big"))
        running.update(part)
    return running.digest()


def derive(secret: bytes, label: str, *parts: Part) -> bytes:
    """A 32-byte key: HKDF-SHA256 (RFC 5869) of a secret without salt, info = `encode(label, *parts)`.

    A client derives hundreds for a session, and written out its two HMACs take half the time of a library's calls.
    """
    inner, outer = _NO_SALT_INNER.copy(), _NO_SALT_OUTER.copy()
    inner.update(secret)
    outer.update(inner.digest())
    key = int.from_bytes(outer.digest(), "big")  # not by a table, whose entries a secret would choose
    # RFC 5869's expand step for one block: HMAC(key, info || 1).
    first = _sha256((key ^ _INNER_INT).to_bytes(32, "big") + _INNER + encode(label, *parts) + b"\x01")
    return _sha256((key ^ _OUTER_INT).to_bytes(32, "big") + _OUTER + first.digest()).digest()


def stream(key: bytes, count: int) -> bytes:
    """The first `count` bytes of AES-256 in counter mode from a zero counter. Use one key for one stream."""
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(count))
