"""What a ledger entry says, its one byte form, and how each row follows from the one before it.

Pure: no storage. An entry is a JSON object of strings, integers and objects of those, keys sorted, no
spaces, ASCII (RFC 8785 for this subset). Fractions are "p/q" in lowest terms; floats do not occur.
"""

import json
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from typing import Any, Final

from fgrpo_secure.privacy.accounting import Filter
from protocols import merkle

VERSION = 1
LONGEST_ID = 20  # characters of one id; it has far fewer
LARGEST_INTEGER = 2**53 - 1  # what every JSON reader keeps exactly

Facts = Mapping[str, str | int]
Columns = tuple[str, int, str, int, bytes, str, str, bytes]  # a row as it is stored
CONTENT: Final = 4  # the column that holds the entry


class Phase(IntEnum):
    """Where a session stands. Budget entries belong to none."""

    NONE = 0
    INTENT = 1
    END = 2


@dataclass(frozen=True, slots=True)
class Row:
    """An entry with what follows from it and all before: sums, and the frontier of the Merkle tree.

    The frontier holds the roots of the complete subtrees that the tree's size is the sum of, largest first.
    """

    owner: str
    position: int
    session: str
    phase: Phase
    content: bytes
    filter: Filter
    frontier: tuple[bytes, ...]

    @property
    def entry(self) -> dict[str, Any]:
        """The entry as an object."""
        loaded: dict[str, Any] = json.loads(self.content)
        return loaded

    @property
    def charge(self) -> Fraction:
        """The entry's charge."""
        return fraction(self.entry["charge"])

    @property
    def root(self) -> bytes:
        """The Merkle root over this entry and all before it."""
        node = self.frontier[-1]
        for left in reversed(self.frontier[:-1]):
            node = merkle.root((left, node))
        return node

    def dump(self) -> Columns:
        """The columns of the row, owner first."""
        sums = _text(self.filter.budget), _text(self.filter.spent)
        return (
            self.owner,
            self.position,
            self.session,
            int(self.phase),
            self.content,
            *sums,
            b"".join(self.frontier),
        )

    @staticmethod
    def load(columns: Columns) -> "Row":
        """The inverse of `dump`."""
        owner, position, session, phase, content, budget, spent, nodes = columns
        frontier = tuple(nodes[start : start + merkle.HASH_BYTES] for start in range(0, len(nodes), merkle.HASH_BYTES))
        sums = Filter(fraction(budget), fraction(spent))
        return Row(owner, position, session, Phase(phase), content, sums, frontier)


def budget(owner: str, before: Row | None, amount: Fraction) -> Row:
    """The row that sets the budget: the first one, or a change of it."""
    spent = Fraction(0) if before is None else before.filter.spent
    return _row(owner, before, "", Phase.NONE, {"kind": "budget", "budget": _text(amount)}, Filter(amount, spent))


def intent(before: Row, session: bytes, round_number: int, charge: Fraction, facts: Facts) -> Row:
    """The row that charges a session; raises BudgetExceeded."""
    charged = before.filter.charge(charge, before.owner)
    fields = {"kind": "intent", "session": session.hex(), "round": round_number, "charge": _text(charge)}
    return _row(before.owner, before, session.hex(), Phase.INTENT, {**fields, "facts": dict(facts)}, charged)


def settled(before: Row, opened: Row, survivors: int, charge: Fraction, facts: Facts) -> Row:
    """The row that lowers a session's charge to what it really cost; ValueError if not within it."""
    charged = opened.charge
    if not 0 < charge <= charged:
        raise ValueError(f"a session settles at {charge}; it must be above 0 and at most the {charged} charged")
    if survivors < 1:
        raise ValueError(f"survivors is {survivors}; a settled session has at least 1")
    fields = {"kind": "settled", "session": opened.session, "survivors": survivors, "charge": _text(charge)}
    kept = Filter(before.filter.budget, before.filter.spent - charged + charge)
    return _row(before.owner, before, opened.session, Phase.END, {**fields, "facts": dict(facts)}, kept)


def aborted(before: Row, opened: Row, refund: bool) -> Row:
    """The row that closes a session without a result, with or without its charge."""
    charge = Fraction(0) if refund else opened.charge
    fields = {"kind": "aborted", "session": opened.session, "charge": _text(charge)}
    kept = Filter(before.filter.budget, before.filter.spent - opened.charge + charge)
    return _row(before.owner, before, opened.session, Phase.END, fields, kept)


def closed(before: Row, facts: Facts) -> Row:
    """The row that ends a run's ledger: what the run released in the end. No row follows it."""
    return _row(before.owner, before, "", Phase.NONE, {"kind": "closed", "facts": dict(facts)}, before.filter)


def replay(owner: str, before: Row | None, intents: MutableMapping[str, Row], content: bytes) -> Row:
    """The row that `content` makes after `before`; keeps the open `intents`. ValueError if none."""
    entry = json.loads(content)
    kind = entry["kind"]
    if kind == "budget":
        return budget(owner, before, fraction(entry["budget"]))
    if before is None:
        raise ValueError("the first entry sets no budget")
    if kind == "closed":
        if intents:
            raise ValueError("a run ends with a session open")
        return closed(before, entry["facts"])
    if kind == "intent":
        row = intent(before, bytes.fromhex(entry["session"]), entry["round"], fraction(entry["charge"]), entry["facts"])
        if intents.setdefault(entry["session"], row) is not row:
            raise ValueError("a session is charged twice")
        return row
    opened = intents.pop(entry["session"])
    if kind == "settled":
        return settled(before, opened, entry["survivors"], fraction(entry["charge"]), entry["facts"])
    return aborted(before, opened, fraction(entry["charge"]) == 0)


def canonical(entry: Mapping[str, object]) -> bytes:
    """The one byte form of an entry; ValueError for anything but strings, integers and objects of those."""
    _check(entry)
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _row(owner: str, before: Row | None, session: str, phase: Phase, fields: Mapping[str, object], sums: Filter) -> Row:
    position = 0 if before is None else before.position + 1
    content = canonical({"version": VERSION, "owner": owner, "position": position, **fields})
    frontier = _extended(() if before is None else before.frontier, position, merkle.leaf_hash(content))
    return Row(owner, position, session, phase, content, sums, frontier)


def _extended(frontier: tuple[bytes, ...], size: int, leaf: bytes) -> tuple[bytes, ...]:
    """The frontier of a tree of `size` leaves after one more: equal subtrees join, as in binary addition."""
    nodes, node = list(frontier), leaf
    while size & 1:
        node = merkle.root((nodes.pop(), node))
        size >>= 1
    return (*nodes, node)


def _check(value: object) -> None:
    if type(value) is str:  # the common case first: a long ledger is checked entry by entry
        return
    if isinstance(value, Mapping):
        for name, part in value.items():
            if not isinstance(name, str):
                raise ValueError(f"a ledger entry has the name {name!r}; names are strings")
            _check(part)
    elif isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"a ledger entry holds a {type(value).__name__}; strings and integers are allowed")
    elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise ValueError("a ledger entry holds an integer beyond 2^53; write it as a string")


def fraction(text: str) -> Fraction:
    """What an entry writes as numerator/denominator; ValueError, TypeError or AttributeError for anything else.

    **Why** not Fraction(text), which is also slower: it takes "1e300000000", and computes for minutes.
    """
    numerator, denominator = map(int, text.split("/"))
    if denominator < 1:
        raise ValueError(f"{text!r} is not a fraction")
    return Fraction(numerator, denominator)


def _text(fraction: Fraction) -> str:
    return f"{fraction.numerator}/{fraction.denominator}"


def ids_text(ids: Iterable[int]) -> str:
    """The one form of a set of client ids in an entry, ascending ranges as in "0-3,5"; empty for none."""
    runs: list[list[int]] = []
    for each in sorted(set(ids)):
        if runs and runs[-1][1] + 1 == each:
            runs[-1][1] = each
        else:
            runs.append([each, each])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def read_ids(ranges: str, most: int) -> tuple[int, ...]:
    """The ids that `ids_text` wrote, ascending; ValueError for anything else, or for more than `most` of them.

    **Why** A few characters name a million ids. The caller says how many there can be, from its own record, and
    nothing is built before they were counted.
    """
    runs = _id_runs(ranges)
    if (count := sum(last - first + 1 for first, last in runs)) > most:
        raise ValueError(f"{count} ids where there can be {most}")
    return tuple(each for first, last in runs for each in range(first, last + 1))


def count_ids(ranges: str) -> int:
    """How many ids `read_ids` would give, without building them. ValueError for what `ids_text` never writes."""
    return sum(last - first + 1 for first, last in _id_runs(ranges))


def _id_runs(ranges: str) -> list[tuple[int, int]]:
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
    if len(digits) > LONGEST_ID or not (digits.isascii() and digits.isdecimal()) or str(int(digits)) != digits:
        raise ValueError("not a list of ids")
    return int(digits)
