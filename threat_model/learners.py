"""A small learning world: the shipped model, owners whose prompts are chosen, and the product's local training.

`world.py` invents what clients would send; here it is learned. Everything is reproducible, and rollouts follow a seed
that is public in real runs, too: an adversary who guesses a client's prompts can repeat its training.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fgrpo_secure.client import owner
from fgrpo_secure.client.boundary import UnusableRound
from fgrpo_secure.client.owner import Owner
from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.schema import Config
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.tasks.files import Row
from fgrpo_secure.learning.tasks.procedural import problems
from fgrpo_secure.learning.tasks.sources import row_of
from fgrpo_secure.plan import round_settings
from fgrpo_secure.plan.round_settings import RoundSettings
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.privacy.encode import FloatArray


@dataclass(frozen=True)
class Chosen:
    """A source that has these rows in every round."""

    rows: tuple[Row, ...]

    def batch(self, round: int, step: int, count: int) -> list[Row]:  # noqa: ARG002  # the shape of a Source
        """See tasks.sources.Source; `round` and `step` change nothing."""
        return [self.rows[place % len(self.rows)] for place in range(count)]


@dataclass(frozen=True)
class Learners:
    """One model, and an owner whose place everybody takes in turn."""

    config: Config
    adapted: AdaptedModel
    owner: Owner
    settings: RoundSettings

    @staticmethod
    def build(**sections: Any) -> "Learners":
        """One prompt a step, plain SGD with steps of norm 1, no noise; `sections` override the configuration's."""
        table: dict[str, Any] = {
            "grpo": {"optimizer": "sgd", "learning_rate": 100.0, "prompts_per_step": 1},
            "privacy": {"unit": "none"},
            "client": [{"name": "learner", "task": "add", "reward": "partial", "count": 6}],
        }
        config = config_file.parse({**table, **sections}, "the learning world")
        adapted = adapters.attach(models.load(config.model), config.adapter, config.run.seed)
        with tempfile.TemporaryDirectory() as folder:
            (first,) = owner.make_owners(config.client, config.run.seed, {0}, Path(folder)).values()
        return Learners(config, adapted, first, round_settings.for_round(config, 0, 0))

    def update(self, rows: Sequence[Row], reward_scale: float = 1.0) -> Update:
        """What an owner of these rows learns in one round from the adapter as it is; zero where nothing can be."""
        place = replace(self.owner, source=Chosen(tuple(rows)), reward_scale=reward_scale)
        try:
            return Update(place.train(self.adapted, self.settings).update)
        except UnusableRound:
            return Update.zero(self.dimension)

    @property
    def dimension(self) -> int:
        """Of an update."""
        return self.adapted.dimension(0)


def rows_of(task: str, count: int, difficulty: int = 1, seed: int = 0) -> list[Row]:
    """`count` different problems of a task's training split."""
    return [row_of(problem) for problem in problems(task, difficulty, "train", seed, count)]


def cosines(table: FloatArray, seen: FloatArray) -> FloatArray:
    """The cosine of each row of `table`, shape (candidates, d), with `seen`, shape (d,)."""
    norms = (table**2).sum(axis=1) ** 0.5 * (seen**2).sum() ** 0.5
    result: FloatArray = table @ seen / (norms + 1e-30)
    return result
