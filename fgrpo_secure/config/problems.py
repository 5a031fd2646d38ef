"""From what the schema refuses to one sentence: where it is written, which key, what is allowed, what stood there.

Nothing of the library that checks is shown: no class, no pattern, no number of a hundred digits.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic_core import ErrorDetails

from fgrpo_secure.config import reference
from fgrpo_secure.config.section import LONGEST_TEXT, UNUSABLE_TEXT, Section

Location = tuple[int | str, ...]
SHOWN = 40  # characters of a value
NAME = re.compile(r"[\w.-]{1,64}\Z")
TABLES = ("faults",)  # keys whose value is a table with keys of its own
HEADER = re.compile(r"^\s*(\[\[?)\s*([A-Za-z0-9_-]+(?:\s*\.\s*[A-Za-z0-9_-]+)*)\s*\]\]?\s*(?:#.*)?$")
ENTRY = re.compile(r"^\s*([A-Za-z0-9_-]+(?:\s*\.\s*[A-Za-z0-9_-]+)*)\s*=")


@dataclass(frozen=True, slots=True)
class Origin:
    """What was read: `name` of the file or preset, its `text`, and the keys that --set gave instead."""

    name: str
    text: str = ""
    overridden: frozenset[str] = frozenset()

    def at(self, location: Location, dotted: str) -> str:
        """The file, and the line or option where `location` is written, as far as it is."""
        if any(dotted == key or dotted.startswith(f"{key}.") for key in self.overridden):
            return f"{self.name}, --set"
        line = _line(self.text, location)
        return self.name if line is None else f"{self.name}, line {line}"


def sentence(errors: list[ErrorDetails], table: Mapping[str, Any], origin: Origin, kind: type[Section]) -> str:
    """The first thing that is wrong; an unknown key before all others: it is often a missing one, misspelt."""
    unknown = [error for error in errors if error["type"] == "extra_forbidden"]
    error = (unknown or errors)[0]
    location = _written(error["loc"], kind)
    dotted = _dotted(location, table)
    where = origin.at(location, dotted)
    said = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{where}: {dotted} is not a known key; {_suggestion(location, kind)}"
    if error["type"] == "missing":
        return f"{where}: {dotted} is missing; it must be {_allowed(location, kind)}"
    if error["type"] == UNUSABLE_TEXT:
        return f"{where}: {dotted} {said}; it must be a text of 1 to {LONGEST_TEXT:,} characters"
    if error["type"] != "value_error":
        return (
            f"{where}: {_key(dotted, location, kind)} must be {_allowed(location, kind)}, not {shown(error['input'])}"
        )
    own = not location or said.startswith(("client ", f"{location[0]}."))  # a rule that names its keys itself
    return f"{where}: {said}" if own else f"{where}: {dotted}: {said}"


def shown(value: object) -> str:
    """A value as its author would know it again, in a few characters."""
    if isinstance(value, dict | Section):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    if hasattr(value, "isoformat"):
        return f"the date or time {value.isoformat()}"
    text = json.dumps(value) if isinstance(value, bool) else repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]}... ({len(text)} characters)"


def _written(location: Location, kind: type[Section]) -> Location:
    """Without what the library adds behind a key: which of several types it tried, or that a table's key is meant."""
    for end in range(1, len(location) + 1):
        holder, key = _holder(location[:end], kind)
        if key is not None and location[end - 1] == key and key in holder.model_fields and _inner(holder, key) is None:
            behind = [part for part in location[end:] if part != "[key]"]
            return (*location[:end], *(behind[:1] if key in TABLES else ()))
    return location


def _key(dotted: str, location: Location, kind: type[Section]) -> str:
    return f"[{dotted}]" if len(location) == 1 and _section_at(location, kind) is not None else dotted


def _dotted(location: Location, table: Mapping[str, Any]) -> str:
    """The key as --set writes it: a client by its name where it has one."""
    parts = [str(part) for part in location]
    if len(location) > 1 and location[0] == "client" and isinstance(location[1], int):
        entry = table["client"][location[1]]
        name = entry.get("name") if isinstance(entry, dict) else None
        parts[1] = name if isinstance(name, str) and NAME.match(name) else f"number {location[1] + 1}"
    return ".".join(parts)


def _allowed(location: Location, kind: type[Section]) -> str:
    holder, key = _holder(location, kind)
    if key is None:
        return "a table"
    if (holder, key) == (kind, "client"):
        return "given, as [[client]] tables: one for each kind of owner"
    inner = _section_at(location[: location.index(key) + 1], kind)
    return "a table" if inner is not None else reference.allowed(holder, key)


def _holder(location: Location, kind: type[Section]) -> tuple[type[Section], str | None]:
    """The innermost table on the way to `location`, and the key in it; None where the location is that table."""
    holder, key = kind, None
    for part in location:
        if isinstance(part, int):
            continue
        if key is not None:
            inner = _inner(holder, key)
            if inner is None:
                return holder, key
            holder = inner
        key = part
    return holder, (None if key is not None and isinstance(location[-1], int) and _inner(holder, key) else key)


def _section_at(location: Location, kind: type[Section]) -> type[Section] | None:
    holder, key = _holder(location, kind)
    return holder if key is None else _inner(holder, key)


def _inner(holder: type[Section], key: str) -> type[Section] | None:
    """The kind of table that a key holds, by itself, in a list, or beside None."""
    field = holder.model_fields.get(key)
    if field is None:
        return None
    return next((each for each in _types(field.annotation) if issubclass(each, Section)), None)


def _types(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for part in get_args(annotation):
        yield from _types(part)


def _suggestion(location: Location, kind: type[Section]) -> str:
    fields = list(_holder(location, kind)[0].model_fields)
    close = difflib.get_close_matches(str(location[-1]), fields, n=1)
    return f"did you mean {close[0]!r}?" if close else "allowed are " + ", ".join(fields)


def _line(text: str, location: Location) -> int | None:
    """The line that writes `location`, or the innermost table around it that is written; None if none is."""
    best, depth = None, 0
    for number, path in _paths(text):
        if path == location[: len(path)] and len(path) > depth:
            best, depth = number, len(path)
    return best


def _paths(text: str) -> Iterable[tuple[int, Location]]:
    """What each line of a file writes. A line inside a text of several lines may be taken for one; no harm is done."""
    table: Location = ()
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := HEADER.match(line):
            table = _parts(header[2])
            if header[1] == "[[":
                seen[header[2]] = seen.get(header[2], -1) + 1
                table = (*table, seen[header[2]])
            yield number, table
        elif entry := ENTRY.match(line):
            yield number, (*table, *_parts(entry[1]))


def _parts(dotted: str) -> Location:
    return tuple(part.strip() for part in dotted.split("."))
