"""One call of a reward function: the function's own code, and what it may return.

A reward may raise anything, also while what it returned is iterated or turned into numbers, and also what is no
`Exception` (`sys.exit`). All of it becomes a `RewardError` whose sentence names the type, the place in the owner's
own file and the arguments by name, and quotes nothing that an exception says: that may be somebody's record.

Imports no numerical library: it runs in the small process that `reward_worker` is, too.
"""

import asyncio
import hashlib
import importlib
import inspect
import math
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from fgrpo_secure.config.anchors import import_root
from fgrpo_secure.errors import UnusableInput

RewardFunction = Callable[..., Sequence[float | None]]
STATE, LOGS = "trainer_state", ("log_metric", "log_extra")  # what TRL passes besides the data's columns
NOT_OWNERS = (__file__, importlib.__file__, "<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")


class RewardError(UnusableInput):
    """A reward function cannot be found, failed, or returned something that is no list of rewards."""


def load(spec: str, called: str = "reward") -> RewardFunction:
    """The function that "module:function" names; the module is an installed one, or the path of a file that ends with
    ".py". Raises RewardError, which calls it a reward or whatever it is.
    """
    module_name, separator, name = spec.rpartition(":")
    if not separator or not module_name or not name or module_name.startswith("."):
        raise RewardError(f"{called} {spec!r} is not of the form module:function")
    try:
        module = _imported(module_name)
    except ImportError as problem:
        raise RewardError(
            f"{called} {spec!r}: module {module_name!r} cannot be imported: {problem}; put its file beside the "
            "configuration, or install it"
        ) from None
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # noqa: BLE001 - an owner's module may raise anything while it is imported
        reason = f"{type(problem).__name__}{place(problem)}"
        raise RewardError(f"{called} {spec!r}: module {module_name!r} raised {reason}") from None
    if not hasattr(module, name):
        raise RewardError(f"{called} {spec!r}: module {module_name!r} has no {name!r}")
    function = getattr(module, name)
    if not callable(function):
        raise RewardError(f"{called} {spec!r} is not callable")
    resolved: RewardFunction = function
    return resolved


def _imported(module: str) -> ModuleType:
    """The module, imported. A file is imported as a part of a package that holds its folder: under a name that nothing
    else has, so that an owner's protocols.py neither hides ours nor is hidden by it.

    Its folder comes last on the import path, so that it may import what lies beside it.
    """
    if not module.endswith(".py"):
        return importlib.import_module(module)
    root, names = import_root(Path(module))
    if str(root) not in sys.path:
        sys.path.append(str(root))
    package = ModuleType(f"owners_{hashlib.sha256(os.fsencode(root)).hexdigest()}")
    package.__path__ = [str(root)]
    sys.modules[package.__name__] = package
    return importlib.import_module(".".join([package.__name__, *names]))


def call(function: RewardFunction, arguments: Mapping[str, Any], count: int) -> list[float | None]:
    """The function's `count` rewards; None where it gave none that is finite. Raises RewardError and nothing else.

    A column that the function asks for by name and that these rows lack is passed as None throughout: whether other
    rows have it must not matter here. A function without `**kwargs` gets the arguments that it names. An async function
    is waited for.
    """
    name = getattr(function, "__name__", type(function).__name__)
    try:
        given = _given(function, arguments, count)
        returned = function(**given)
        if inspect.isawaitable(returned):
            returned = asyncio.run(_finished(returned))
        listed = _listed(returned, name)
        if len(listed) != count:
            raise RewardError(f"{name} returned {len(listed)} rewards for {count} completions")
        return [None if value is None else _number(value, name) for value in listed]
    except (RewardError, KeyboardInterrupt):
        raise
    except BaseException as problem:  # noqa: BLE001 - an owner's function may raise anything, and none of it may show
        columns = [argument for argument in arguments if argument != STATE]
        called = ", ".join(argument if argument.isidentifier() else ascii(argument) for argument in columns)
        reason = f"{name} raised {type(problem).__name__}{place(problem)}; it was called with {called}"
        raise RewardError(reason) from None


def _given(function: RewardFunction, arguments: Mapping[str, Any], count: int) -> dict[str, Any]:
    """What the function is called with: `trainer_state` as an object with attributes, as TRL has it.

    `log_metric` and `log_extra` are taken and not kept: what a reward notes about an owner's rows has no place in a
    round, whose process ends with the call.
    """
    state = SimpleNamespace(**arguments.get(STATE, {}))
    said = {**arguments, STATE: state, **dict.fromkeys(LOGS, _not_kept)}
    known = {**said, **{missing: [None] * count for missing in asked(function) if missing not in said}}
    taken = _taken(function)
    return known if taken is None else {name: value for name, value in known.items() if name in taken}


def _taken(function: RewardFunction) -> set[str] | None:
    """The names of a function's arguments; None if it takes any keyword, or does not tell."""
    try:
        parameters = inspect.signature(function).parameters
    except (ValueError, TypeError):
        return None
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return None
    return set(parameters)


async def _finished(returned: Awaitable[Any]) -> Any:
    return await returned


def _not_kept(*_: object, **__: object) -> None:
    """Where a round's metrics of a reward go."""


def asked(function: RewardFunction) -> list[str]:
    """The arguments that a function cannot be called without, by name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # some callables written in C tell nothing
        return []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [each.name for each in parameters if each.kind in named and each.default is inspect.Parameter.empty]


def place(problem: BaseException) -> str:
    """Where in the owner's code: file and line, nothing of what the exception says, which may quote the data."""
    if isinstance(problem, SyntaxError) and problem.filename:
        return f" in {Path(problem.filename).name}, line {problem.lineno}"
    frames = [frame for frame in traceback.extract_tb(problem.__traceback__) if frame.filename not in NOT_OWNERS]
    return f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""


def _listed(returned: object, name: str) -> list[object]:
    """What was returned as a list; it may be a generator, whose code runs only now."""
    try:
        items = iter(returned)  # type: ignore[call-overload]  # whatever cannot be iterated is refused here
    except TypeError:
        raise RewardError(f"{name} must return a list of rewards") from None
    return list(items)


def _number(value: object, name: str) -> float | None:
    try:
        if isinstance(value, str | bytes):  # float() would read "1"
            raise TypeError
        number = float(value)  # type: ignore[arg-type]  # whatever is no number is refused here
    except (TypeError, ValueError, OverflowError):
        raise RewardError(f"{name} returned something that is not a number") from None
    return number if math.isfinite(number) else None
