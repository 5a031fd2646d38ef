"""Where the files lie that a configuration, or an owner's own file, names.

The one place that says so: who reads such a file and who asks which other users could change it must mean the same.
Imports no library, so that an idle client stays small.
"""

from pathlib import Path
from typing import Any


def exists(path: Path) -> bool:
    """Also of names that no file can have: too long, or with a zero byte."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def anchor(entry: dict[str, Any], folder: Path, path: str, *functions: str) -> None:
    """Make what `entry` says under the key `path`, and under those of functions, absolute, where it is a file in
    `folder`; a function's relative file ("reward.py:f") everywhere."""
    value = entry.get(path)
    if isinstance(value, str) and exists(folder / value):
        entry[path] = str(folder / value)
    for key in functions:
        specs = entry.get(key)
        if isinstance(specs, str):
            entry[key] = _anchored_function(specs, folder)
        elif isinstance(specs, list):
            entry[key] = [_anchored_function(each, folder) if isinstance(each, str) else each for each in specs]


def anchor_own(data: dict[str, Any], file: Path) -> None:
    """The same for the table `data` of an owner's own `file`, and its rows wherever they are.

    **Why** also where nothing is there: a path that stayed relative would be read from the working folder of whoever
    starts the client, which others may be able to write.
    """
    folder = file.resolve().parent
    anchor(data, folder, "data", "reward", "trainer")
    if isinstance(rows := data.get("data"), str):
        data["data"] = str(folder / rows)


def import_root(file: Path) -> tuple[Path, tuple[str, ...]]:
    """(folder from which a module's file is imported, the names of the module from there); links resolved."""
    file = file.resolve()
    root, names = file.parent, () if file.stem == "__init__" else (file.stem,)
    while exists(root / "__init__.py"):
        root, names = root.parent, (root.name, *names)
    return root, names


def _anchored_function(spec: str, folder: Path) -> str:
    """A "module:function" as "/folder/module.py:function" where that file exists; else the module is installed.

    A file is named, and no folder put on the import path: there, protocols.py of an owner would hide ours.
    """
    module, separator, name = spec.rpartition(":")
    inside = folder / (module if module.endswith(".py") else module.replace(".", "/"))
    for file in (inside, inside.with_name(f"{inside.name}.py"), inside / "__init__.py"):
        if separator and module and file.suffix == ".py" and exists(file) and file.is_file():
            return f"{file}:{name}"
    # A file's name is never looked for anywhere else. "format(a.py:b)" is a built-in reward and names no file.
    return f"{inside}:{name}" if module.endswith(".py") and not spec.endswith(")") else spec
