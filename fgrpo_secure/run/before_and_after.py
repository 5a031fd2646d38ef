"""What a run's adapter changed on given problems: the same problems before and after, with intervals.

Problems differ far more than models do, so that differences are taken problem by problem. Intervals are over problems:
they say what other problems of this kind would give, and nothing about another run.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgrpo_secure.config.schema import Config, Evaluation
from fgrpo_secure.learning import models
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.evaluation import marks
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.pass_rates import Examination
from fgrpo_secure.learning.tasks import evaluation_reward
from fgrpo_secure.run import released
from fgrpo_secure.storage.run_directory import RunDirectory

FloatArray = NDArray[np.float64]
DEVIATIONS = 1.96  # of a mean over problems, for 95 %


@dataclass(frozen=True)
class Rate:
    """A mean over problems and its 95 % interval."""

    mean: float
    low: float
    high: float

    @staticmethod
    def of(values: FloatArray) -> "Rate":
        """Of one value for each problem."""
        mean = float(values.mean())
        half = DEVIATIONS * float(values.std(ddof=1)) / math.sqrt(values.size) if values.size > 1 else math.inf
        return Rate(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Change:
    """Pass rates before, after, and their difference by problem."""

    before: Rate
    after: Rate
    gained: Rate


@dataclass(frozen=True)
class Comparison:
    """Of one run on `problems` problems: `sampled` completions, and the most likely one (`greedy`)."""

    problems: int
    sampled: Change
    greedy: Change

    def facts(self) -> dict[str, Any]:
        """By public name."""
        changes = {"sampled": self.sampled, "greedy": self.greedy}
        return {"problems": self.problems, **{name: _facts(change) for name, change in changes.items()}}

    def lines(self) -> Iterator[str]:
        """In words, per cent and points."""
        yield f"{self.problems} problems, 95 % intervals over problems"
        for name, change in (("sampled", self.sampled), ("greedy", self.greedy)):
            before, after = (f"{100 * rate.mean:.1f} %" for rate in (change.before, change.after))
            low, gained, high = (100 * each for each in (change.gained.low, change.gained.mean, change.gained.high))
            verdict = "" if low > 0 or high < 0 else "; no difference that this many problems can tell"
            yield f"{name:8} {before} -> {after}: {gained:+.1f} points [{low:.1f}, {high:.1f}]{verdict}"


def compare(directory: RunDirectory, model: str | None, other: Evaluation | None, samples: int | None) -> Comparison:
    """Both models on the run's public problems, or on those of `other`. Raises UnusableInput."""
    config = released.configuration(directory, model)
    asked = (other or config.evaluation).model_copy(update={} if samples is None else {"samples": samples})
    config = config.model_copy(update={"evaluation": asked})
    problems = Examination.prepare(config).problems
    before = _marked(released.untrained(config), config, problems)
    after = _marked(released.trained(directory, config, models.load(config.model)), config, problems)
    sampled, greedy = (_change(*pair) for pair in zip(before, after, strict=True))
    return Comparison(sum(map(len, problems.values())), sampled, greedy)


def _marked(
    adapted: AdaptedModel, config: Config, problems: Mapping[str, Sequence[dict[str, Any]]]
) -> tuple[FloatArray, FloatArray]:
    """Share of passes of each problem: sampled, greedy. The same draws for every model."""
    found = []
    for rows in problems.values():
        reward = evaluation_reward(config.evaluation, rows)
        drawn = Streams(config.run.seed)
        found.append(marks(adapted, rows, reward, config.grpo, config.evaluation.samples, drawn))
    sampled, greedy = (np.concatenate(each) for each in zip(*found, strict=True))
    return (sampled >= 1).mean(axis=1), (greedy >= 1).astype(np.float64)


def _change(before: FloatArray, after: FloatArray) -> Change:
    return Change(Rate.of(before), Rate.of(after), Rate.of(after - before))


def _facts(change: Change) -> dict[str, Any]:
    named = {"before": change.before, "after": change.after, "gained": change.gained}
    return {name: {"mean": rate.mean, "low": rate.low, "high": rate.high} for name, rate in named.items()}
