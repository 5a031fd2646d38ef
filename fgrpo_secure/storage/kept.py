"""What another user of the machine must not reach, listed: an owner's files, and the code that its client runs.

Looked for wherever the client itself would look: through links, in folders of data, in packages. Nothing is imported
to find it. Of installed libraries only what lies directly in a folder that Python imports from is listed.
"""

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import fgrpo_secure
import protocols
from fgrpo_secure.config import anchors
from fgrpo_secure.errors import UnusableInput

MOST_ENTRIES = 20_000  # of one folder with all that is in it: it is walked at every connection
CACHE = "__pycache__"
CODE = (*importlib.machinery.all_suffixes(), ".pth")


class Kept(NamedTuple):
    """What another user of the machine must not reach: `secrets` neither to read nor to change, `code`, which this
    client runs, not to change."""

    secrets: tuple[Path, ...]
    code: tuple[Path, ...]


def below(top: Path, takes: Callable[[str], bool] = lambda _: True) -> list[Path]:
    """`top`, and if it is a folder all in it whose name `takes` likes, through links, each folder once.

    UnusableInput for more than can be looked at, or for a folder in which files could be opened and not listed.
    """
    found, seen = [top], set[tuple[int, int]]()
    for folder, folders, files in os.walk(top, followlinks=True, onerror=_unlisted):
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = filter(takes, folders)
        found += (Path(folder, name) for name in (*folders, *filter(takes, files)))
        if len(found) > MOST_ENTRIES:
            raise UnusableInput(
                f"{top} holds more than {MOST_ENTRIES:,} files that others must not reach, too many to look at; "
                "give data and rewards folders of their own"
            )
    return found


def code_of(spec: str) -> list[Path]:
    """The files that "module:function" makes Python read, the module being a file with its path or an installed one:
    what lies beside it may be imported by it, and counts."""
    module, separator, _ = spec.rpartition(":")
    top = module.partition(".")[0]
    if not separator or spec.endswith(")"):  # a built-in reward
        return []
    if module.endswith(".py"):
        try:
            return [Path(module), *below(anchors.import_root(Path(module))[0], _is_code)]
        except (OSError, RuntimeError) as problem:  # RuntimeError: links in a circle
            raise UnusableInput(f"{module} cannot be looked at: {problem}") from None
    try:
        found = importlib.util.find_spec(top) if top.isidentifier() else None  # of a package's part it would import it
    except (ImportError, ValueError):
        found = None
    if found is None:
        return []
    files = [Path(found.origin)] if found.origin and found.has_location else []
    return [
        *files,
        *(each for place in found.submodule_search_locations or () for each in below(Path(place), _is_code)),
    ]


def imported() -> list[Path]:
    """Whatever decides what this client runs besides: the interpreter, this package, and folders of installed ones."""
    ours = [
        each for package in (fgrpo_secure, protocols) for each in below(Path(str(package.__file__)).parent, _is_code)
    ]
    caches = [Path(sys.pycache_prefix)] if sys.pycache_prefix else []
    places = [Path(entry) for entry in sys.path]
    return [*ours, Path(sys.executable), Path(sys.prefix, "pyvenv.cfg"), *caches, *_directly_in(places)]


def _directly_in(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        for folder in (place, place / CACHE):
            yield folder
            try:
                names = os.listdir(folder)
            except OSError:  # an archive, a name that only an import hook knows, or not there
                continue
            yield from (folder / name for name in names if name.endswith(CODE))
            yield from (folder / name for name in names if (folder / name / "__init__.py").is_file())


def _is_code(name: str) -> bool:
    """Of a file, or of a folder: whether Python may import it by this name."""
    return name.isidentifier() or name == CACHE or name.endswith(CODE)


def _unlisted(problem: OSError) -> None:
    if isinstance(problem, FileNotFoundError | NotADirectoryError):
        return
    if isinstance(problem, PermissionError) and not os.access(problem.filename, os.X_OK):
        return  # this client cannot open what is in it either
    raise UnusableInput(f"{problem.filename} cannot be listed: {problem.strerror}")
