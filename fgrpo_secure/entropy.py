"""Where randomness and time enter: the only module that touches the operating system's generator or a clock.

Everything above takes an `Entropy` as an argument, so that no key, nonce, rounding or noise can come from a
seedable generator by accident. `SeededEntropy` exists for reproducible tests and marks the run "not private".
"""

import hashlib
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol


class Entropy(Protocol):
    """A source of secret random bytes, divided into labelled branches."""

    @property
    def private(self) -> bool:
        """True if the bytes are unpredictable to everybody else, so that a privacy claim may rest on them."""
        ...

    def bytes(self, count: int, *label: str | int) -> bytes:
        """`count` random bytes for one purpose; a (branch, label) pair must be asked for once only."""
        ...

    def child(self, *label: str | int) -> "Entropy":
        """The branch of this source that `label` names."""
        ...


@dataclass(frozen=True, slots=True)
class OsEntropy:
    """The operating system's generator; labels carry no meaning here."""

    private: bool = True

    def bytes(self, count: int, *label: str | int) -> bytes:
        return os.urandom(count)

    def child(self, *label: str | int) -> "OsEntropy":
        return self


@dataclass(frozen=True, slots=True)
class SeededEntropy:
    """Bytes derived from a seed and the label alone: reproducible, therefore not private.

    The same label gives the same bytes, in whatever order the labels are asked for.
    """

    seed: bytes = field(repr=False)
    path: tuple[str | int, ...] = ()
    private: bool = False

    def bytes(self, count: int, *label: str | int) -> bytes:
        hasher = hashlib.shake_256(b"fgrpo_secure/seeded-entropy/1")
        for part in (self.seed, *self.path, *label):
            kind = b"i" if isinstance(part, int) else b"s"
            data = part if isinstance(part, bytes) else str(part).encode()
            hasher.update(kind + len(data).to_bytes(8, "little") + data)
        return hasher.digest(count)

    def child(self, *label: str | int) -> "SeededEntropy":
        return SeededEntropy(self.seed, (*self.path, *label))


def from_kind(kind: str, seed: int) -> Entropy:
    """The source that `run.entropy` names: "os" or "seeded" (from `run.seed`)."""
    if kind == "os":
        return OsEntropy()
    if kind == "seeded":
        return SeededEntropy(str(seed).encode())
    raise ValueError(f"run.entropy is {kind!r}; allowed are 'os' and 'seeded'")


def stopwatch() -> float:
    """Seconds on a clock that never goes back; only differences mean anything."""
    return time.perf_counter()


def processor_time() -> float:
    """Seconds of processor time of the calling process: unaffected by what else the machine does."""
    return time.process_time()


def sleep(seconds: float) -> None:
    """Wait, for a view that follows somebody else's work."""
    time.sleep(seconds)


def utc_now() -> str:
    """The wall-clock time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def unix_time() -> float:
    """Seconds since 1970-01-01 in UTC, by the machine's clock."""
    return time.time()


def today() -> int:
    """Whole days since 1970-01-01 in UTC."""
    return int(time.time()) // 86_400
