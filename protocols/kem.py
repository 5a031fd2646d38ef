"""ML-KEM-768 (FIPS 203), the post-quantum half of hybrid sessions: OpenSSL's, through `cryptography`.

Keys come from a seed, so they are this package's to derive. Encapsulation draws its randomness inside the library,
which takes none from outside; hence it is a capability that a `Member` carries, and nothing may depend on repeating it.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey

from protocols.errors import Malformed

PUBLIC_BYTES = 1184
CIPHERTEXT_BYTES = 1088
SECRET_BYTES = 32
SEED_BYTES = 64

Encapsulate = Callable[[bytes], tuple[bytes, bytes]]
"""From an encapsulation key to (32-byte secret, ciphertext). ValueError if the key is none."""


def private_key(seed: bytes) -> MLKEM768PrivateKey:
    """The decapsulation key of the 64-byte seed d || z (FIPS 203, algorithm 16)."""
    return MLKEM768PrivateKey.from_seed_bytes(seed)


def refuse_malformed(public: bytes) -> None:
    """ValueError unless `public` passes the checks of FIPS 203, section 7.2: length and modulus."""
    MLKEM768PublicKey.from_public_bytes(public)


def encapsulate(public: bytes) -> tuple[bytes, bytes]:
    """A fresh secret and its ciphertext for a key; see `Encapsulate`."""
    return MLKEM768PublicKey.from_public_bytes(public).encapsulate()


def decapsulate(private: MLKEM768PrivateKey, ciphertext: bytes) -> bytes:
    """The secret in a ciphertext, or an unknown one if nobody encapsulated it. Malformed if its length is wrong."""
    if len(ciphertext) != CIPHERTEXT_BYTES:
        raise Malformed("not an ML-KEM-768 ciphertext")
    return private.decapsulate(ciphertext)
