"""Local training: a few optimiser steps on fresh rollouts, and what they changed.

A plain loop of our own, so that nothing outside a step's groups enters its gradient. The policy comes back as it was.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fgrpo_secure.adapters import Policy
from fgrpo_secure.config import Grpo
from fgrpo_secure.grpo.advantages import group_advantages
from fgrpo_secure.grpo.forward import Reading
from fgrpo_secure.grpo.objective import objective
from fgrpo_secure.grpo.rollouts import Rollouts


@dataclass(frozen=True)
class PromptGroups:
    """Rollouts with their rewards, shape (prompts, completions). Secret."""

    rollouts: Rollouts = field(repr=False)
    rewards: NDArray[np.float64] = field(repr=False)


def run(
    policy: Policy,
    next_groups: Callable[[int], PromptGroups],
    settings: Grpo,
    round_number: int,
    local_steps: int,
) -> NDArray[np.float64]:
    """The change of the round's factors, shape (dimension,), after `local_steps` steps from the model as received.

    `next_groups(step)` samples with the policy as it is then. The optimiser starts afresh in every round.
    """
    received = policy.get_vector(round_number)
    parameters = policy.trainable(round_number)
    optimizer = local_optimizer(parameters, settings)
    try:
        for step in range(local_steps):
            _learn(policy, parameters, optimizer, next_groups(step), settings)
        return policy.get_vector(round_number) - received
    finally:
        policy.set_vector(round_number, received)
        for parameter in parameters:
            parameter.grad = None


def completion_logp(policy: Policy, rollouts: Rollouts, temperature: float) -> torch.Tensor:
    """Log-probability of every completion token at `temperature`, shape (sequences, tokens)."""
    ids = rollouts.ids
    reading = Reading(
        policy.network, rollouts.prompt_ids, rollouts.prompt_mask, ids.shape[0] // rollouts.prompt_ids.shape[0]
    )
    logits = reading.next_logits.unsqueeze(1)
    if ids.shape[1] > 1:
        logits = torch.cat([logits, reading.feed(ids[:, :-1])], dim=1)
    scaled = logits.float() / temperature
    return -functional.cross_entropy(scaled.flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape)


def loss(policy: Policy, groups: PromptGroups, settings: Grpo) -> torch.Tensor:
    """The objective of fresh rollouts, a scalar that depends on the trainable factors: old and new policy are one."""
    advantages, mask = _signal(groups, settings)
    reference = _reference_logp(policy, groups.rollouts, settings)
    logp = completion_logp(policy, groups.rollouts, settings.temperature)
    return objective(logp, logp.detach(), reference, advantages, mask, settings)


def _learn(
    policy: Policy,
    parameters: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    groups: PromptGroups,
    settings: Grpo,
) -> None:
    rollouts = groups.rollouts
    advantages, mask = _signal(groups, settings)
    reference = _reference_logp(policy, rollouts, settings)
    old: torch.Tensor | None = None
    for _ in range(settings.num_iterations):
        logp = completion_logp(policy, rollouts, settings.temperature)
        old = logp.detach() if old is None else old  # the first iteration's policy is the one that sampled
        total = objective(logp, old, reference, advantages, mask, settings)
        for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
            parameter.grad = gradient
        if settings.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()


def _signal(groups: PromptGroups, settings: Grpo) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages, shape (sequences,), and the mask of the tokens that count, (sequences, tokens)."""
    rollouts = groups.rollouts
    rewards = torch.from_numpy(groups.rewards)
    advantages = group_advantages(rewards, settings.scale_rewards).flatten().float().to(rollouts.ids.device)
    mask = rollouts.mask.float()
    if settings.mask_truncated_completions:
        mask = mask * (~rollouts.truncated).unsqueeze(1)
    return advantages, mask


def _reference_logp(policy: Policy, rollouts: Rollouts, settings: Grpo) -> torch.Tensor | None:
    """Log-probabilities under the model without adapter, if there is a KL term."""
    if settings.beta == 0:
        return None
    with torch.no_grad(), policy.without_adapter():
        return completion_logp(policy, rollouts, settings.temperature)


def local_optimizer(parameters: list[torch.nn.Parameter], settings: Grpo) -> torch.optim.Optimizer:
    """The optimiser of local steps, without memory of earlier rounds."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=settings.learning_rate)
    return torch.optim.Adam(parameters, lr=settings.learning_rate)
