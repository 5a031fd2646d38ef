"""Built-in rewards, called as TRL calls one: f(prompts, completions, completion_ids, **columns) -> floats.

Each compares a completion with the row's `answer`; leading and trailing white space does not count. They
differ in scale on purpose: owners that pay 0 or 1, -1 to 1 and 0 to 100 can train together. `module:function`
rewards are resolved by `fgrpo_secure.grpo.rewards`.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fgrpo_secure.config import Client
from fgrpo_secure.tasks.files import UnusableData
from fgrpo_secure.tasks.procedural import named

RewardFunction = Callable[..., Sequence[float | None]]
PREFIX_CREDIT = 0.3


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


def exact(completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float | None]:
    """1 for the answer, 0 for anything else."""
    return [float(is_correct(said, right)) for said, right in zip(completions, answer, strict=True)]


def partial(completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float | None]:
    """1 for the answer, up to 0.3 for a right beginning."""
    return [credit(said, right) for said, right in zip(completions, answer, strict=True)]


def signed(completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float | None]:
    """`partial` stretched to -1..1."""
    return [2 * credit(said, right) - 1 for said, right in zip(completions, answer, strict=True)]


def percent(completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float | None]:
    """`partial` in per cent: 0..100."""
    return [100 * credit(said, right) for said, right in zip(completions, answer, strict=True)]


BUILT_IN: Mapping[str, RewardFunction] = MappingProxyType(
    {"exact": exact, "partial": partial, "signed": signed, "percent": percent}
)


def reward_of(client: Client, spec: str | None) -> RewardFunction:
    """The reward that `spec` names for this client; None is the task's own.

    Raises UnusableData for a name that is neither built in nor of the form module:function, and what
    `fgrpo_secure.grpo.rewards.resolve` raises for a function that cannot be imported.
    """
    if spec is None and client.task is None:
        raise UnusableData(f"client {client.name!r} reads a data file and therefore needs a reward")
    return reward_named(named(client.task).reward if spec is None and client.task else str(spec), client.name)


def reward_named(spec: str, owner: str) -> RewardFunction:
    """The built-in or `module:function` reward; `owner` says in errors who asked for it."""
    if spec in BUILT_IN:
        return BUILT_IN[spec]
    if ":" not in spec:
        allowed = ", ".join(sorted(BUILT_IN))
        raise UnusableData(f"{owner} asks for reward {spec!r}; allowed are {allowed} or 'module:function'")
    from fgrpo_secure.grpo import rewards as user_rewards  # only a run with own rewards needs the importer

    return user_rewards.resolve(spec)
