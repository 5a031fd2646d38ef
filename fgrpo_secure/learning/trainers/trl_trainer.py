"""TRL's GRPOTrainer as a trainer: the run's [grpo] by TRL's own names, and over it the owner's fields of GRPOConfig.

So vLLM, tools, environments, quantised bases and several GPUs come from there. What the run fixes for all clients may
not be changed by one of them: neither the steps of a round nor where results go.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]  # ships no types
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from fgrpo_secure.learning.grpo import prompts, reward_call
from fgrpo_secure.learning.grpo.reward_call import RewardError, RewardFunction
from fgrpo_secure.learning.trainers.lesson import Lesson

OURS = ("output_dir", "max_steps", "num_train_epochs", "save_strategy", "push_to_hub", "seed")
SAME = (  # of the run's table, under the same name
    "num_generations", "loss_type", "epsilon", "epsilon_high", "beta", "importance_sampling_level", "num_iterations",
    "learning_rate", "max_completion_length", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
    "mask_truncated_completions", "use_bias_correction_kl",
)  # fmt: skip

NAMES = {  # of `LOGGED`, as TRL calls them
    "reward": "reward", "reward_spread": "reward_std", "alike": "frac_reward_zero_std",
    "length": "completions/mean_length", "cut_off": "completions/clipped_ratio", "entropy": "entropy", "kl": "kl",
    "clip_ratio": "clip_ratio/region_mean",
}  # fmt: skip


def check(options: Mapping[str, Any]) -> None:
    """Returns if GRPOConfig has fields of these names that an owner may set. Raises RewardError."""
    known = {each.name for each in fields(GRPOConfig)}
    for name in options:
        if name in OURS:
            raise RewardError(f"trainer_settings.{name} is fixed for every client of a run; leave it out")
        if name not in known:
            raise RewardError(f"trainer_settings.{name} is no field of this TRL's GRPOConfig")


def train(lesson: Lesson) -> Sequence[float]:
    """Train in place; the mean reward of each step, of which the first is before any change."""
    with TemporaryDirectory() as out:
        trainer = GRPOTrainer(
            model=lesson.adapter,
            reward_funcs=[_as_trl_calls(name, function) for name, function in lesson.rewards.items()],
            args=GRPOConfig(**_fields(lesson, out)),
            train_dataset=Dataset.from_list([_row(row, lesson) for row in lesson.rows]),
            processing_class=lesson.tokenizer,
        )
        _compare_with(lesson.adapter, lesson.start)
        trainer.train()
    lesson.log.update(_means(trainer.state.log_history))
    return [float(line["reward"]) for line in trainer.state.log_history if "reward" in line][:1]


def _means(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What TRL logged at the steps of this round, as means, by the names of `LOGGED`."""
    found = {}
    for ours, theirs in NAMES.items():
        values = [float(line[theirs]) for line in history if theirs in line]
        if values:
            found[ours] = sum(values) / len(values)
    return found


def _compare_with(adapter: Any, start: Mapping[str, torch.Tensor]) -> None:
    """Let the KL term, where there is one, compare with the run's start.

    **Why** TRL keeps a copy of the adapter that it is given, under the name "ref". It is given one in each round, as
    the rounds before have left it: the reference would move along.
    """
    if "ref" in adapter.peft_config:
        with torch.no_grad():
            for name, tensor in start.items():
                adapter.get_parameter(name.replace(".default.", ".ref.")).copy_(tensor)


def _fields(lesson: Lesson, out: str) -> dict[str, Any]:
    """Of GRPOConfig. An owner's fields stand over the run's, and what a run needs over both."""
    settings, device = lesson.settings, lesson.adapter.device.type
    plain: dict[str, Any] = {
        "per_device_train_batch_size": settings.num_generations * settings.prompts_per_step,
        "max_grad_norm": settings.max_grad_norm or 0.0,
        "scale_rewards": settings.scale_rewards,
        "optim": "sgd" if settings.optimizer == "sgd" else "adamw_torch",
        "weight_decay": 0.0,
        "lr_scheduler_type": "constant",
        "gradient_checkpointing": False,  # the owner's own field of GRPOConfig switches it on
        "bf16": False,
        "use_cpu": device == "cpu",
        "report_to": "none",
        "logging_steps": 1,
        "disable_tqdm": True,
        "shuffle_dataset": False,
        "reward_weights": None if lesson.reward_weights is None else list(lesson.reward_weights),
        "chat_template_kwargs": dict(settings.chat_template_kwargs) or None,
    }
    fixed = {"output_dir": out, "max_steps": lesson.steps, "save_strategy": "no", "seed": lesson.seed % 2**32}
    return {**{name: getattr(settings, name) for name in SAME}, **plain, **lesson.options, **fixed}


def _row(row: Mapping[str, Any], lesson: Lesson) -> dict[str, Any]:
    return {**row, "prompt": prompts.conversation(row["prompt"], lesson.settings)}


def _as_trl_calls(name: str, function: RewardFunction) -> Callable[..., list[float | None]]:
    """The function under its own name, with what a reward of a run gets and nothing of TRL's state besides."""

    def reward(completions: Sequence[Any], trainer_state: Any = None, **columns: Any) -> list[float | None]:
        for unused in (*reward_call.LOGS, "environments"):
            columns.pop(unused, None)
        state = {"global_step": getattr(trainer_state, "global_step", 0)}
        arguments = {**columns, "completions": completions, reward_call.STATE: state}
        return reward_call.call(function, arguments, len(completions))

    reward.__name__ = name.rpartition("/")[2]
    return reward
