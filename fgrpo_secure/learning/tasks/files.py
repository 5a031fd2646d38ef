"""Reading prompts from a JSON Lines file, a Parquet file or a saved data set: rows with at least a `prompt`.

A prompt is a string or a list of messages. Whatever else a row holds becomes a column that rewards receive. Errors name
the file, the line and what is allowed; they never quote the line: it may be somebody's record.

A line is decoded, parsed and checked by itself (`Line.row`), so that a file can be cut into units before any of its
lines is held against another. `read_rows` is for those who own the whole file: there every line must be usable.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.learning.tasks import tables
from fgrpo_secure.learning.tasks.tables import UnreadableTable

Row = dict[str, Any]
TAKEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_metric", "log_extra")
NEEDED = 'line must be a JSON object with a "prompt" string'
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LONGEST = 4 << 20  # bytes of a line: each completion's reward is called with a copy of its row


class UnusableData(UnusableInput):
    """The data cannot be used; the sentence names the file and line, and quotes nothing from it."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file that is not blank, undecoded, or one row of a table; `number` counts from 1."""

    path: str
    number: int
    data: bytes = field(repr=False)
    called: str = "line"

    def row(self, needs: Iterable[str] = (), subject: str | None = None) -> Row:
        """What the line says, judged by nothing but itself. Raises UnusableData.

        `needs` are columns without which the client's reward cannot work, as text. `subject` is the column that says
        whom a row is about: a text that is not empty, or an integer.
        """
        where = f"{self.path}, {self.called} {self.number}"
        row = self._object(where)
        problem = _of_prompt(row)
        if problem:
            raise UnusableData(f"{where} {problem}")
        for column in needs:
            if not isinstance(row.get(column), str):
                raise UnusableData(f'{where} lacks the string "{column}" that the chosen reward compares with')
        if subject is not None and not _names_somebody(row.get(subject)):
            raise UnusableData(
                f'{where} lacks the subject column "{subject}"; it must be a non-empty string or an integer'
            )
        for column in TAKEN:
            if column in row:
                raise UnusableData(f'{where} has a field "{column}"; training passes that name to rewards itself')
        return row

    def _object(self, where: str) -> Row:
        if self.data == tables.UNSAYABLE:  # never of a file's lines: those are not blank
            raise UnusableData(f"{where} holds a value that no text can hold")
        # Before it is read: what one row needs of time and memory must not cost all others their round.
        if len(self.data) > LONGEST:
            raise UnusableData(f"{where} has {len(self.data):,} bytes; at most {LONGEST:,} are read")
        try:
            row = json.loads(self.data.decode(), parse_constant=_refuse_constant)
        except UnicodeDecodeError:
            raise UnusableData(f"{where} is not UTF-8 text") from None
        except (ValueError, RecursionError):
            raise UnusableData(f"{where} is not JSON; each line must be one JSON object") from None
        if not isinstance(row, dict):
            raise UnusableData(f"{where} is JSON but not an object; each line must be one JSON object")
        return row


def read_rows(path: str, needs: Iterable[str] = ()) -> list[Row]:
    """Every row of the file, all with the same columns (null where a line lacks one), in the file's order.

    Blank lines are skipped. Raises UnusableData at the first line that cannot be used.
    """
    required = tuple(needs)
    rows = [line.row(required) for line in lines(path)]
    if not rows:
        raise UnusableData(f"{path} has no rows; each {NEEDED}")
    return with_columns(rows, dict.fromkeys(column for row in rows for column in row))


def with_columns(rows: Iterable[Row], columns: Iterable[str]) -> list[Row]:
    """The same rows with these columns, null where one lacks them. Columns of two units must not meet here."""
    named = tuple(columns)
    return [{column: row.get(column) for column in named} for row in rows]


def lines(path: str) -> list[Line]:
    """The lines of a file that are not blank. Nothing is decoded here: a bad byte spoils its own line and no other.

    Rows of a table are lines, too: the JSON text of each.
    """
    file = Path(path)
    if not file.exists():
        raise UnusableData(
            f"there is no data file {path}; give the path of a JSON Lines file, a Parquet file or a saved data set"
        )
    if tables.is_table(file):
        try:
            return [Line(path, number, row, "row") for number, row in enumerate(tables.rows(file), start=1)]
        except UnreadableTable as problem:
            raise UnusableData(f"{path} {problem}") from None
    try:
        data = file.read_bytes()
    except OSError as problem:
        raise UnusableData(f"{path} cannot be read: {problem.strerror}") from None
    split = enumerate(data.removeprefix(BYTE_ORDER_MARK).split(b"\n"), start=1)
    return [Line(path, number, line) for number, line in split if line.strip()]


def _of_prompt(row: Row) -> str:
    """What is wrong with a row's prompt, if anything: a string, or messages with a role and a content each."""
    if "prompt" not in row:
        return 'has no "prompt"; it must be a non-empty string, or a list of messages'
    prompt = row["prompt"]
    if not isinstance(prompt, str | list) or not prompt:
        return 'has a "prompt" that is no text or empty; it must be a non-empty string, or a list of messages'
    texts = [] if isinstance(prompt, str) else prompt
    if not all(isinstance(each, dict) and _is_message(each) for each in texts):
        return 'has a "prompt" whose messages are not all objects with a text "role" and a text "content"'
    return ""


def _is_message(said: Mapping[str, object]) -> bool:
    return isinstance(said.get("role"), str) and isinstance(said.get("content"), str)


def _names_somebody(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")
