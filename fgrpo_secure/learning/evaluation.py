"""How good an adapted model is on given problems: sampled and greedy pass rates, and the mean reward."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgrpo_secure.config.schema import Grpo
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.grpo import rewards, rollouts
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.grpo.rewards import RewardFunction

SEQUENCES = 512  # per batch


@dataclass(frozen=True)
class Score:
    """Means over problems. `pass_rate` is of sampled completions, `greedy` of the most likely one."""

    pass_rate: float
    greedy: float
    reward: float


def evaluate(
    adapted: AdaptedModel,
    rows: Sequence[dict[str, Any]],
    reward: RewardFunction,
    settings: Grpo,
    samples: int,
    streams: Streams,
    marked: Callable[[int], None] = lambda _: None,
) -> Score:
    """The score on `rows`, each with a "prompt" and the columns that `reward` needs; a reward of 1 is a pass.

    What the reward cannot mark is no pass, and has no part in the mean reward. Raises RewardError if it marks nothing.
    `marked` hears how many problems more are done.
    """
    sampled, likeliest = marks(adapted, rows, reward, settings, samples, streams, marked)
    if np.isnan(sampled).all():
        raise rewards.RewardError("the evaluation's reward could not mark a single completion")
    return Score(float(np.mean(sampled >= 1)), float(np.mean(likeliest >= 1)), float(np.nanmean(sampled)))


def marks(
    adapted: AdaptedModel,
    rows: Sequence[dict[str, Any]],
    reward: RewardFunction,
    settings: Grpo,
    samples: int,
    streams: Streams,
    marked: Callable[[int], None] = lambda _: None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rewards of sampled completions, shape (problems, samples), and of each problem's most likely one, (problems,);
    NaN for what the reward cannot mark. Raises RewardError."""
    drawn = settings.model_copy(update={"num_generations": samples})
    sampled: list[float] = []
    likeliest: list[float] = []
    step = max(1, SEQUENCES // samples)
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        prompts = [row["prompt"] for row in chunk]
        columns = {key: [row[key] for row in chunk] for key in chunk[0] if key != "prompt"}
        for target, done in (
            (sampled, rollouts.sample(adapted, prompts, drawn, streams)),
            (likeliest, rollouts.greedy(adapted, prompts, settings)),
        ):
            scores = rewards.score([reward], None, prompts, done.completions, done.completion_ids, columns)
            target += scores.tolist()
        marked(len(chunk))
    return np.array(sampled).reshape(len(rows), samples), np.array(likeliest)


def overall(scores: Iterable[Score]) -> Score:
    """The mean over tasks, each counted equally."""
    listed = list(scores)
    return Score(
        float(np.mean([score.pass_rate for score in listed])),
        float(np.mean([score.greedy for score in listed])),
        float(np.mean([score.reward for score in listed])),
    )
