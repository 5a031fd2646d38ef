"""Lines about what anybody can cause, which must not fill a disk: one for each kind now and then, with their number."""

from collections.abc import Callable, Hashable

from fgrpo_secure import entropy

LOG_SECONDS = 10.0  # between two lines of one kind
LONGEST_LINE = 300


class Throttled:
    """A log that writes a line and counts those of its kind that follow within `LOG_SECONDS`.

    Kinds are the caller's and few; nobody else may choose one.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._since: dict[Hashable, tuple[float, int]] = {}

    def add(self, kind: Hashable, what: str, sentence: str) -> None:
        """Log `what: sentence`, unless one of this kind was logged just now."""
        now = entropy.stopwatch()
        logged, count = self._since.get(kind, (-LOG_SECONDS, 0))
        if now - logged < LOG_SECONDS:
            self._since[kind] = logged, count + 1
            return
        more = f" ({count} more before)" if count else ""
        shown = "".join(each if each.isprintable() else " " for each in sentence[:LONGEST_LINE])
        self._log(f"{what}{more}: {shown}")
        self._since[kind] = now, 0
