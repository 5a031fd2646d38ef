"""Client ids as text for a ledger entry: ascending ranges, as in "0-3,5". One form for each set."""

from collections.abc import Iterable

LONGEST = 20  # characters of one id; it has far fewer


def text(ids: Iterable[int]) -> str:
    """The one form of a set of ids; empty for none."""
    runs: list[list[int]] = []
    for each in sorted(set(ids)):
        if runs and runs[-1][1] + 1 == each:
            runs[-1][1] = each
        else:
            runs.append([each, each])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def read(ranges: str, most: int) -> tuple[int, ...]:
    """The ids that `text` wrote, ascending; ValueError for anything else, or for more than `most` of them.

    **Why** A few characters name a million ids. The caller says how many there can be, from its own record, and
    nothing is built before they were counted.
    """
    runs = _runs(ranges)
    if (count := sum(last - first + 1 for first, last in runs)) > most:
        raise ValueError(f"{count} ids where there can be {most}")
    return tuple(each for first, last in runs for each in range(first, last + 1))


def count(ranges: str) -> int:
    """How many ids `read` would give, without building them. ValueError for what `text` never writes."""
    return sum(last - first + 1 for first, last in _runs(ranges))


def _runs(ranges: str) -> list[tuple[int, int]]:
    """(first, last) of every range: ascending, none touching the one before it, each in its one form."""
    runs: list[tuple[int, int]] = []
    for part in ranges.split(",") if ranges else ():
        first, dash, last = part.partition("-")
        low = _id(first)
        high = _id(last) if dash else low
        if (dash and low >= high) or (runs and low <= runs[-1][1] + 1):
            raise ValueError("not the one form of a list of ids")
        runs.append((low, high))
    return runs


def _id(digits: str) -> int:
    if len(digits) > LONGEST or not (digits.isascii() and digits.isdecimal()) or str(int(digits)) != digits:
        raise ValueError("not a list of ids")
    return int(digits)
