"""Faults that the embedded engine injects into the traffic: messages lost, repeated or damaged at any step.

Which ones is drawn from the run's public seed, so that a faulty run can be repeated. `engine.faults` maps a step
("mask") or a step and a kind ("mask.corrupt") to a probability per message; a step alone means "lost".
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Faults:
    """Decides for each message what happens to it on the way to the server."""

    probabilities: Mapping[str, float]
    seed: int

    def deliver(self, attempt: int, step: str, client: int, payload: bytes) -> Iterator[tuple[int, bytes]]:
        """What arrives of one message of session `attempt`: nothing, it, it twice, or something damaged."""
        where = f"{self.seed}/{attempt}/{step}/{client}"
        if self._happens(where, step, "drop"):
            return
        if self._happens(where, step, "corrupt"):
            position = _draw(f"{where}/position") % len(payload)
            payload = payload[:position] + bytes([payload[position] ^ 1]) + payload[position + 1 :]
        yield client, payload
        if self._happens(where, step, "duplicate"):
            yield client, payload

    def _happens(self, where: str, step: str, kind: str) -> bool:
        probability = self.probabilities.get(f"{step}.{kind}", 0.0)
        if kind == "drop":
            probability = max(probability, self.probabilities.get(step, 0.0))
        return probability > 0 and _draw(f"{where}/{kind}") < probability * 2.0**64


def _draw(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
