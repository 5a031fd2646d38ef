"""One data owner's private side: its prompts, rewards, reward history and what it trains for.

Nothing here is shown to anybody else. A failure that depends on the owner's data (a reward that returns NaN, a bad
row, a prompt that does not fit, training that diverges) is an `UnusableRound`: the owner writes the reason into its
own log and contributes nothing but noise, so that nobody can tell.
"""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fgrpo_secure import entropy, gain
from fgrpo_secure.adapters import Policy
from fgrpo_secure.config import Client
from fgrpo_secure.coupling import SMALL_UNITS
from fgrpo_secure.grpo import local_update, rewards, rollouts, unit_gradients
from fgrpo_secure.grpo.local_update import PromptGroups
from fgrpo_secure.grpo.rewards import RewardFunction
from fgrpo_secure.grpo.rollouts import PromptTooLong
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.round_settings import RoundSettings
from fgrpo_secure.tasks import Row, Source, UnitTable, UnusableData, open_source, open_units, reward_of


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
    """A data owner. `units` is its data by unit where the unit lies inside a client, else None."""

    id: int
    name: str
    source: Source = field(repr=False)
    reward_functions: tuple[RewardFunction, ...] = field(repr=False)
    reward_scale: float
    log: Path
    units: UnitTable | None = field(default=None, repr=False)
    max_weight: float = 1.0  # its own policy's

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

    def unit_groups(self, policy: Policy, settings: RoundSettings, step: int, unit: str) -> PromptGroups | None:
        """One unit's rollouts and rewards, from its own rows alone; None, and a note, if its data is unusable.

        **Why** Each unit is sampled by itself, from a generator of its own: in a common batch, one unit's prompts
        would change the padding and the draws of all others.
        """
        if self.units is None:
            raise ValueError("this owner's data is not divided into units")
        rows = self.units.batch(unit, settings.training_round, step, settings.grpo.prompts_per_step)
        try:
            return self._sampled(policy, settings, rows, f"{step}/{unit}")
        except (rewards.RewardError, UnusableData, PromptTooLong, RuntimeError) as problem:
            self._note_unit(settings, problem)
            return None

    def unit_update(self, policy: Policy, settings: RoundSettings, groups: PromptGroups) -> Update:
        """Where one unit's data would move the policy, of any length; zero, and a note, if that fails."""
        try:
            with np.errstate(all="ignore"):
                return Update(unit_gradients.descent(policy, groups, settings.grpo, settings.training_round))
        except RuntimeError as problem:
            self._note_unit(settings, problem)
            return Update.zero(policy.dimension(settings.training_round))

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
        return self._sampled(policy, settings, rows, str(step))

    def _sampled(self, policy: Policy, settings: RoundSettings, rows: list[Row], label: str) -> PromptGroups:
        prompts = [str(row["prompt"]) for row in rows]
        columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
        generator = torch.Generator().manual_seed(self.rollout_seed(settings, label))
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

    def _note_unit(self, settings: RoundSettings, problem: Exception) -> None:
        """Training's errors may quote numbers; rewards' and data's own sentences do not."""
        reason = type(problem).__name__ if isinstance(problem, RuntimeError) else str(problem)
        self.write_log(f"round {settings.training_round}: a unit contributes nothing: {reason}")

    def rollout_seed(self, settings: RoundSettings, label: str) -> int:
        """Rollouts follow the run's public seed: they carry no privacy, and reproducible ones help debugging."""
        text = f"rollouts/{settings.seed}/{self.id}/{settings.training_round}/{label}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def make_owners(
    clients: tuple[Client, ...],
    seed: int,
    wanted: set[int],
    folder: Path,
    unit: str = "client",
    most_units: int = 1,
) -> dict[int, Owner]:
    """The owners with the ids in `wanted`; ids run through the [[client]] tables in order.

    `unit` is what is protected, `most_units` the public bound on how many units an owner may hold. Raises
    UnusableData or RewardError naming the file, line or function that cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    owners: dict[int, Owner] = {}
    next_id = 0
    for client in clients:
        for index in range(client.count):
            if next_id in wanted:
                made = _make_owner(client, seed, index, next_id, folder)
                inside = unit in SMALL_UNITS
                units = open_units(client, seed, index, unit, most_units) if inside else None
                owners[next_id] = replace(made, units=units)
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
