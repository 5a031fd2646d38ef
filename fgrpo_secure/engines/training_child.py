"""Training in a child of this process, until the deadline and no longer.

    parent   holds books and keys, waits, and goes on at the deadline: with what came, or with nothing
    child    trains, says what it found over a pipe, ends; may die, hang or be killed for its memory

**Why** When a client announces itself must say nothing about its data. Whether training was quick, slow, or ended the
process that it ran in, the announcement leaves at the deadline; without a result it is for zero and the full noise.
The child ends with its parent, however that ends: it would keep the parent's pipes open, and whoever reads from those
would learn of the parent's end only when training is over.
"""

import os
import select
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fgrpo_secure import entropy
from fgrpo_secure.plan.round_settings import time_for_training

CHUNK = 1 << 20
_ENDED = set[int]()  # children that were killed; none is waited for, and the next call takes up those that are gone
FIRST_VICTIM = "1000"  # to the system when memory runs out: this child, and not the process that must announce


def run_until(ends: float, work: Callable[[], bytes], take: Callable[[bytes | None], None]) -> None:
    """Hand `take` what `work` gives in a child, or None. Returns when `entropy.stopwatch()` shows `ends`, no later.

    `work` has all but the last twentieth of that time, or the last five seconds of a long one. `take` has those: to
    read a result takes longer than to note that there is none. The child is a copy of this process: it must not touch
    open databases.
    """
    _reap()
    reading, writing = os.pipe()
    watched, held = os.pipe()  # nobody writes: it ends with whoever holds it
    now = entropy.stopwatch()
    stops = now + time_for_training(ends - now)
    child = os.fork()
    if child == 0:
        os.close(held)
        _train(writing, watched, work)
    os.close(writing)
    os.close(watched)
    try:
        found = _received(reading, stops)
    finally:
        os.close(reading)
        os.close(held)
        _end(child)
    take(found)
    if (left := ends - entropy.stopwatch()) > 0:
        entropy.sleep(left)


def _end(child: int) -> None:
    """End the child if it has not ended, and wait for nothing: to free much memory takes the system a second, and by
    that second the announcement would tell that training had not ended. Where the system or somebody else waited for
    it, its number may be another's by now, and nobody is killed."""
    with suppress(ChildProcessError):
        if os.waitpid(child, os.WNOHANG) == (0, 0):
            os.kill(child, signal.SIGKILL)
            _ENDED.add(child)


def _reap() -> None:
    """Take up children of earlier calls that are gone; the rest is the system's when this process ends."""
    for child in tuple(_ENDED):
        try:
            gone = os.waitpid(child, os.WNOHANG) != (0, 0)
        except ChildProcessError:
            gone = True
        if gone:
            _ENDED.discard(child)


def _train(writing: int, watched: int, work: Callable[[], bytes]) -> None:
    """In the child: say the result and end, without any of the parent's business: nothing is flushed or closed."""
    try:
        threading.Thread(target=_end_with_parent, args=(watched,), daemon=True).start()
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(FIRST_VICTIM)
        data = work()
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(len(data).to_bytes(8, "big") + data)
    finally:
        os._exit(0)


def _end_with_parent(watched: int) -> None:
    os.read(watched, 1)
    os._exit(1)


def _received(reading: int, ends: float) -> bytes | None:
    received = bytearray()
    while (left := ends - entropy.stopwatch()) > 0:
        ready, _, _ = select.select([reading], [], [], left)
        if not ready:
            break
        chunk = os.read(reading, CHUNK)
        if not chunk:
            break
        received += chunk
    length = int.from_bytes(received[:8], "big")
    return bytes(received[8:]) if len(received) >= 8 and len(received) == 8 + length else None
