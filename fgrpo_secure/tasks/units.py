"""A client's rows by the unit that is protected: one subject's rows together, or each row by itself.

Who a unit is, whose turn it is and which of its rows a step takes follow from that unit's own data and public
numbers alone: taking one unit away changes nothing about any other. Names of units never leave the client.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from fgrpo_secure.config import Client
from fgrpo_secure.tasks.draws import Draws
from fgrpo_secure.tasks.files import Row, UnusableData, read_rows
from fgrpo_secure.tasks.sources import columns_of, row_of, task_of

NAME_BYTES = 16


@dataclass(frozen=True, slots=True)
class UnitTable:
    """One owner's data. `rows` maps a unit's name to its rows, in the data's order."""

    rows: Mapping[str, tuple[Row, ...]] = field(repr=False)
    label: tuple[str | int, ...] = field(repr=False)

    def turn(self, block: int, blocks: int) -> list[str]:
        """The units whose turn `block` of `blocks` is, fixed for the run."""
        return [unit for unit in self.rows if Draws(*self.label, "turn", unit).below(blocks) == block]

    def batch(self, unit: str, round: int, step: int, count: int) -> list[Row]:
        """At most `count` rows of a unit; none repeats before all were used in the round."""
        rows = self.rows[unit]
        order = list(range(len(rows)))
        Draws(*self.label, "batch", unit, round).shuffle(order)
        return [rows[order[(step * count + place) % len(rows)]] for place in range(min(count, len(rows)))]


def open_units(client: Client, seed: int, index: int, unit: str, most: int) -> UnitTable:
    """The data of owner number `index` of a [[client]] table, by `unit` ("subject" or "prompt_group").

    Raises UnusableData: also if there are more than `most` units, which is all that the run's public bounds allow.
    """
    label = ("units", seed, client.name, index)
    rows = _rows(client, label, client.subject if unit == "subject" else None)
    table: dict[str, list[Row]] = {}
    for row in rows:
        name = _subject(row, client) if unit == "subject" else _fresh_name(row, table)
        table.setdefault(name, []).append(row)
    if len(table) > most:
        raise UnusableData(
            f"client {client.name!r} holds more units than privacy.units_per_client = {most}; raise that public bound"
        )
    return UnitTable({name: tuple(own) for name, own in table.items()}, label)


def _rows(client: Client, label: tuple[str | int, ...], subject: str | None) -> list[Row]:
    if client.data is not None:
        return read_rows(client.data, columns_of(client.reward), subject)
    if client.rows is None:
        raise UnusableData(f"client {client.name!r} draws fresh problems without end; give 'rows'")
    draws, task = Draws(*label), task_of(client)
    problems = [row_of(task.problem(draws, client.difficulty, "train")) for _ in range(client.rows)]
    if subject is None:
        return problems
    each = client.rows_per_subject
    return [{**row, subject: f"{number // each}"} for number, row in enumerate(problems)]


def _subject(row: Row, client: Client) -> str:
    if client.subject is None:
        raise UnusableData(f"client {client.name!r} names no column 'subject'")
    return json.dumps(row[client.subject])  # 7 and "7" are two people


def _fresh_name(row: Row, taken: Mapping[str, object]) -> str:
    """A row's name by what it says, not where it stands; equal rows are numbered."""
    digest = hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[: 2 * NAME_BYTES]
    number = 0
    while f"{digest}-{number}" in taken:
        number += 1
    return f"{digest}-{number}"
