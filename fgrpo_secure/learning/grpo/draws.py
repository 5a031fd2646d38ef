"""The random numbers that completions are drawn by: a stream of its own for each completion.

    seed, prompt, how often it was asked before, number of the completion --SHAKE-256--> a number for each token

So a completion's draws are the same whatever else is in its batch, in whatever order, and however long that goes on,
and the same on every device. They carry no privacy: noise and keys come from `Entropy`, never from here.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LABEL = b"fgrpo_secure/completion-draws/1"
NUMBER = np.dtype("<u8")
SPARE_BITS = 11  # of 64: a float64 holds 53


@dataclass
class Streams:
    """The streams under one seed, of at most 64 bits. A prompt that is asked again, in the same batch or a later one,
    goes on with the next streams: the same question twice has two answers."""

    seed: int
    _asked: Counter[bytes] = field(default_factory=Counter, repr=False)  # by digest of the prompt. Secret

    def uniform(self, prompts: Sequence[Sequence[int]], group: int, length: int) -> NDArray[np.float64]:
        """Numbers in (0, 1] for `group` completions of each prompt, those of a prompt together, shape (prompts * group,
        `length`). `prompts` are token ids; a longer stream begins like a shorter one."""
        rows = [row for prompt in prompts for row in self._rows(prompt, group, length * NUMBER.itemsize)]
        bits = np.frombuffer(b"".join(rows), dtype=NUMBER).reshape(len(rows), length)
        # Never 0: the first token whose cumulated probability reaches the number then has one of its own.
        return np.ldexp(((bits >> SPARE_BITS) + 1).astype(np.float64), SPARE_BITS - NUMBER.itemsize * 8)

    def _rows(self, prompt: Sequence[int], group: int, size: int) -> Iterator[bytes]:
        digest = hashlib.sha256(np.asarray(prompt, dtype=NUMBER).tobytes()).digest()
        again = self._asked[digest]
        self._asked[digest] += 1
        stream = hashlib.shake_256(LABEL + digest + np.array([self.seed, again], dtype=NUMBER).tobytes())
        for completion in range(group):
            own = stream.copy()
            own.update(completion.to_bytes(NUMBER.itemsize, "little"))
            yield own.digest(size)
