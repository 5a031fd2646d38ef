"""Key agreements of hybrid sessions: X25519 and ML-KEM-768 together (SPEC.md, section 10).

What one of them hides stays hidden if the other falls. Confidentiality only: signatures are Ed25519.

A pad is the post-quantum half of a pair key. The lower id derives it from its mask seed and seals it to the higher
one, so that whichever of the two drops, the rebuilt seed gives the pad. A pad that does not open blames the client
that sealed it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from protocols import kem, keys, labels
from protocols.errors import Malformed

PUBLIC_BYTES = keys.KEY_BYTES + kem.PUBLIC_BYTES
BOX_BYTES = 32 + keys.TAG_BYTES

_NONCE = bytes(12)  # a box's key comes from a fresh encapsulation and serves once


@dataclass(frozen=True)
class KeyPair:
    """An X25519 secret and an ML-KEM-768 decapsulation key, both from one 32-byte seed."""

    curve: bytes = field(repr=False)
    kem: MLKEM768PrivateKey = field(repr=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> KeyPair:
        """The rejection secret comes from the seed too: whoever rebuilds the seed decapsulates as its owner does."""
        # d makes the key, z what a ciphertext decapsulates to that nobody encapsulated.
        parts = [labels.derive(seed, labels.KEY_KEM, part) for part in ("d", "z")]
        return cls(labels.derive(seed, labels.KEY_CURVE), kem.private_key(b"".join(parts)))

    @property
    def public(self) -> bytes:
        """The 1,216 bytes to announce: the X25519 public key, then the ML-KEM encapsulation key."""
        return keys.public_key(self.curve) + self.kem.public_key().public_bytes_raw()


def curve_part(public: bytes) -> bytes:
    """The X25519 public key in a hybrid public key."""
    return public[: keys.KEY_BYTES]


def kem_part(public: bytes) -> bytes:
    """The ML-KEM encapsulation key in a hybrid public key."""
    return public[keys.KEY_BYTES :]


def refuse_unusable(public: bytes) -> None:
    """keys.UnusableKey unless both parts of a public key can be agreed with."""
    if len(public) != PUBLIC_BYTES:
        raise keys.UnusableKey("a key of the wrong size")
    keys.refuse_low_order(curve_part(public))
    try:
        kem.refuse_malformed(kem_part(public))
    except ValueError:
        raise keys.UnusableKey("a malformed ML-KEM key") from None


def sealing_secret(curve: bytes, secret: bytes, s1: bytes, dealer: int, holder: int, ciphertext: bytes) -> bytes:
    """From the X25519 and the ML-KEM secret of one leaf to the one that its sealing key comes from."""
    # Both secrets in one derivation: whoever breaks one of them still lacks the other. The ciphertext is bound in,
    # because ML-KEM's own secret is no hash of it.
    return labels.derive(curve + secret, labels.KEY_HYBRID_SEAL, s1, dealer, holder, ciphertext)


def pair_secret(curve: bytes, pad: bytes, s1: bytes, one: int, other: int) -> bytes:
    """From the X25519 secret and the pad of two clients to the one that their pair keys come from."""
    # Lower id first, so that both ends derive the same.
    return labels.derive(curve + pad, labels.KEY_HYBRID_PAIR, s1, min(one, other), max(one, other))


def pad_of(mask_seed: bytes, s1: bytes, low: int, high: int) -> bytes:
    """The pad that client `low`, whose mask seed this is, gives client `high`."""
    return labels.derive(mask_seed, labels.KEY_PAD, s1, low, high)


@dataclass(frozen=True)
class SealedPad:
    """One pad on its way from the lower to the higher id, under the lower one's signature."""

    commitment: bytes
    ciphertext: bytes
    box: bytes

    @property
    def right_sizes(self) -> bool:
        """Whether the three parts are those of a pad."""
        sizes = (len(self.commitment), len(self.ciphertext), len(self.box))
        return sizes == (32, kem.CIPHERTEXT_BYTES, BOX_BYTES)

    def commits_to(self, pad: bytes, s1: bytes, low: int, high: int) -> bool:
        """Whether this is the pad that the sender signed."""
        return self.commitment == _commitment(s1, low, high, pad)


NO_PAD = SealedPad(b"", b"", b"")


def seal_pad(encapsulate: kem.Encapsulate, public: bytes, s1: bytes, low: int, high: int, pad: bytes) -> SealedPad:
    """Seals a pad to client `high`, whose hybrid mask key `public` is."""
    secret, ciphertext = encapsulate(kem_part(public))
    cipher = _cipher(secret, s1, low, high, ciphertext)
    return SealedPad(_commitment(s1, low, high, pad), ciphertext, cipher.encrypt(_NONCE, pad, _place(s1, low, high)))


def open_pad(mask: KeyPair, s1: bytes, low: int, high: int, sealed: SealedPad) -> bytes:
    """The pad that client `low` sealed to `high`, whose mask keys these are. Malformed if anything about it is wrong.

    Depends on its arguments only: the server, with a rebuilt key pair, sees what the client saw.
    """
    secret = kem.decapsulate(mask.kem, sealed.ciphertext)
    try:
        cipher = _cipher(secret, s1, low, high, sealed.ciphertext)
        pad = cipher.decrypt(_NONCE, sealed.box, _place(s1, low, high))
    except InvalidTag:
        raise Malformed("sealed pad does not open") from None
    # The survivor used what it opened, recovery what the seed gives: without the commitment the two may differ, nobody
    # is to blame, and the sum is noise.
    if not sealed.commits_to(pad, s1, low, high):
        raise Malformed("sealed pad does not match its commitment")
    return pad


def _cipher(secret: bytes, s1: bytes, low: int, high: int, ciphertext: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(labels.derive(secret, labels.KEY_PAD_BOX, s1, low, high, ciphertext))


def _place(s1: bytes, low: int, high: int) -> bytes:
    return labels.encode(labels.SEALED_PAD, s1, low, high)


def _commitment(s1: bytes, low: int, high: int, pad: bytes) -> bytes:
    return labels.digest(labels.COMMIT_PAD, s1, low, high, pad)
