"""Reproducible draws for public problems: integers from a label, the same on every machine and version.

Not a source of secrets: problems, their order and their splits are fixed by the run's public seed. Keys,
nonces, rounding and noise come from `fgrpo_secure.entropy`.
"""

import hashlib
from collections.abc import MutableSequence, Sequence
from typing import Any

BLOCK = 512
WORD = 8


class Draws:
    """A stream of integers that its label determines: SHAKE-256 of the label and a block counter."""

    def __init__(self, *label: str | int) -> None:
        parts = [f"{type(part).__name__}:{part}" for part in label]
        self._label = "".join(f"{len(part)}:{part}" for part in ("fgrpo_secure/draws/1", *parts)).encode()
        self._block = 0
        self._words: list[int] = []

    def below(self, limit: int) -> int:
        """An integer in [0, limit), uniform up to limit / 2^64. `limit` is at least 1."""
        if not self._words:
            self._refill()
        return self._words.pop() % limit

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def choice(self, options: Sequence[Any]) -> Any:
        """One of `options`."""
        return options[self.below(len(options))]

    def text(self, alphabet: str, length: int) -> str:
        """`length` characters of `alphabet`, drawn independently."""
        return "".join(alphabet[self.below(len(alphabet))] for _ in range(length))

    def chance(self, probability: float) -> bool:
        """True with `probability`, to within 2^-30."""
        return self.below(1 << 30) < probability * (1 << 30)

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Put `items` in random order, in place (Fisher-Yates)."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]

    def _refill(self) -> None:
        digest = hashlib.shake_256(self._label + b"|" + str(self._block).encode()).digest(BLOCK * WORD)
        self._block += 1
        self._words = [int.from_bytes(digest[at : at + WORD], "little") for at in range(0, len(digest), WORD)]
