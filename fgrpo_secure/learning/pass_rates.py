"""How good the model is, on a public evaluation set: the only place where rewards and pass rates are shown from.

Nothing here touches a client's data, so it costs no privacy budget.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fgrpo_secure.config.schema import Config
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.evaluation import Score, evaluate, overall
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.tasks import Row, evaluation_reward, evaluation_sets


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

    def take(self, adapted: AdaptedModel, on_marked: Callable[[int, int], None] = lambda _done, _total: None) -> Exam:
        """Mark the model. The same problems and the same random draws at every examination. `on_marked` hears how many
        problems of how many are done."""
        total, done = sum(map(len, self.problems.values())), 0

        def marked(count: int) -> None:
            nonlocal done
            done += count
            on_marked(done, total)

        marked(0)
        scores, samples = {}, self.config.evaluation.samples
        for task, rows in self.problems.items():
            reward = evaluation_reward(self.config.evaluation, rows)
            streams = Streams(self.config.run.seed)
            scores[task] = evaluate(adapted, rows, reward, self.config.grpo, samples, streams, marked)
        return Exam(overall(scores.values()), scores)
