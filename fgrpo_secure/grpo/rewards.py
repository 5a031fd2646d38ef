"""Rewards: Python callables, called as TRL calls them.

A reward function gets `prompts`, `completions` and `completion_ids` and every other column of the data by keyword,
each repeated per completion, and returns one number per completion; None skips it.
"""

import importlib
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgrpo_secure.errors import UnusableInput

NOT_USERS = (__file__, importlib.__file__, "<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")

RewardFunction = Callable[..., Sequence[float | None]]


class RewardError(UnusableInput):
    """A reward function cannot be found, failed, or returned something that is no list of rewards."""


def resolve(spec: str) -> RewardFunction:
    """The function that "module:function" names; modules in the current directory count. Raises RewardError."""
    module_name, separator, name = spec.partition(":")
    if not separator or not module_name or not name or module_name.startswith("."):
        raise RewardError(f"reward {spec!r} is not of the form module:function")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as problem:
        raise RewardError(f"reward {spec!r}: module {module_name!r} cannot be imported: {problem}") from None
    except Exception as problem:  # noqa: BLE001 - a user's module may raise anything while it is imported
        reason = f"{type(problem).__name__}{_place(problem)}"
        raise RewardError(f"reward {spec!r}: module {module_name!r} raised {reason}") from None
    if not hasattr(module, name):
        raise RewardError(f"reward {spec!r}: module {module_name!r} has no {name!r}")
    function = getattr(module, name)
    if not callable(function):
        raise RewardError(f"reward {spec!r} is not callable")
    resolved: RewardFunction = function
    return resolved


def score(
    functions: Sequence[RewardFunction],
    weights: Sequence[float] | None,
    prompts: Sequence[str],
    completions: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
    columns: Mapping[str, Sequence[Any]],
) -> NDArray[np.float64]:
    """The weighted sum of all functions' rewards, shape (completions,).

    `prompts` and `columns` have one entry per prompt and are repeated here; completions of a prompt stand together.
    A function that skips a completion adds nothing to it. Raises RewardError: also if every function skips one.
    """
    if weights is not None and len(weights) != len(functions):
        raise RewardError(f"{len(weights)} reward_weights for {len(functions)} reward functions")
    generations = len(completions) // len(prompts)
    repeated = {key: [value for value in column for _ in range(generations)] for key, column in columns.items()}
    arguments = {
        "prompts": [prompt for prompt in prompts for _ in range(generations)],
        "completions": list(completions),
        "completion_ids": list(completion_ids),
    }
    table = np.stack([_call(function, repeated | arguments, len(completions)) for function in functions])
    if np.isnan(table).all(axis=0).any():
        raise RewardError("all reward functions skipped a completion")
    factors = np.ones(len(functions)) if weights is None else np.asarray(weights, dtype=np.float64)
    total: NDArray[np.float64] = np.nansum(table * factors[:, None], axis=0)
    return total


def _call(function: RewardFunction, arguments: Mapping[str, Any], count: int) -> NDArray[np.float64]:
    """One function's rewards; NaN where it skips."""
    name = getattr(function, "__name__", "reward function")
    try:
        returned = function(**arguments)
    except Exception as problem:  # noqa: BLE001 - a user's function may raise anything, and none of it may show
        raise RewardError(f"{name} raised {type(problem).__name__}{_place(problem)}") from None
    try:
        listed = list(returned)
    except TypeError:
        raise RewardError(f"{name} must return a list of rewards") from None
    if len(listed) != count:
        raise RewardError(f"{name} returned {len(listed)} rewards for {count} completions")
    values = [np.nan if value is None else _number(value, name) for value in listed]
    return np.array(values, dtype=np.float64)


def _number(value: object, name: str) -> float:
    try:
        if isinstance(value, str | bytes):  # float() would read "1"
            raise TypeError
        number = float(value)  # type: ignore[arg-type]  # whatever is no number is refused here
    except (TypeError, ValueError, OverflowError):
        raise RewardError(f"{name} returned something that is not a number") from None
    if not math.isfinite(number):
        raise RewardError(f"{name} returned a number that is not finite")
    return number


def _place(problem: Exception) -> str:
    """Where in the user's code: file and line, nothing of what the exception says, which may quote the data."""
    if isinstance(problem, SyntaxError) and problem.filename:
        return f" in {Path(problem.filename).name}, line {problem.lineno}"
    frames = [frame for frame in traceback.extract_tb(problem.__traceback__) if frame.filename not in NOT_USERS]
    return f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
