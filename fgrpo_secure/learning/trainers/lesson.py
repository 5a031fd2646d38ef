"""What a trainer of an owner's own is called with, and what it returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fgrpo_secure.config.grpo import Grpo
from fgrpo_secure.learning.grpo.reward_call import RewardFunction
from fgrpo_secure.learning.tasks.files import Row

# Means over a round: of rewards before the owner's scale, their deviation, the share of prompts whose completions were
# all paid alike, tokens of a completion, the share of those that were cut off; the others as of a `RoundView`.
LOGGED = ("reward", "reward_spread", "alike", "length", "cut_off", "entropy", "kl", "clip_ratio")


@dataclass(frozen=True)
class Lesson:
    """One round's work at one owner. Secret.

    `adapter` is a PEFT model with the factors as received, to be changed in place; those that the round sends require
    gradients, and no other change counts. `rows` are the prompts of the round's `steps` steps, in their order, with all
    their columns; `rewards` are called as TRL calls them. `settings` are the run's public ones, `options` the owner's
    own. Randomness of any kind may be used; `seed` is public, another one in every round. `start` holds the factors
    that the run began with, by the names of the adapter's parameters: what `settings.beta` compares with. Without
    `adapter.init_from` they add nothing to the base: B is zero, and A some draw. `log` is for the owner's own eyes:
    floats that a trainer puts there by the names in `LOGGED` are shown in the view of its rounds, and nowhere else.
    """

    adapter: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    rows: Sequence[Row] = field(repr=False)
    rewards: Mapping[str, RewardFunction] = field(repr=False)
    reward_weights: Sequence[float] | None
    settings: Grpo
    steps: int
    options: Mapping[str, Any]
    seed: int
    start: Mapping[str, Any] = field(repr=False)
    log: dict[str, float] = field(default_factory=dict, repr=False)


class Trainer(Protocol):
    """A trainer: changes `lesson.adapter`, and returns the rewards that it saw before it changed anything, or None.

    Weights by history compare an owner's rewards over the rounds; without any its weight stays 1.
    """

    def __call__(self, lesson: Lesson, /) -> Sequence[float] | None: ...
