"""X25519 agreement (RFC 7748), sealed shares (ChaCha20-Poly1305, RFC 8439) and every mask key's derivation.

Pair and self keys are bound to S2, hence to the plan, the roster and every announcement and deal of the
session. Sealing keys are directional (dealer, holder): a box reflected to its sender does not open
(SECAGG.md's G1).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import CryptoError

from protocols import labels
from protocols.errors import Malformed

KEY_BYTES = 32
TAG_BYTES = 16
SEED, MASK_KEY = "seed", "mask key"  # the two kinds of shares

# Two boxes under one key need two nonces: with one, their keystreams cancel and the shares' difference is open.
_NONCES = {SEED: bytes(12), MASK_KEY: bytes(11) + b"\x01"}
# Any scalar will do: libsodium clears the low three bits, so that a point of small order gives zero for all of them.
_PROBE = b"\x01" * 32


class UnusableKey(ValueError):
    """An announced public key that nobody can agree with; the text says what is wrong with it."""


class LowOrderPoint(UnusableKey):
    """A public key of small order: the shared secret would be zero, known to everybody."""


def public_key(secret: bytes) -> bytes:
    """The X25519 public key of a 32-byte secret."""
    return crypto_scalarmult_base(secret)


def agree(secret: bytes, peer: bytes) -> bytes:
    """The raw 32-byte X25519 secret; derive keys from it, never use it. LowOrderPoint if it would be zero."""
    try:
        # A key of small order makes the secret known to everybody, and with it the masks of whoever agrees on one.
        return crypto_scalarmult(secret, peer)
    except CryptoError:  # libsodium's answer to an all-zero result
        raise LowOrderPoint("a key of small order") from None


def refuse_low_order(public: bytes) -> None:
    """LowOrderPoint unless `public` can be agreed with: X25519 clears the cofactor, any secret shows it."""
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


@dataclass(frozen=True)
class Seal:
    """The cipher between one dealer and one holder, for the two shares of one leaf.

    Its key depends on both commitments, so one key meets one pair of plaintexts even if a step is
    repeated with other randomness; hence a constant nonce per kind is safe.
    """

    s1: bytes
    dealer: int
    holder: int
    _cipher: ChaCha20Poly1305 = field(repr=False)

    @classmethod
    def between(cls, shared: bytes, s1: bytes, dealer: int, holder: int, commitments: tuple[bytes, bytes]) -> Seal:
        """`shared` is their X25519 secret, `commitments` those of the seed share and the mask key share."""
        key = labels.derive(shared, labels.KEY_SEAL, s1, dealer, holder, *commitments)
        return cls(s1, dealer, holder, ChaCha20Poly1305(key))

    def close(self, kind: str, share: bytes) -> bytes:
        """Encrypts the share of this kind."""
        return self._cipher.encrypt(_NONCES[kind], share, self._place(kind))

    def open(self, kind: str, box: bytes, commitment: bytes) -> bytes:
        """The share in a box, checked against its commitment; Malformed if either check fails."""
        try:
            share = self._cipher.decrypt(_NONCES[kind], box, self._place(kind))
        except InvalidTag:
            raise Malformed("sealed share does not open") from None
        # A dealer that seals another share than it committed to would have the holder blamed when that opens it.
        if share_commitment(self.s1, self.dealer, self.holder, kind, share) != commitment:
            raise Malformed("sealed share does not match its commitment")
        return share

    def _place(self, kind: str) -> bytes:
        return labels.encode(labels.SEALED_SHARE, self.s1, self.dealer, self.holder, kind)
