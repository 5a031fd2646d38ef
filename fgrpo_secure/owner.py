"""One data owner's private side: its prompts, rewards, reward history and what it trains for.

Nothing here is shown to anybody else. A failure that depends on the owner's data (a reward that returns NaN, a bad
row, a prompt that does not fit, training that diverges) is an `UnusableRound`: the owner writes the reason into its
own log and contributes nothing but noise, so that nobody can tell.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fgrpo_secure import entropy, gain
from fgrpo_secure.adapters import Policy
from fgrpo_secure.config import Client
from fgrpo_secure.grpo import local_update, rewards, rollouts
from fgrpo_secure.grpo.local_update import PromptGroups
from fgrpo_secure.grpo.rewards import RewardFunction
from fgrpo_secure.grpo.rollouts import PromptTooLong
from fgrpo_secure.round_settings import RoundSettings
from fgrpo_secure.tasks import Source, UnusableData, open_source, reward_of


class UnusableRound(ValueError):
    """This owner's data gave nothing to train on in this round; the reason is for its own log only."""


@dataclass(frozen=True)
class Trained:
    """What local training gives: the update and the first rollouts' rewards. Secret."""

    update: NDArray[np.float64] = field(repr=False)
    observation: gain.Observation = field(repr=False)
    seconds_rollouts: float = 0.0


@dataclass(frozen=True)
class Owner:
    """A data owner: `index` counts the owners that the same configuration table makes."""

    id: int
    name: str
    source: Source = field(repr=False)
    reward_functions: tuple[RewardFunction, ...] = field(repr=False)
    reward_scale: float
    log: Path

    def train(self, policy: Policy, settings: RoundSettings) -> Trained:
        """Local GRPO from the model as received. Raises UnusableRound."""
        first: list[NDArray[np.float64]] = []
        seconds: list[float] = []

        def next_groups(step: int) -> PromptGroups:
            started = entropy.processor_time()
            groups = self._groups(policy, settings, step)
            if step == 0:
                first.append(self._gain_rewards(policy, settings, groups))
            seconds.append(entropy.processor_time() - started)
            return groups

        try:
            with np.errstate(all="ignore"):  # a warning on standard error would tell; what is not finite fails below
                update = local_update.run(
                    policy, next_groups, settings.grpo, settings.training_round, settings.local_steps
                )
                observation = gain.observe(first[0])
        except (rewards.RewardError, UnusableData, PromptTooLong) as problem:
            raise UnusableRound(str(problem)) from None
        except RuntimeError as problem:  # torch's word for what it cannot do, such as sampling after it diverged
            raise UnusableRound(f"local training failed: {type(problem).__name__}") from None
        if not (np.isfinite(update).all() and np.isfinite([observation.mean, observation.standard_error]).all()):
            raise UnusableRound("local training diverged: the update or the mean reward is not finite")
        return Trained(update, observation, sum(seconds))

    def note(self, settings: RoundSettings, reason: UnusableRound) -> None:
        """Tell the owner, and only the owner, why its round was empty."""
        self.write_log(f"round {settings.training_round}: {reason}")

    def write_log(self, line: str) -> None:
        """Add a line to the log that only this owner reads."""
        with self.log.open("a") as file:
            file.write(line + "\n")

    def _gain_rewards(self, policy: Policy, settings: RoundSettings, groups: PromptGroups) -> NDArray[np.float64]:
        """Rewards that measure R: those of `gain_prompts` prompts, the first step's if that is enough."""
        wanted = settings.weighting.gain_prompts or settings.grpo.prompts_per_step
        missing = wanted - settings.grpo.prompts_per_step
        if missing <= 0:
            return groups.rewards[:wanted]
        extra = self._groups(policy, settings, -1, missing)
        return np.concatenate([groups.rewards, extra.rewards])

    def _groups(self, policy: Policy, settings: RoundSettings, step: int, count: int | None = None) -> PromptGroups:
        rows = self.source.batch(settings.training_round, step, count or settings.grpo.prompts_per_step)
        prompts = [str(row["prompt"]) for row in rows]
        columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
        generator = torch.Generator().manual_seed(self.rollout_seed(settings, step))
        sampled = rollouts.sample(policy, prompts, settings.grpo, generator)
        scores = rewards.score(
            self.reward_functions,
            settings.grpo.reward_weights,
            prompts,
            sampled.completions,
            sampled.completion_ids,
            columns,
        )
        shape = (len(prompts), settings.grpo.num_generations)
        return PromptGroups(sampled, self.reward_scale * scores.reshape(shape))

    def rollout_seed(self, settings: RoundSettings, step: int) -> int:
        """Rollouts follow the run's public seed: they carry no privacy, and reproducible ones help debugging."""
        text = f"rollouts/{settings.seed}/{self.id}/{settings.training_round}/{step}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def make_owners(clients: tuple[Client, ...], seed: int, wanted: set[int], folder: Path) -> dict[int, Owner]:
    """The owners with the ids in `wanted`; ids run through the [[client]] tables in order.

    Raises UnusableData or RewardError naming the file, line or function that cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    owners: dict[int, Owner] = {}
    next_id = 0
    for client in clients:
        for index in range(client.count):
            if next_id in wanted:
                owners[next_id] = _make_owner(client, seed, index, next_id, folder)
            next_id += 1
    return owners


def names(clients: tuple[Client, ...]) -> list[str]:
    """The owners' names, by id."""
    return [_name(client, index) for client in clients for index in range(client.count)]


def _name(client: Client, index: int) -> str:
    return client.name if client.count == 1 else f"{client.name}-{index}"


def _make_owner(client: Client, seed: int, index: int, owner_id: int, folder: Path) -> Owner:
    specs: tuple[Any, ...] = (client.reward,) if isinstance(client.reward, str) else client.reward or (None,)
    name = _name(client, index)
    return Owner(
        id=owner_id,
        name=name,
        source=open_source(client, seed, index),
        reward_functions=tuple(reward_of(client, spec) for spec in specs),
        reward_scale=client.reward_scale,
        log=folder / f"{name}.log",
    )
