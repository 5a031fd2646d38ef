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


def gym_score(completions: Sequence[Said], reasoning_gym: Sequence[str], **_: Any) -> list[float | None]:
    """The score of what stands between <answer> and </answer>, or else of the whole completion. A row of no data set
    marks nothing."""
    return [
        scored_alone.mark(partial(_of_one, text_of(said), own))
        for said, own in zip(completions, reasoning_gym, strict=True)
    ]


def _of_one(said: str, own: str) -> float:
    try:
        problem = json.loads(own)
        data_set = reasoning_gym.create_dataset(problem["data_set"], seed=0, size=1, **problem["settings"])
    except (ValueError, TypeError, KeyError, AssertionError):
        return math.nan
    answer = extract_answer(said)
    return float(data_set.score_answer(said.strip() if answer is None else answer, problem["entry"]))
