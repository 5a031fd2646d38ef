import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocols import labels
from protocols.errors import BadSignature
from protocols.identity import Identity, verify_signature

SEED = bytes(range(32))


def test_signatures_are_ed25519_over_label_and_payload():
    identity = Identity.from_seed(SEED)
    signature = identity.sign("sign plan", b"payload")
    assert len(signature) == 64
    verify_signature(identity.public, "sign plan", b"payload", signature)
    theirs = Ed25519PublicKey.from_public_bytes(identity.public)
    theirs.verify(signature, labels.encode("sign plan", b"payload"))


@pytest.mark.parametrize(
    ("label", "payload", "flip"),
    [("sign upload", b"payload", 0), ("sign plan", b"other", 0), ("sign plan", b"payload", 1)],
)
def test_a_signature_holds_for_its_own_label_and_payload_only(label, payload, flip):
    identity = Identity.from_seed(SEED)
    signature = identity.sign("sign plan", b"payload")
    signature = bytes([signature[0] ^ flip]) + signature[1:]
    with pytest.raises(BadSignature):
        verify_signature(identity.public, label, payload, signature)


@pytest.mark.parametrize(("public", "signature"), [(b"short", bytes(64)), (bytes(32), bytes(63)), (bytes(32), b"")])
def test_ill_sized_keys_and_signatures_are_bad_signatures(public, signature):
    with pytest.raises(BadSignature):
        verify_signature(public, "sign plan", b"", signature)


def test_bytes_do_not_move_between_a_signature_and_what_it_covers():
    """They are one string to libsodium, so only their sizes keep them apart."""
    identity = Identity.from_seed(SEED)
    signed = identity.sign("sign plan", b"payload")
    encoded = labels.encode("sign plan", b"payload")
    with pytest.raises(BadSignature, match="right size"):
        verify_signature(identity.public, "sign plan", b"payload", signed + encoded[:1])
    with pytest.raises(BadSignature, match="right size"):
        verify_signature(identity.public + b"x", "sign plan", b"payload", signed)


def test_an_identity_never_shows_its_secret():
    shown = repr(Identity.from_seed(SEED))
    assert SEED.hex() not in shown
    assert repr(SEED) not in shown
    assert "_secret" not in shown


def test_a_seed_has_32_bytes():
    with pytest.raises(ValueError, match="32 bytes"):
        Identity.from_seed(bytes(31))
