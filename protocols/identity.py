"""Long-lived Ed25519 identities (RFC 8032) of clients, servers and roster authorities, through PyNaCl.

Every signature covers a label, so that none made for one purpose can be shown for another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from protocols import labels
from protocols.errors import BadSignature

PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64

Verify = Callable[[bytes, str, bytes, bytes], None]
"""(public key, label, payload, signature) -> None, or raises BadSignature. An engine may remember
successes.
"""


@dataclass(frozen=True)
class Identity:
    """A signing key and its public half."""

    public: bytes
    _secret: bytes = field(repr=False)  # libsodium's form: the seed, then the public key

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """The identity of a 32-byte secret seed; other lengths raise ValueError."""
        if len(seed) != 32:
            raise ValueError("an identity seed has 32 bytes")
        return cls(*crypto_sign_seed_keypair(seed))

    def sign(self, label: str, payload: bytes) -> bytes:
        """The 64-byte signature over `labels.encode(label, payload)`."""
        # The bare binding: a client signs twice in each step, and PyNaCl's class around it costs nearly as much again.
        return crypto_sign(labels.encode(label, payload), self._secret)[:SIGNATURE_BYTES]

    def sign_note(self, text: str) -> bytes:
        """The 64-byte signature over the bare text of a note, whose format (C2SP signed-note) leaves no room for a
        label. ValueError for a text that could be taken for a labelled message.
        """
        data = text.encode()
        if data.startswith(labels.NAME):
            raise ValueError("a note must not begin like a protocol message")
        return crypto_sign(data, self._secret)[:SIGNATURE_BYTES]


def verify_signature(public: bytes, label: str, payload: bytes, signature: bytes) -> None:
    """Returns if `signature` is the holder of `public`'s over this label and payload, else raises
    BadSignature.
    """
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:  # libsodium itself reads as much in any case
        raise BadSignature(f"no signature or key of the right size under the label '{label}'")
    try:
        crypto_sign_open(signature + labels.encode(label, payload), public)
    except BadSignatureError:
        raise BadSignature(f"no valid signature under the label '{label}'") from None
