"""How good a policy is on given problems: sampled and greedy pass rates, and the mean reward."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fgrpo_secure.adapters import Policy
from fgrpo_secure.config import Grpo
from fgrpo_secure.grpo import rewards, rollouts
from fgrpo_secure.grpo.rewards import RewardFunction

SEQUENCES = 512  # per batch


@dataclass(frozen=True)
class Score:
    """Means over problems. `pass_rate` is of sampled completions, `greedy` of the most likely one."""

    pass_rate: float
    greedy: float
    reward: float


def evaluate(
    policy: Policy,
    rows: Sequence[dict[str, Any]],
    reward: RewardFunction,
    settings: Grpo,
    samples: int,
    generator: torch.Generator,
) -> Score:
    """The score on `rows`, each with a "prompt" and the columns that `reward` needs; a reward of 1 is a pass."""
    drawn = settings.model_copy(update={"num_generations": samples})
    sampled: list[float] = []
    likeliest: list[float] = []
    step = max(1, SEQUENCES // samples)
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        prompts = [str(row["prompt"]) for row in chunk]
        columns = {key: [row[key] for row in chunk] for key in chunk[0] if key != "prompt"}
        for target, done in (
            (sampled, rollouts.sample(policy, prompts, drawn, generator)),
            (likeliest, rollouts.greedy(policy, prompts, settings.max_completion_length)),
        ):
            marks = rewards.score([reward], None, prompts, done.completions, done.completion_ids, columns)
            target += marks.tolist()
    return Score(
        float(np.mean(np.array(sampled) >= 1)),
        float(np.mean(np.array(likeliest) >= 1)),
        float(np.mean(sampled)),
    )


def overall(scores: Iterable[Score]) -> Score:
    """The mean over tasks, each counted equally."""
    listed = list(scores)
    return Score(
        float(np.mean([score.pass_rate for score in listed])),
        float(np.mean([score.greedy for score in listed])),
        float(np.mean([score.reward for score in listed])),
    )
