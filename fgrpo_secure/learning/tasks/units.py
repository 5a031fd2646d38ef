"""A client's rows by the unit that is protected: one subject's rows together, or each row by itself.

This file is the whole way from a data file to units, and it cuts first:

    file -> lines -> (each line alone) row, or a reason why not -> (each row alone) name of its unit -> units

Until a row has joined its unit, no code holds it against another line; afterwards each batch of a unit is completed.
So columns, names, blocks, seeds, batches and failures of a unit follow from its own lines and public numbers, and
taking one unit away changes nothing about any other. What belongs to no unit (a line that cannot be read) is left
out, with a reason for the owner alone. Names of units never leave the client.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from fgrpo_secure.config.schema import Client
from fgrpo_secure.learning.tasks.draws import Draws
from fgrpo_secure.learning.tasks.files import Line, Row, UnusableData, lines, with_columns
from fgrpo_secure.learning.tasks.sources import fixed_rows, needs

NAME_BYTES = 16


@dataclass(frozen=True, slots=True)
class UnitTable:
    """One owner's data. `rows` maps a unit's name to its rows as they are, in the data's order; `left_out` says, for
    the owner alone, why lines belong to no unit."""

    rows: Mapping[str, tuple[Row, ...]] = field(repr=False)
    label: tuple[str | int, ...] = field(repr=False)
    left_out: tuple[str, ...] = field(default=(), repr=False)

    def in_block(self, block: int, blocks: int) -> list[str]:
        """The units of block `block` of `blocks`, fixed for the run."""
        return [unit for unit in self.rows if Draws(*self.label, "turn", unit).below(blocks) == block]

    def batch(self, unit: str, round: int, step: int, count: int) -> list[Row]:
        """At most `count` rows of a unit, each with every column of the unit; none repeats before all were used in the
        round.

        **Why** Only here: completed all at once, rows with columns of their own take the square of their data, and a
        unit whose rows do not fit into memory would take all others with it.
        """
        rows = self.rows[unit]
        order = list(range(len(rows)))
        Draws(*self.label, "batch", unit, round).shuffle(order)
        chosen = [rows[order[(step * count + place) % len(rows)]] for place in range(min(count, len(rows)))]
        return with_columns(chosen, dict.fromkeys(column for row in rows for column in row))


def open_units(client: Client, seed: int, index: int, unit: str, most: int) -> UnitTable:
    """The data of owner number `index` of a [[client]] table, by `unit` ("subject" or "prompt_group").

    Raises UnusableData if there is no such file or task, or if there are more than `most` units, which is all that
    the run's public bounds allow: the one fact about all units together that an owner must know before it takes part.
    """
    label = ("units", seed, client.name, index)
    subject = client.subject if unit == "subject" else None
    if unit == "subject" and subject is None:
        raise UnusableData(f"client {client.name!r} names no column 'subject'")
    left_out: list[str] = []
    table: dict[str, list[Row]] = {}
    seen: Counter[str] = Counter()
    for name, row in _named(client, label, subject, left_out):
        unit_name = _numbered(name, seen) if subject is None else name
        table.setdefault(unit_name, []).append(row)
    if len(table) > most:
        raise UnusableData(
            f"client {client.name!r} holds more units than privacy.units_per_client = {most}; raise that public bound"
        )
    return UnitTable({name: tuple(own) for name, own in table.items()}, label, tuple(left_out))


def _named(
    client: Client, label: tuple[str | int, ...], subject: str | None, left_out: list[str]
) -> Iterator[tuple[str, Row]]:
    """Each row with a name from itself alone."""
    if client.data is None:
        yield from _procedural(client, label, subject)
        return
    needed = needs(client)
    for line in lines(client.data):
        row = _row(line, needed, subject, left_out)
        if row is not None:
            yield (_digest(line.data.strip()) if subject is None else _subject(row, subject)), row


def _row(line: Line, needed: Iterable[str], subject: str | None, left_out: list[str]) -> Row | None:
    try:
        return line.row(needed, subject)
    except UnusableData as reason:
        left_out.append(str(reason))
        return None


def _procedural(client: Client, label: tuple[str | int, ...], subject: str | None) -> Iterator[tuple[str, Row]]:
    if client.rows is None:
        raise UnusableData(f"client {client.name!r} draws fresh problems without end; give 'rows'")
    for number, row in enumerate(fixed_rows(client, Draws(*label), client.rows)):
        if subject is None:
            yield _digest(json.dumps(row, sort_keys=True).encode()), row
        else:
            about = {**row, subject: f"{number // client.rows_per_subject}"}
            yield _subject(about, subject), about


def _subject(row: Row, subject: str) -> str:
    return json.dumps(row[subject])  # 7 and "7" are two people


def _digest(said: bytes) -> str:
    """A row's name by what it says, not where it stands."""
    return hashlib.sha256(said).hexdigest()[: 2 * NAME_BYTES]


def _numbered(name: str, seen: Counter[str]) -> str:
    """Equal rows are units of their own: numbered. Taking one away takes the last number: they are all alike."""
    seen[name] += 1
    return f"{name}-{seen[name] - 1}"
