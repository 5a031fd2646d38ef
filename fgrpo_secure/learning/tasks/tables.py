"""Rows of Parquet files and of folders that the `datasets` library saved, each as the JSON text of a line.

So a row of a table is judged like a line of a file: by itself, in the same words. Needs pyarrow, the extra `data`.
Dates and decimals become texts; a column of bytes, an image or a sound, is refused by its name in the schema. Names and
types of columns, and their order, are the table's, not a row's: a field that a row leaves empty is left out of its
text, or the row would say which columns others have.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PARQUET, ARROW = ".parquet", ".arrow"
UNSAYABLE = b""  # a row with a text that is no UTF-8, a date beyond the calendar, a value of a type without a text
ROW_ERRORS = (ValueError, OverflowError, RecursionError)  # errors of texts and of Arrow's values are ValueErrors, too
STATE, SPLITS = "state.json", "dataset_dict.json"


class UnreadableTable(ValueError):
    """The table cannot be read; the sentence goes on from the file's name and quotes nothing from it."""


def is_table(path: Path) -> bool:
    """Whether `path` is read here rather than as lines of text."""
    return path.is_dir() or path.suffix in (PARQUET, ARROW)


def rows(path: Path) -> list[bytes]:
    """Each row of a Parquet or Arrow file or of a folder of them, in order; UNSAYABLE for one that no text can hold.

    Raises UnreadableTable for a file that cannot be read.
    """
    pyarrow = _pyarrow()
    try:
        return [row for part in _parts(path) for table in _read(part) for row in _texts(table)]
    except (OSError, pyarrow.ArrowException) as problem:
        raise UnreadableTable(f"cannot be read as a table: {type(problem).__name__}") from None


def _pyarrow() -> Any:
    try:
        import pyarrow  # type: ignore[import-untyped]  # pyarrow ships no types
    except ImportError:
        raise UnreadableTable("is a table, which needs pyarrow: install fgrpo-secure[data]") from None
    return pyarrow


def _parts(path: Path) -> list[Path]:
    """The files of a data set, in its own order."""
    if path.is_file():
        return [path]
    if (path / SPLITS).is_file():
        splits = sorted(entry.name for entry in path.iterdir() if (entry / STATE).is_file())
        raise UnreadableTable(f"holds several splits: name one of the folders in it, {', '.join(splits)}")
    if (path / STATE).is_file():
        try:
            listed = json.loads((path / STATE).read_bytes())["_data_files"]
            return [path / Path(each["filename"]).name for each in listed]
        except (ValueError, KeyError, TypeError):
            raise UnreadableTable(f"has a {STATE} that names no data files") from None
    found = sorted(entry for entry in path.iterdir() if entry.suffix == PARQUET)
    if not found:
        raise UnreadableTable("is a folder without Parquet files, and none that `datasets` saved")
    return found


def _read(part: Path) -> Iterator[Any]:
    """A file's tables. `datasets` writes streams, others write Arrow files."""
    import pyarrow
    from pyarrow import ipc, parquet

    if part.suffix == PARQUET:
        with parquet.ParquetFile(part) as file:
            _check_columns(file.schema_arrow)
            yield from file.iter_batches()
        return
    with pyarrow.memory_map(str(part)) as source:
        try:
            opened = ipc.open_stream(source)
        except pyarrow.ArrowInvalid:
            opened = ipc.open_file(source)
        _check_columns(opened.schema)
        yield opened.read_all()


def _check_columns(schema: Any) -> None:
    for column in schema:
        if "binary" in str(column.type):
            raise UnreadableTable(f"has a column {column.name!r} of bytes, which no row of text can hold: remove it")


def _texts(table: Any) -> list[bytes]:
    """All at once where that works; else row by row, so that a bad value spoils its own row and no other."""
    try:
        return [_text(row) for row in table.to_pylist()]
    except ROW_ERRORS:
        return [_text_of(table.slice(place, 1)) for place in range(table.num_rows)]


def _text_of(one: Any) -> bytes:
    try:
        (row,) = one.to_pylist()
        return _text(row)
    except ROW_ERRORS:
        return UNSAYABLE


def _text(row: dict[str, Any]) -> bytes:
    return json.dumps(_filled(row), default=_as_text, sort_keys=True).encode()


def _filled(value: Any) -> Any:
    """The value without empty fields."""
    if isinstance(value, dict):
        return {key: _filled(inner) for key, inner in value.items() if inner is not None}
    return [_filled(inner) for inner in value] if isinstance(value, list) else value


def _as_text(value: object) -> str:
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    if type(value).__module__ in ("decimal", "datetime"):
        return str(value)
    raise ValueError(f"a value of type {type(value).__name__}, which no text can hold")
