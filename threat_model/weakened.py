"""A copy of the project with named checks removed, made while modules are imported.

The weakened text exists in memory of one process alone: nothing on disk changes, and a weakening whose text is gone
or stands twice is an error, so that a change of the code cannot turn an attack into one that attacks nothing.
"""

import difflib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

from threat_model.attack import Weakening


class CannotWeaken(Exception):
    """A weakening does not fit the source. The sentence says which and why."""


def weaken(source: str, weakenings: Sequence[Weakening]) -> str:
    """The source without the checks. Raises CannotWeaken unless each text stands exactly once."""
    for weakening in weakenings:
        found = source.count(weakening.line)
        if found != 1:
            raise CannotWeaken(
                f"the weakening of {weakening.module} ({weakening.check}) needs its text once in the source and "
                f"finds it {found} times: {weakening.line.strip()!r}"
            )
        source = source.replace(weakening.line, weakening.instead)
    return source


def source_of(module: str) -> str:
    """The text of a module, which is not imported. Raises CannotWeaken if there is none."""
    spec = importlib.util.find_spec(module)
    if spec is None or not isinstance(spec.loader, SourceFileLoader):
        raise CannotWeaken(f"there is no source of a module {module} to weaken")
    return spec.loader.get_source(module) or ""


def diff(weakenings: Sequence[Weakening]) -> str:
    """How the weakened copy differs from ours, as a unified diff. Raises CannotWeaken."""
    changes = []
    for module in dict.fromkeys(weakening.module for weakening in weakenings):
        ours = source_of(module)
        copy = weaken(ours, [weakening for weakening in weakenings if weakening.module == module])
        name = module.replace(".", "/") + ".py"
        lines = difflib.unified_diff(
            ours.splitlines(), copy.splitlines(), f"ours/{name}", f"weakened/{name}", lineterm=""
        )
        changes.append("\n".join(lines))
    return "\n".join(changes)


class _WeakenedLoader(SourceFileLoader):
    """Compiles a weakened text where the source would have been compiled, and keeps no compiled file."""

    def __init__(self, module: str, path: str, weakenings: Sequence[Weakening]) -> None:
        super().__init__(module, path)
        self._weakenings = weakenings

    def get_code(self, fullname: str) -> CodeType | None:
        text = weaken(self.get_source(fullname) or "", self._weakenings)
        return compile(text, f"{self.path} (weakened)", "exec", dont_inherit=True)


class Finder(MetaPathFinder):
    """Finds the modules that are to be weakened before anything else does."""

    def __init__(self, weakenings: Sequence[Weakening]) -> None:
        self._weakenings = tuple(weakenings)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See MetaPathFinder."""
        mine = [weakening for weakening in self._weakenings if weakening.module == fullname]
        spec = PathFinder.find_spec(fullname, path, target) if mine else None
        if spec is None or spec.origin is None:
            return None
        loader = _WeakenedLoader(fullname, spec.origin, mine)
        return importlib.util.spec_from_file_location(
            fullname, spec.origin, loader=loader, submodule_search_locations=spec.submodule_search_locations
        )

    def install(self) -> None:
        """Weakens every later import of this process. CannotWeaken if a module is already there unweakened."""
        for weakening in self._weakenings:
            if weakening.module in sys.modules:
                raise CannotWeaken(f"{weakening.module} was imported before it could be weakened")
        sys.meta_path.insert(0, self)

    def check_used(self) -> None:
        """CannotWeaken if the attack never imported what was weakened, so that nothing was."""
        for weakening in self._weakenings:
            if weakening.module not in sys.modules:
                raise CannotWeaken(f"the attack never used {weakening.module}, which was weakened for it")
