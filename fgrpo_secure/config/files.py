"""From a preset or a TOML file to a checked `Config`, and back to a commented file.

Every problem a user can cause here becomes one `ConfigError` sentence that names file, key and what is allowed.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import tomlkit
from pydantic import ValidationError

from fgrpo_secure.config import anchors, reference
from fgrpo_secure.config.problems import Origin, sentence, shown
from fgrpo_secure.config.schema import Config, Section
from fgrpo_secure.errors import UnusableInput

Tables = TypeVar("Tables", bound=Section)


TWICE = re.compile("Cannot (overwrite|declare|redefine|mutate)|already")  # what the reader of TOML says of it
# What a file gives and --set gives in another way: a budget or the noise, of which only one can be given.
PROJECT = "fgrpo.toml"  # what `fgrpo init` writes
INSTEAD_OF = {"privacy.noise_multiplier": ("epsilon",), "privacy.epsilon": ("noise_multiplier",)}


class ConfigError(UnusableInput):
    """The configuration cannot be used; the message says where and what is allowed."""


def presets() -> list[str]:
    """Names of the configurations that ship with the package."""
    folder = resources.files("fgrpo_secure.config") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def default() -> str:
    """What is meant where no configuration is named: that of a project in the working folder, else the quickstart."""
    return PROJECT if Path(PROJECT).is_file() else "quickstart"


def load(source: str, overrides: Iterable[str] = ()) -> Config:
    """The configuration in `source` (a preset's name or a path), with `section.key=value` overrides applied."""
    origin, text, folder = _read(source)
    table = _tables(text, origin)
    given = frozenset(_apply(table, override) for override in overrides)
    _anchor_paths(table, folder)
    return parse_as(Config, table, origin, text, given)


def parse_text(text: str, origin: str) -> Config:
    """A whole configuration from its text alone: paths in it are left as they are."""
    return parse_as(Config, _tables(text, origin), origin, text)


def _tables(text: str, origin: str) -> dict[str, Any]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(_no_toml(str(problem), origin)) from None
    except (ValueError, RecursionError):  # what the reader does not take, though TOML may
        raise ConfigError(f"{origin} holds a number of too many digits, or lists too deep") from None
    if isinstance(table.get("client"), dict):
        line = next((at for at, name in enumerate(text.splitlines(), start=1) if name.strip() == "[client]"), 1)
        raise ConfigError(
            f"{origin}, line {line}: client is one table; write [[client]] in double brackets, once per kind of owner"
        )
    return table


def parse(table: Mapping[str, Any], origin: str) -> Config:
    """`table` as a checked configuration; `origin` names it in errors."""
    return parse_as(Config, table, origin)


def parse_as(
    kind: type[Tables], table: Mapping[str, Any], origin: str, text: str = "", overridden: frozenset[str] = frozenset()
) -> Tables:
    """`table` as the tables of `kind`, whose fields are sections; ConfigError names the first key that is wrong.

    With the `text` that it was read from, the line is named too; `overridden` are keys that are not from there.
    """
    try:
        return kind.model_validate(table)
    except ValidationError as problems:
        raise ConfigError(sentence(problems.errors(), table, Origin(origin, text, overridden), kind)) from None


def _no_toml(said: str, origin: str) -> str:
    found = re.search(r"\(at line (\d+), column (\d+)\)", said)
    where = f"{origin}, line {found[1]}, column {found[2]}" if found else origin
    reason = "a key or a table is written twice" if TWICE.search(said) else said.partition(" (at")[0]
    return f"{where} is not valid TOML: {reason[:1].lower()}{reason[1:]}"


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
        if not isinstance(value, Section | tuple):
            _put(document, tables, name, value)
        elif isinstance(value, tuple):
            array = tomlkit.aot()
            for entry in value:
                array.append(_table(entry))
            document.add(name, array)
        else:
            document.add(name, _table(value))
    return tomlkit.dumps(document)


def _read(source: str) -> tuple[str, str, Path]:
    """What to call the configuration in errors, its text, and the folder that its relative paths are meant from."""
    if source in presets():
        packaged = resources.files("fgrpo_secure.config") / "presets" / f"{source}.toml"
        return f"preset {source}", packaged.read_text(), Path.cwd()  # what --set names is meant from here
    path = Path(source)
    if not anchors.exists(path) or not path.is_file():
        raise ConfigError(
            f"there is no configuration {shown(source)}; give a path to a TOML file or one of the presets "
            + ", ".join(presets())
        )
    try:
        return source, path.read_text("utf-8-sig"), path.resolve().parent  # some editors begin a file with a mark
    except UnicodeDecodeError:
        raise ConfigError(f"{source} is not a UTF-8 text file") from None
    except OSError as problem:
        raise ConfigError(f"{source} cannot be read: {problem.strerror}") from None


def _apply(table: dict[str, Any], override: str) -> str:
    """Puts one setting into the table. Returns its key."""
    key, separator, raw = override.partition("=")
    parts = key.strip().split(".")
    if not separator or len(parts) < 2:
        raise ConfigError(f"--set {shown(override)} is not of the form section.key=value")
    target = _section(table, parts[:-1], override)
    for other in INSTEAD_OF.get(".".join(parts), ()):
        target.pop(other, None)
    try:
        target[parts[-1]] = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        target[parts[-1]] = raw.strip()  # a bare word is a string: --set run.name=mine
    except (ValueError, RecursionError):
        raise ConfigError(f"--set {shown(override)} holds a number of too many digits, or lists too deep") from None
    return ".".join(parts)


def _section(table: dict[str, Any], parts: list[str], override: str) -> dict[str, Any]:
    if parts[0] == "client":
        entries = table.get("client")
        listed = entries if isinstance(entries, list) else []
        named = [each for each in listed if isinstance(each, dict) and each.get("name") == ".".join(parts[1:])]
        if not named:
            raise ConfigError(f"--set {override!r} names no client; write client.NAME.key=value")
        entry: dict[str, Any] = named[0]
        return entry
    for part in parts:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override!r}: {part!r} is not a section")
    return table


def _anchor_paths(table: dict[str, Any], folder: Path) -> None:
    """Relative files are meant relative to the configuration file that names them, modules with rewards too.

    They become absolute here, once: workers, and a run that is resumed from elsewhere, read the effective file.
    """
    clients = table.get("client", [])
    entries = clients if isinstance(clients, list) else []
    holders: list[tuple[dict[str, Any], tuple[str, ...]]]
    holders = [(entry, ("data", "reward", "trainer")) for entry in entries if isinstance(entry, dict)]
    named = [("model", ("path",)), ("adapter", ("init_from",)), ("evaluation", ("data", "reward"))]
    holders += [(table[name], keys) for name, keys in named if isinstance(table.get(name), dict)]
    for entry, keys in holders:
        anchors.anchor(entry, folder, *keys)
    engine = table.get("engine")
    if isinstance(engine, dict) and isinstance(engine.get("owners"), str):  # made by the first run that names it
        engine["owners"] = str(folder / engine["owners"])


def _table(section: Section) -> tomlkit.items.Table:
    table = tomlkit.table()
    for key, value in section.model_dump(mode="json").items():
        _put(table, section, key, value)
    return table


def _put(table: tomlkit.items.Table | tomlkit.TOMLDocument, section: Section, key: str, value: Any) -> None:
    """One key with what it means."""
    note = type(section).model_fields[key].description or f"allowed: {reference.allowed(type(section), key)}"
    if value is None:
        table.add(tomlkit.comment(f"{key} is not set: {note}"))
        return
    item = tomlkit.item(value) if not isinstance(getattr(section, key), Section) else _inline(value)
    item.comment(note)
    table.add(key, item)


def _inline(value: Mapping[str, Any]) -> tomlkit.items.InlineTable:
    """A table on one line: keys that follow it stay in the section."""
    table = tomlkit.inline_table()
    table.update(value)
    return table
