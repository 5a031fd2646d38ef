"""What a process remembers of signatures is bounded, whatever a server signs, and never takes a bad one for good."""

import tracemalloc

import pytest

from fgrpo_secure import shared_verifier
from fgrpo_secure.shared_verifier import SharedVerifier
from protocols.errors import BadSignature
from protocols.identity import Identity

SERVER = Identity.from_seed(b"s" * 32)
LABEL = "sign plan"


def test_long_payloads_and_many_of_them_are_not_kept(monkeypatch):
    monkeypatch.setattr(shared_verifier, "MOST", 10)
    verify, payloads = SharedVerifier(), [bytes([number]) * 1_000_000 for number in range(30)]
    signed = [(payload, SERVER.sign(LABEL, payload)) for payload in payloads]
    tracemalloc.start()
    for payload, signature in signed:
        verify(SERVER.public, LABEL, bytes(bytearray(payload)), signature)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 100_000
    assert len(verify._good) <= 10


def test_only_the_very_same_signature_is_taken_from_memory():
    verify, payload = SharedVerifier(), b"payload"
    signature = SERVER.sign(LABEL, payload)
    verify(SERVER.public, LABEL, payload, signature)
    verify(SERVER.public, LABEL, payload, signature)
    for other in ((LABEL, payload + b"!", signature), ("sign roster", payload, signature), (LABEL, payload, bytes(64))):
        with pytest.raises(BadSignature):
            verify(SERVER.public, *other)
