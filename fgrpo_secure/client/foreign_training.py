"""A round's training by an owner's own trainer: what is asked of its process, and what its answer is worth.

The trainer may be anything, and its update is taken for nothing but numbers of the right length: whatever they are,
`privatise` clips and noises them like the built-in loop's.
"""

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from fgrpo_secure.config.schema import Client
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.grpo.isolated_reward import Limits
from fgrpo_secure.learning.tasks import Row, Source
from fgrpo_secure.learning.trainers import trainer_process
from fgrpo_secure.learning.trainers.lesson import LOGGED
from fgrpo_secure.learning.trainers.trainer_process import TrainerError
from fgrpo_secure.plan.round_settings import RoundSettings

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Taught:
    """What a trainer's process answered: the change of the round's factors, shape (dimension,), the rewards that it saw
    first, in this owner's scale, zero where it names none, and figures for the owner's own view. Secret."""

    update: FloatArray = field(repr=False)
    rewards: FloatArray = field(repr=False)
    log: Mapping[str, float] = field(repr=False)


LARGEST = 1e9  # of a reward that a trainer reports; larger ones have no finite variance


def train(
    client: Client, source: Source, adapted: AdaptedModel, settings: RoundSettings, seed: int, limits: Limits
) -> Taught:
    """A round's training. `limits` are those of a call of its rewards. Raises TrainerError, also where training takes
    longer than the round leaves."""
    request = _request(client, _rows(source, settings), adapted, settings, seed)
    answer = trainer_process.call({**request, "limits": asdict(limits)}, settings.training_seconds)
    update, seen = _update(answer, adapted.dimension(settings.training_round)), client.reward_scale * _rewards(answer)
    return Taught(update, seen, _log(answer, seen, client.reward_scale))


def _rows(source: Source, settings: RoundSettings) -> list[Row]:
    """The prompts that the built-in loop would train on."""
    steps, count = range(settings.local_steps), settings.grpo.prompts_per_step
    return [row for step in steps for row in source.batch(settings.training_round, step, count)]


def _request(
    client: Client, rows: list[Row], adapted: AdaptedModel, settings: RoundSettings, seed: int
) -> dict[str, Any]:
    return {
        "spec": client.trainer,
        "options": dict(client.trainer_settings),
        "client": client.model_dump(mode="json"),
        "rows": rows,
        "model": adapted.base.settings.model_dump(mode="json"),
        "adapter": settings.adapter.model_dump(mode="json"),
        "factors": base64.b64encode(save(adapted.full_state())).decode(),
        "training_round": settings.training_round,
        "grpo": settings.grpo.model_dump(mode="json"),
        "steps": settings.local_steps,
        "threads": torch.get_num_threads(),
        "seed": seed,
    }


def _update(answer: Mapping[str, Any], dimension: int) -> FloatArray:
    # Raw numbers, never pickled: unpickling would run the trainer's code in the process that holds the keys.
    update = np.frombuffer(base64.b64decode(answer["update"])).copy()
    if update.shape != (dimension,):
        raise TrainerError(f"the trainer left {update.size} numbers where the round's factors have {dimension}")
    return update


def _log(answer: Mapping[str, Any], seen: FloatArray, scale: float) -> dict[str, float]:
    """In this owner's scale; of a trainer that logs nothing the rewards that it returned, if it did."""
    given = answer.get("log")
    found = {
        name: float(given[name]) for name in LOGGED if isinstance(given, dict) and isinstance(given.get(name), float)
    }
    if "reward" in found:
        return found | {name: scale * found[name] for name in ("reward", "reward_spread") if name in found}
    if answer["rewards"]:
        found |= {"reward": float(seen.mean()), "reward_low": float(seen.min()), "reward_high": float(seen.max())}
    return found


def _rewards(answer: Mapping[str, Any]) -> FloatArray:
    """Shape (1, rewards). Without any a history of zeros, under which weights stay as they are."""
    given = answer["rewards"]
    if not isinstance(given, list) or not all(isinstance(each, float) and abs(each) <= LARGEST for each in given):
        raise TrainerError(f"the trainer's rewards must be numbers from {-LARGEST:g} to {LARGEST:g}")
    return np.array([given or [0.0]], dtype=np.float64)
