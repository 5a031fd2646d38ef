"""Reward `reasoning-gym`: what a completion is worth by the data set that its problem is from, 0 to 1.

Runs in a reward's own process, and each completion in one of its own (see `scored_alone`): some of its data sets turn
an answer into code. Needs the extra `tasks`.
"""

import json
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import reasoning_gym
from reasoning_gym.utils import extract_answer

from fgrpo_secure.learning.tasks import scored_alone
from fgrpo_secure.learning.tasks.rewards import Said, text_of


def gym_score(
    completions: Sequence[Said], reasoning_gym: Sequence[str], call_seconds: float, **_: Any
) -> list[float | None]:
    """The score of what stands between <answer> and </answer>, or else of the whole completion. A row of no data set
    marks nothing."""
    made: dict[str, Any] = {}  # some data sets take a third of a second to make
    seconds = scored_alone.share(call_seconds, len(completions))
    return [
        scored_alone.mark(partial(_of_one, text_of(said), *_problem(own, made)), seconds)
        for said, own in zip(completions, reasoning_gym, strict=True)
    ]


def _problem(own: str, made: dict[str, Any]) -> tuple[Any, Any]:
    """(data set, entry) of a row; (None, None) for a row of no data set. Of the owner's data, not of a completion."""
    try:
        problem = json.loads(own)
        kind = json.dumps([problem["data_set"], problem["settings"]], sort_keys=True)
        if kind not in made:
            made[kind] = reasoning_gym.create_dataset(problem["data_set"], seed=0, size=1, **problem["settings"])
        return made[kind], problem["entry"]
    except (ValueError, TypeError, KeyError, AssertionError):
        return None, None


def _of_one(said: str, data_set: Any, entry: Any) -> float:
    if data_set is None:
        return math.nan
    answer = extract_answer(said)
    return float(data_set.score_answer(said.strip() if answer is None else answer, entry))
