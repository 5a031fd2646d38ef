"""Faults that are injected into the traffic of any engine: messages lost, repeated or damaged at any step.

Which ones is drawn from the run's public seed, so that a faulty run can be repeated. `engine.faults` maps a step
("mask") or a step and a kind ("mask.corrupt") to a probability per message; a step alone means "lost".
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from fgrpo_secure.config.schema import Config
from fgrpo_secure.ledger.witnessed import Witnessed
from fgrpo_secure.server.engine import Engine


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


@dataclass
class Faulty:
    """An engine whose clients' answers suffer `faults` on their way. Itself an engine."""

    engine: Engine
    faults: Faults
    number: int = 0

    @property
    def refusals(self) -> dict[int, str]:
        """See Engine."""
        return self.engine.refusals

    def invite(self, number: int, adapter: bytes, roster: bytes) -> None:
        """See Engine."""
        self.number = number
        self.engine.invite(number, adapter, roster)

    def exchange(self, step: str, outgoing: Mapping[int, bytes], seconds: float) -> Iterator[tuple[int, bytes]]:
        """See Engine."""
        for client, payload in self.engine.exchange(step, outgoing, seconds):
            yield from self.faults.deliver(self.number, step, client, payload)

    def witness(
        self, session: bytes, exhibits: Mapping[int, bytes], seconds: float, holds: Callable[[Witnessed], bool]
    ) -> list[Witnessed]:
        """See Engine."""
        return self.engine.witness(session, exhibits, seconds, holds)

    def recover(self, sessions: list[bytes]) -> int:
        """See Engine."""
        return self.engine.recover(sessions)

    def close(self) -> None:
        """See Engine."""
        self.engine.close()


def struck(engine: Engine, config: Config) -> Engine:
    """The engine under the faults that `engine.faults` asks for."""
    faults = config.engine.faults
    return Faulty(engine, Faults(faults, config.run.seed)) if faults else engine


def _draw(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
