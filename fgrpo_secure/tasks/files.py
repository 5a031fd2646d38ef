"""Reading prompts from a JSON Lines file: one object per line, with at least a `prompt` string.

Whatever else a line holds becomes a column that rewards receive. Errors name the file, the line and what is
allowed; they never quote the line: it may be somebody's record.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from fgrpo_secure.errors import UnusableInput

Row = dict[str, Any]
TAKEN = ("prompts", "completions", "completion_ids")


class UnusableData(UnusableInput):
    """The data cannot be used; the sentence names the file and line, and quotes nothing from it."""


def read_rows(path: str, needs: Iterable[str] = (), subject: str | None = None) -> list[Row]:
    """Every row of the file, all with the same columns (null where a line lacks one), in the file's order.

    `needs` are columns without which the client's reward cannot work: each line must have them, as text.
    `subject` is the column that says whom a row is about: a text that is not empty, or an integer.
    Blank lines are skipped. Raises UnusableData.
    """
    required = tuple(needs)
    rows = [_row(text, path, number, required, subject) for number, text in _lines(path)]
    if not rows:
        raise UnusableData(f'{path} has no rows; each line must be a JSON object with a "prompt" string')
    columns = dict.fromkeys(column for row in rows for column in row)
    return [{column: row.get(column) for column in columns} for row in rows]


def _lines(path: str) -> Iterator[tuple[int, str]]:
    file = Path(path)
    if not file.is_file():
        raise UnusableData(f"there is no data file {path}; give the path of a JSON Lines file")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UnusableData(f"{path} is not a UTF-8 text file") from None
    except OSError as problem:
        raise UnusableData(f"{path} cannot be read: {problem.strerror}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def _row(text: str, path: str, number: int, required: tuple[str, ...], subject: str | None) -> Row:
    where = f"{path}, line {number}"
    try:
        row = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise UnusableData(f"{where} is not JSON; each line must be one JSON object") from None
    if not isinstance(row, dict):
        raise UnusableData(f"{where} is JSON but not an object; each line must be one JSON object")
    if not isinstance(row.get("prompt"), str) or not row["prompt"]:
        problem = 'has no "prompt"' if "prompt" not in row else 'has a "prompt" that is no text or empty'
        raise UnusableData(f"{where} {problem}; it must be a non-empty string")
    for column in required:
        if not isinstance(row.get(column), str):
            raise UnusableData(f'{where} lacks the string "{column}" that the chosen reward compares with')
    if subject is not None and not _names_somebody(row.get(subject)):
        raise UnusableData(f'{where} lacks the subject column "{subject}"; it must be a non-empty string or an integer')
    for column in TAKEN:
        if column in row:
            raise UnusableData(f'{where} has a field "{column}"; training passes that name to rewards itself')
    return row


def _names_somebody(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")
