"""From a preset or a TOML file to a checked `Config`, and back to a commented file.

Every problem a user can cause here becomes one `ConfigError` sentence that names file, key and what is allowed.
"""

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import tomlkit
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fgrpo_secure.config import AdaptiveClip, Client, Config, Section
from fgrpo_secure.errors import UnusableInput

Tables = TypeVar("Tables", bound=Section)


class ConfigError(UnusableInput):
    """The configuration cannot be used; the message says where and what is allowed."""


def presets() -> list[str]:
    """Names of the configurations that ship with the package."""
    folder = resources.files("fgrpo_secure") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load(source: str, overrides: Iterable[str] = ()) -> Config:
    """The configuration in `source` (a preset's name or a path), with `section.key=value` overrides applied."""
    origin, text, folder = _read(source)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"{origin} is not valid TOML: {problem}") from None
    for override in overrides:
        _apply(table, override)
    _anchor_paths(table, folder)
    return parse(table, origin)


def parse(table: Mapping[str, Any], origin: str) -> Config:
    """`table` as a checked configuration; `origin` names it in errors."""
    return parse_as(Config, table, origin)


def parse_as(kind: type[Tables], table: Mapping[str, Any], origin: str) -> Tables:
    """`table` as the tables of `kind`, whose fields are sections; ConfigError names the first key that is wrong."""
    try:
        return kind.model_validate(table)
    except ValidationError as problems:
        errors = problems.errors()
        unknown = [error for error in errors if error["type"] == "extra_forbidden"]  # often a misspelt missing key
        raise ConfigError(_sentence((unknown or errors)[0], origin, kind)) from None


def dump(config: Config) -> str:
    """The effective configuration as TOML with a comment per key; `load` of it gives an equal `Config`."""
    return dump_tables(config, "The effective configuration of this run, defaults included.")


def dump_tables(tables: Section, *heading: str) -> str:
    """Sections as TOML: `heading` as comments first, then a table each, every key with what it means."""
    document = tomlkit.document()
    for line in heading:
        document.add(tomlkit.comment(line))
    for name in type(tables).model_fields:
        value = getattr(tables, name)
        if isinstance(value, tuple):
            array = tomlkit.aot()
            for entry in value:
                array.append(_table(entry))
            document.add(name, array)
        else:
            document.add(name, _table(value))
    return tomlkit.dumps(document)


def _read(source: str) -> tuple[str, str, Path | None]:
    if source in presets():
        packaged = resources.files("fgrpo_secure") / "presets" / f"{source}.toml"
        return f"preset {source}", packaged.read_text(), None
    path = Path(source)
    if not path.is_file():
        raise ConfigError(
            f"there is no configuration {source!r}; give a path to a TOML file or one of the presets "
            + ", ".join(presets())
        )
    try:
        return source, path.read_text(), path.resolve().parent
    except UnicodeDecodeError:
        raise ConfigError(f"{source} is not a UTF-8 text file") from None


def _apply(table: dict[str, Any], override: str) -> None:
    key, separator, raw = override.partition("=")
    parts = key.strip().split(".")
    if not separator or len(parts) < 2:
        raise ConfigError(f"--set {override!r} is not of the form section.key=value")
    target = _section(table, parts[:-1], override)
    try:
        target[parts[-1]] = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        target[parts[-1]] = raw.strip()  # a bare word is a string: --set run.name=mine


def _section(table: dict[str, Any], parts: list[str], override: str) -> dict[str, Any]:
    if parts[0] == "client":
        named = [entry for entry in table.get("client", []) if entry.get("name") == ".".join(parts[1:])]
        if not named:
            raise ConfigError(f"--set {override!r} names no client; write client.NAME.key=value")
        entry: dict[str, Any] = named[0]
        return entry
    for part in parts:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override!r}: {part!r} is not a section")
    return table


def _anchor_paths(table: dict[str, Any], folder: Path | None) -> None:
    """Relative files are meant relative to the configuration file that names them."""
    if folder is None:
        return
    clients = table.get("client", [])
    holders = [("model", "path"), ("adapter", "init_from"), ("evaluation", "data")]
    entries = [(entry, "data") for entry in clients if isinstance(entry, dict)] if isinstance(clients, list) else []
    entries += [(table[section], key) for section, key in holders if isinstance(table.get(section), dict)]
    for entry, key in entries:
        value = entry.get(key)
        if isinstance(value, str) and (folder / value).exists():
            entry[key] = str(folder / value)
    engine = table.get("engine")
    if isinstance(engine, dict) and isinstance(engine.get("owners"), str):  # made by the first run that names it
        engine["owners"] = str(folder / engine["owners"])


def _sentence(error: ErrorDetails, origin: str, kind: type[Section]) -> str:
    location = ".".join(str(part) for part in error["loc"])
    where = f"{origin}: {location}" if location else origin
    if error["type"] == "extra_forbidden":
        return f"{where} is not a known key; {_suggestion(error['loc'], kind)}"
    if error["type"] == "missing":
        return f"{where} is missing"
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(error["input"], dict | list | tuple | BaseModel) else f", not {error['input']!r}"
    return f"{where}: {message[:1].lower()}{message[1:]}{shown}"


def _suggestion(location: tuple[int | str, ...], kind: type[Section]) -> str:
    fields = _fields_at(location, kind)
    close = difflib.get_close_matches(str(location[-1]), fields, n=1)
    return f"did you mean {close[0]!r}?" if close else "allowed are " + ", ".join(fields)


def _fields_at(location: tuple[int | str, ...], kind: type[Section]) -> list[str]:
    if len(location) == 1:
        return list(kind.model_fields)
    if location[0] == "client":
        return list(Client.model_fields)
    if location[:2] == ("privacy", "adaptive_clip") and len(location) > 2:
        return list(AdaptiveClip.model_fields)
    section = kind.model_fields[str(location[0])].annotation
    if not (isinstance(section, type) and issubclass(section, Section)):
        raise TypeError(f"{location[0]} is not a section")
    return list(section.model_fields)


def _table(section: Section) -> tomlkit.items.Table:
    table = tomlkit.table()
    for key, value in section.model_dump(mode="json").items():
        note = type(section).model_fields[key].description or f"allowed: {_allowed(section, key)}"
        if value is None:
            table.add(tomlkit.comment(f"{key} is not set: {note}"))
            continue
        item = tomlkit.item(value) if not isinstance(getattr(section, key), Section) else _inline(value)
        item.comment(note)
        table.add(key, item)
    return table


def _inline(value: Mapping[str, Any]) -> tomlkit.items.InlineTable:
    """A table on one line: keys that follow it stay in the section."""
    table = tomlkit.inline_table()
    table.update(value)
    return table


def _allowed(section: Section, key: str) -> str:
    schema = type(section).model_json_schema()["properties"][key]
    options = schema.get("anyOf", [schema])
    return " or ".join(_describe(option) for option in options if option.get("type") != "null")


def _describe(option: Mapping[str, Any]) -> str:
    if "enum" in option:
        return ", ".join(json.dumps(choice) for choice in option["enum"])
    if "const" in option:
        return json.dumps(option["const"])
    words = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = " and ".join(f"{sign} {option[word]}" for word, sign in words.items() if word in option)
    return f"{option.get('type', 'value')} {bounds}".strip()
