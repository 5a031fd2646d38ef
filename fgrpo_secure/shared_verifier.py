"""Signature checks shared by all owners of one process.

In one process every owner would check the same signatures again. Each distinct (key, label, payload, signature) is
checked once; what the repetitions would have cost an owner on its own machine is counted, so that reported costs
leave that saving out.
"""

import hashlib

from fgrpo_secure import entropy
from protocols.identity import verify_signature

MOST = 1 << 16  # signatures remembered: more than a session of any size repeats


class SharedVerifier:
    """A `protocols.identity.Verify` that remembers what it found good. Bad signatures are never remembered."""

    def __init__(self) -> None:
        self._good: set[bytes] = set()
        self._checks = 0
        self._seconds = 0.0
        self._saved = 0

    def __call__(self, public: bytes, label: str, payload: bytes, signature: bytes) -> None:
        # A digest: payloads are as long as a server makes them, refused plans included.
        key = hashlib.sha256(b"".join((public, signature, label.encode(), b"\0", payload))).digest()
        if key in self._good:
            self._saved += 1
            return
        started = entropy.stopwatch()
        verify_signature(public, label, payload, signature)
        self._seconds += entropy.stopwatch() - started
        self._checks += 1
        if len(self._good) >= MOST:
            self._good.clear()
        self._good.add(key)

    def forget(self) -> None:
        """Drop what is remembered; a session's signatures do not come again."""
        self._good.clear()

    def saved_seconds(self) -> float:
        """What the repetitions since the last call would have cost; the count starts again."""
        mean = self._seconds / self._checks if self._checks else 0.0
        saved, self._saved = self._saved * mean, 0
        return saved
