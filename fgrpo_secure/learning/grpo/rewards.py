"""Rewards: Python callables, called as TRL calls them.

A reward function gets `prompts`, `completions` and `completion_ids` and every other column of the data by keyword,
each repeated per completion, and returns one number per completion; None skips it, and so does what is not finite.
An owner's own function runs in a process of its own (`isolated_reward`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgrpo_secure.learning.grpo import reward_call
from fgrpo_secure.learning.grpo.isolated_reward import IsolatedReward
from fgrpo_secure.learning.grpo.prompts import Prompt
from fgrpo_secure.learning.grpo.reward_call import RewardError, RewardFunction

__all__ = ["RewardError", "RewardFunction", "marked", "resolve", "score"]


def resolve(spec: str) -> RewardFunction:
    """The function that "module:function" or "/path/module.py:function" names. Raises RewardError."""
    return IsolatedReward.open(spec)


def score(
    functions: Sequence[RewardFunction],
    weights: Sequence[float] | None,
    prompts: Sequence[Prompt],
    completions: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
    columns: Mapping[str, Sequence[Any]],
    trainer_state: Mapping[str, int] | None = None,
) -> NDArray[np.float64]:
    """The weighted sum of all functions' rewards, shape (completions,); NaN where no function marked one.

    See `table`, of which this is the sum. Raises RewardError.
    """
    return weighted(table(functions, prompts, completions, completion_ids, columns, trainer_state), weights)


def table(
    functions: Sequence[RewardFunction],
    prompts: Sequence[Prompt],
    completions: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
    columns: Mapping[str, Sequence[Any]],
    trainer_state: Mapping[str, int] | None = None,
) -> NDArray[np.float64]:
    """Every function's rewards, shape (functions, completions); NaN where one did not mark a completion.

    `prompts` and `columns` have one entry per prompt and are repeated here; completions of a prompt stand together. A
    completion of a prompt of messages is passed as messages, too: the assistant's one. `trainer_state` holds public
    numbers of the run. Raises RewardError.
    """
    generations = len(completions) // len(prompts)
    repeated = {key: [value for value in column for _ in range(generations)] for key, column in columns.items()}
    asked = [prompt for prompt in prompts for _ in range(generations)]
    arguments = {
        **repeated,
        **({} if trainer_state is None else {reward_call.STATE: dict(trainer_state)}),
        "prompts": asked,
        "completions": [_in_the_form_of(prompt, said) for prompt, said in zip(asked, completions, strict=True)],
        "completion_ids": list(completion_ids),
    }
    called = [reward_call.call(function, arguments, len(completions)) for function in functions]
    return np.array(called, dtype=np.float64)  # None becomes NaN


def weighted(paid: NDArray[np.float64], weights: Sequence[float] | None) -> NDArray[np.float64]:
    """The sum over functions, each times its weight, shape (completions,). A function that skips a completion adds
    nothing to it; NaN where all do. RewardError for another number of weights than of functions."""
    if weights is not None and len(weights) != len(paid):
        raise RewardError(f"{len(weights)} reward_weights for {len(paid)} reward functions")
    factors = np.ones(len(paid)) if weights is None else np.asarray(weights, dtype=np.float64)
    with np.errstate(all="ignore"):  # huge rewards may overflow: such a completion is not marked either
        total: NDArray[np.float64] = np.nansum(paid * factors[:, None], axis=0)
    total[np.isnan(paid).all(axis=0) | ~np.isfinite(total)] = np.nan
    return total


def _in_the_form_of(prompt: Prompt, said: str) -> Prompt:
    return said if isinstance(prompt, str) else [{"role": "assistant", "content": said}]


def marked(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """The groups of `rewards`, shape (prompts, completions), of which every completion was marked. Raises RewardError
    if there is none.

    **Why** A group's advantages compare its completions: without one of them it says nothing, and the others go on.
    """
    whole: NDArray[np.float64] = rewards[np.isfinite(rewards).all(axis=1)]
    if not whole.size:
        raise RewardError("in every prompt's group there is a completion that no reward function could mark")
    return whole
