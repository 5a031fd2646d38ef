"""How good the model is, on a public evaluation set: the only place where rewards and pass rates are shown from.

Nothing here touches a client's data, so it costs no privacy budget.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fgrpo_secure.adapters import Policy
from fgrpo_secure.config import Config
from fgrpo_secure.evaluation import Score, evaluate, overall
from fgrpo_secure.tasks import Row, evaluation_reward, evaluation_sets


@dataclass(frozen=True)
class Exam:
    """The outcome: all tasks counted equally, and each by itself."""

    overall: Score
    tasks: Mapping[str, Score]

    def describe(self) -> str:
        """The two pass rates in words."""
        return f"pass rate {self.overall.pass_rate:.3f} sampled, {self.overall.greedy:.3f} greedy"


@dataclass(frozen=True)
class Examination:
    """The public problems of a run, by task, and how they are marked."""

    config: Config
    problems: Mapping[str, list[Row]]

    @staticmethod
    def prepare(config: Config) -> "Examination":
        """The problems that the configuration asks for. Raises UnusableData."""
        return Examination(config, evaluation_sets(config.client, config.evaluation))

    def due(self, rounds_done: int) -> bool:
        """Whether the model is examined after this many rounds: always at the start and at the end."""
        every = self.config.evaluation.every
        return rounds_done in (0, self.config.federation.rounds) or (every > 0 and rounds_done % every == 0)

    def take(self, policy: Policy) -> Exam:
        """Mark the policy. The same problems and the same random draws at every examination."""
        reward = evaluation_reward(self.config.evaluation)
        scores = {}
        for task, rows in self.problems.items():
            generator = torch.Generator().manual_seed(self.config.run.seed)
            scores[task] = evaluate(policy, rows, reward, self.config.grpo, self.config.evaluation.samples, generator)
        return Exam(overall(scores.values()), scores)
