"""Ctrl-C and SIGTERM: the open round is given up at once, and what is finished stays for `fgrpo run --resume`.

Nothing needs to be put right: a run may be killed at any moment, too. What a session put on a ledger before it was
given up is settled, or refunded if nothing had left, by the run that resumes.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SIGNALLED = 128  # a shell's exit code for a process that a signal ended is this and the signal's number


class Interrupted(KeyboardInterrupt):
    """The operator ended the run. `exit_code` is 130 after Ctrl-C (SIGINT) and 143 after SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = SIGNALLED + number


def _nothing() -> None:
    return


@contextmanager
def interruptible(give_up: Callable[[], None] = _nothing) -> Iterator[None]:
    """Within it either signal calls `give_up` and raises Interrupted; a second one ends the process there and then.

    `give_up` comes first because whoever is asked to end waits for workers that train, and those must end before.
    """

    def interrupt(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        give_up()
        raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():  # only there may signals be handled
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
