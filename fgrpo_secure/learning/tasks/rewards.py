"""Built-in rewards, called as TRL calls one: f(prompts, completions, completion_ids, **columns) -> floats.

`exact`, `contains`, `partial`, `signed` and `percent` compare a completion with the row's `answer`; leading and
trailing white space does not count. They differ in scale on purpose: owners that pay 0 or 1, -1 to 1 and 0 to 100 can
train together. `numeric`, `format` and `length` are for models that write sentences; an argument stands in parentheses.
`math` and `reasoning-gym` are other libraries' (extras), which read what a model wrote: they, and `format`, whose
pattern may never end, run where an owner's own `module:function` does, in a process of its own. Those are resolved by
`fgrpo_secure.learning.grpo.rewards`.
"""

import importlib.util
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial as with_argument
from types import MappingProxyType
from typing import Any

import regex  # type: ignore[import-untyped]  # regex ships no types

from fgrpo_secure.config.schema import GYM, Client
from fgrpo_secure.learning.tasks.files import UnusableData
from fgrpo_secure.learning.tasks.procedural import named

RewardFunction = Callable[..., Sequence[float | None]]
Said = str | Sequence[Mapping[str, Any]]  # a completion: a text, or the assistant's messages
PREFIX_CREDIT = 0.3
TOLERANCE = 1e-6
WORD = regex.compile(r"\w")
NUMBER = r"(?<![\w.)])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:[eE][-+]?\d+)?"
LAST_NUMBER = regex.compile(rf"(?P<above>{NUMBER})(?:\s?/\s?(?P<below>\d+(?:\.\d+)?))?")
SPEC = regex.compile(r"(?P<name>[a-z]+)\((?P<argument>.+)\)", regex.DOTALL)


def text_of(said: Said) -> str:
    """A completion's text, also where it comes as messages."""
    return said if isinstance(said, str) else "".join(str(message["content"]) for message in said)


def is_correct(completion: str, answer: str) -> bool:
    """Whether the completion is the answer, white space around it aside."""
    return completion.strip() == answer


def credit(completion: str, answer: str) -> float:
    """1 for the answer, else at most 0.3: the share of it that the completion begins with."""
    said = completion.strip()
    if said == answer:
        return 1.0
    right = 0
    for ours, theirs in zip(said, answer, strict=False):
        if ours != theirs:
            break
        right += 1
    return PREFIX_CREDIT * right / max(len(answer), len(said))


def exact(completions: Sequence[Said], answer: Sequence[str], **_: Any) -> list[float | None]:
    """1 for the answer, 0 for anything else."""
    return [float(is_correct(text_of(said), right)) for said, right in zip(completions, answer, strict=True)]


def contains(completions: Sequence[Said], answer: Sequence[str], **_: Any) -> list[float | None]:
    """1 where the answer stands in the completion as words of its own, else 0."""
    return [float(_stands_in(right, text_of(said))) for said, right in zip(completions, answer, strict=True)]


def _stands_in(answer: str, said: str) -> bool:
    """No pattern: of an answer and a text that are long and alike, the search for one takes the product of both."""
    at = said.find(answer)
    while at >= 0:
        if not _is_word(said, at - 1) and not _is_word(said, at + len(answer)):
            return True
        at = said.find(answer, at + 1)
    return False


def _is_word(said: str, at: int) -> bool:
    return 0 <= at < len(said) and WORD.match(said, at) is not None


def partial(completions: Sequence[Said], answer: Sequence[str], **_: Any) -> list[float | None]:
    """1 for the answer, up to 0.3 for a right beginning."""
    return [credit(text_of(said), right) for said, right in zip(completions, answer, strict=True)]


def signed(completions: Sequence[Said], answer: Sequence[str], **_: Any) -> list[float | None]:
    """`partial` stretched to -1..1."""
    return [2 * credit(text_of(said), right) - 1 for said, right in zip(completions, answer, strict=True)]


def percent(completions: Sequence[Said], answer: Sequence[str], **_: Any) -> list[float | None]:
    """`partial` in per cent: 0..100."""
    return [100 * credit(text_of(said), right) for said, right in zip(completions, answer, strict=True)]


def number_in(text: str) -> float | None:
    """The last number that a text names: "-3", "1,250.5", "2e3", "3/4"; None if there is none that is finite."""
    found = list(LAST_NUMBER.finditer(text))
    if not found:
        return None
    below = float(found[-1]["below"] or 1)
    value = float(found[-1]["above"].replace(",", "")) / below if below else math.inf
    return value if math.isfinite(value) else None


def numeric(
    completions: Sequence[Said], answer: Sequence[str], tolerance: float = TOLERANCE, **_: Any
) -> list[float | None]:
    """1 if the last number of the completion is the last one of the answer, within `tolerance`; else 0. Answers
    without a number mark nothing."""
    pairs = [(number_in(text_of(said)), number_in(right)) for said, right in zip(completions, answer, strict=True)]
    return [
        None if right is None else float(said is not None and abs(said - right) <= tolerance) for said, right in pairs
    ]


def short(completions: Sequence[Said], completion_ids: Sequence[Sequence[int]], tokens: float, **_: Any) -> list[float]:
    """1 up to so many tokens, from there down to 0 at twice as many."""
    return [min(1.0, max(0.0, 2 - len(ids) / tokens)) for ids, _said in zip(completion_ids, completions, strict=True)]


BUILT_IN: Mapping[str, RewardFunction] = MappingProxyType(
    {"exact": exact, "partial": partial, "signed": signed, "percent": percent, "numeric": numeric, "contains": contains}
)
GYM_REWARD, GYM_COLUMN = "reasoning-gym", "reasoning_gym"
LIBRARIES: Mapping[str, tuple[str, str, str]] = MappingProxyType(  # reward -> function, module and extra
    {
        "math": ("fgrpo_secure.learning.tasks.math_answers:math_answer", "math_verify", "math"),
        GYM_REWARD: ("fgrpo_secure.learning.tasks.gym_scores:gym_score", "reasoning_gym", "tasks"),
    }
)
PATTERNS = "fgrpo_secure.learning.tasks.patterns:formatted"
WITH_ARGUMENT = ("numeric(tolerance)", "math(tolerance)", "format(pattern)", "length(tokens)")


def reward_of(client: Client, spec: str | None) -> RewardFunction:
    """The reward that `spec` names for this client; None is the task's own.

    Raises UnusableData for a name that is neither built in nor of the form module:function, and what
    `fgrpo_secure.learning.grpo.rewards.resolve` raises for a function that cannot be imported.
    """
    if spec is None and client.task is None:
        raise UnusableData(f"client {client.name!r} reads a data file and therefore needs a reward")
    return reward_named(own_reward(client.task) if spec is None and client.task else str(spec), client.name)


def own_reward(task: str) -> str:
    """The name of the reward that a task comes with."""
    return GYM_REWARD if task.startswith(GYM) else named(task).reward


def reward_named(spec: str, owner: str) -> RewardFunction:
    """The built-in or `module:function` reward; `owner` says in errors who asked for it."""
    if spec in BUILT_IN:
        return BUILT_IN[spec]
    if spec in LIBRARIES:
        return _of_a_library(spec, owner)
    given = SPEC.fullmatch(spec)
    if given is not None:
        return _with_argument(spec, given["name"], given["argument"].strip(), owner)
    if ":" not in spec:
        allowed = ", ".join((*sorted(BUILT_IN), *LIBRARIES, *WITH_ARGUMENT))
        raise UnusableData(f"{owner} asks for reward {spec!r}; allowed are {allowed} or 'module:function'")
    from fgrpo_secure.learning.grpo import rewards as user_rewards  # only a run with own rewards needs the importer

    return user_rewards.resolve(spec)


def columns_of(specs: Iterable[str]) -> tuple[str, ...]:
    """The columns without which rewards of these names cannot work."""
    named = list(specs)
    compared = any(spec in (*BUILT_IN, "math") or spec.startswith(("numeric(", "math(")) for spec in named)
    return (*(("answer",) if compared else ()), *((GYM_COLUMN,) if GYM_REWARD in named else ()))


def _of_a_library(name: str, owner: str, **options: float) -> RewardFunction:
    function, module, extra = LIBRARIES[name]
    if importlib.util.find_spec(module) is None:
        raise UnusableData(
            f"{owner} asks for reward {name!r}, which needs {module.replace('_', '-')}: "
            f"pip install 'fgrpo-secure[{extra}]'"
        )
    return _within_its_time(function, options)


def _within_its_time(function: str, options: Mapping[str, float | str]) -> RewardFunction:
    from fgrpo_secure.learning.grpo.isolated_reward import IsolatedReward

    return replace(IsolatedReward.open(function), options=options, divides_its_time=True)


def _with_argument(spec: str, name: str, argument: str, owner: str) -> RewardFunction:
    if name == "format":
        try:
            regex.compile(argument, regex.DOTALL)
        except regex.error as problem:
            raise UnusableData(f"{owner} asks for reward {spec!r}, whose pattern is none: {problem.msg}") from None
        return _within_its_time(PATTERNS, {"pattern": argument})
    numbers: Mapping[str, tuple[RewardFunction, str]] = {"numeric": (numeric, "tolerance"), "length": (short, "tokens")}
    if name not in (*numbers, "math"):
        raise UnusableData(f"{owner} asks for reward {spec!r}; with an argument there are {', '.join(WITH_ARGUMENT)}")
    function, keyword = numbers.get(name, (numeric, "tolerance"))
    try:
        value = float(argument)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UnusableData(f"{owner} asks for reward {spec!r}; its {keyword} must be a number above 0")
    return (
        _of_a_library(name, owner, tolerance=value) if name == "math" else with_argument(function, **{keyword: value})
    )
