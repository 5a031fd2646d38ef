"""X25519 agreement (RFC 7748), sealed shares (ChaCha20-Poly1305, RFC 8439) and every mask key's derivation.

Pair and self keys are bound to S2, hence to the plan, the roster and every announcement and deal of the session.
Sealing keys are directional (dealer, holder): a box reflected to its sender does not open (SECAGG.md's G1).
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import CryptoError

from protocols import labels
from protocols.errors import Malformed

KEY_BYTES = 32
TAG_BYTES = 16
SEED, MASK_KEY = "seed", "mask key"  # the two kinds of shares

_NONCE = bytes(12)
_PROBE = b"\x01" * 32


class LowOrderPoint(ValueError):
    """A public key of small order: the shared secret would be zero, known to everybody."""


def public_key(secret: bytes) -> bytes:
    """The X25519 public key of a 32-byte secret."""
    return crypto_scalarmult_base(secret)


def agree(secret: bytes, peer: bytes) -> bytes:
    """The raw 32-byte X25519 secret; derive keys from it, never use it. LowOrderPoint if it would be zero."""
    try:
        shared = crypto_scalarmult(secret, peer)
    except CryptoError:
        raise LowOrderPoint("public key of small order") from None
    if not any(shared):
        raise LowOrderPoint("public key of small order")
    return shared


def refuse_low_order(public: bytes) -> None:
    """LowOrderPoint unless `public` can be agreed with: X25519 clears the cofactor, so any secret shows it."""
    agree(_PROBE, public)


def pair_key(shared: bytes, s2: bytes, one: int, other: int, vector: str) -> bytes:
    """The key of the mask that two clients share for one vector; the same for both, in either order."""
    return labels.derive(shared, labels.KEY_PAIR, s2, min(one, other), max(one, other), vector)


def self_key(seed: bytes, s2: bytes, client: int, vector: str) -> bytes:
    """The key of a client's self mask for one vector."""
    return labels.derive(seed, labels.KEY_SELF, s2, client, vector)


def share_commitment(s1: bytes, dealer: int, holder: int, kind: str, share: bytes) -> bytes:
    """A hash that binds a share to its place. It hides it too: a share alone is uniform (t >= 2)."""
    return labels.digest(labels.COMMIT_SHARE, s1, dealer, holder, kind, share)


def seed_commitment(s1: bytes, dealer: int, seed: bytes) -> bytes:
    """A hash that binds a dealer to the seed it deals, so that a wrong rebuilt one blames it."""
    return labels.digest(labels.COMMIT_SEED, s1, dealer, seed)


def seal(shared: bytes, s1: bytes, dealer: int, holder: int, kind: str, commitment: bytes, share: bytes) -> bytes:
    """Encrypts one share for one holder.

    The key depends on the commitment, so one key seals one plaintext even if a step is repeated with other
    randomness; hence the constant nonce is safe.
    """
    cipher = _sealing_cipher(shared, s1, dealer, holder, kind, commitment)
    return cipher.encrypt(_NONCE, share, labels.encode(labels.SEALED_SHARE, s1, dealer, holder, kind))


def open_sealed(
    shared: bytes, s1: bytes, dealer: int, holder: int, kind: str, commitment: bytes, box: bytes
) -> bytes:
    """The share in a box, checked against its commitment; Malformed if either check fails."""
    cipher = _sealing_cipher(shared, s1, dealer, holder, kind, commitment)
    try:
        share = cipher.decrypt(_NONCE, box, labels.encode(labels.SEALED_SHARE, s1, dealer, holder, kind))
    except InvalidTag:
        raise Malformed("sealed share does not open") from None
    if share_commitment(s1, dealer, holder, kind, share) != commitment:
        raise Malformed("sealed share does not match its commitment")
    return share


def _sealing_cipher(
    shared: bytes, s1: bytes, dealer: int, holder: int, kind: str, commitment: bytes
) -> ChaCha20Poly1305:
    key = labels.derive(shared, labels.KEY_SEAL, s1, dealer, holder, kind, commitment)
    return ChaCha20Poly1305(key)
