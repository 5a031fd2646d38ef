"""Local training: a few optimiser steps on fresh rollouts, and what they changed.

A plain loop of our own, so that nothing outside a step's groups enters its gradient. The adapter comes back as it was.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fgrpo_secure.config.schema import Grpo
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.grpo import memory
from fgrpo_secure.learning.grpo.advantages import group_advantages
from fgrpo_secure.learning.grpo.forward import PlainRows, opened, recomputed
from fgrpo_secure.learning.grpo.moments import Moments
from fgrpo_secure.learning.grpo.objective import objective
from fgrpo_secure.learning.grpo.rollouts import Rollouts

PIECE = 64  # tokens of all completions whose softmax is computed at once, where memory counts


@dataclass(frozen=True)
class PromptGroups:
    """Rollouts with their rewards, shape (prompts, completions). Secret."""

    rollouts: Rollouts = field(repr=False)
    rewards: NDArray[np.float64] = field(repr=False)


@dataclass
class Tally:
    """Sums over the completion tokens of a round, for its owner alone. Secret. Nothing of it reaches a gradient.

    `surprise` is minus the log-probability of drawn tokens under the policy that drew them: entropy, on average.
    """

    tokens: float = field(default=0.0, repr=False)
    surprise: float = field(default=0.0, repr=False)
    divergence: float = field(default=0.0, repr=False)
    ratios: float = field(default=0.0, repr=False)  # tokens of later iterations, where a ratio can leave its range
    clipped: float = field(default=0.0, repr=False)
    lengths: list[float] = field(default_factory=list, repr=False)  # of what is clipped, before that: L2 norms

    def add(self, logp: torch.Tensor, part: "_Part", settings: Grpo, first: bool) -> None:
        """Count one part of a step; `first` says whether its policy is the one that drew it."""
        mask, count = part.mask, float(part.mask.sum())
        if not first and part.old is not None:
            ratio, high = torch.exp(logp - part.old), settings.epsilon_high or settings.epsilon
            outside = (ratio < 1 - settings.epsilon) | (ratio > 1 + high)
            self.ratios, self.clipped = self.ratios + count, self.clipped + float((outside * mask).sum())
            return
        self.tokens, self.surprise = self.tokens + count, self.surprise - float((logp * mask).sum())
        if part.reference is not None:
            difference = part.reference - logp
            self.divergence += float(((torch.exp(difference) - difference - 1) * mask).sum())


def run(
    adapted: AdaptedModel,
    next_groups: Callable[[int], PromptGroups],
    settings: Grpo,
    round_number: int,
    local_steps: int,
    tally: Tally | None = None,
    masks: Callable[[int], int] = lambda step: step,
    moments: Moments | None = None,
) -> NDArray[np.float64]:
    """The change of the round's factors, shape (dimension,), after `local_steps` steps from the model as received.

    `next_groups(step)` samples with the policy as it is then. The optimiser starts afresh in every round, or from
    `moments`, which are moved on. `tally` counts along. `masks(step)` is what a step's dropout is drawn from.
    """
    received = adapted.get_vector(round_number)
    parameters = adapted.trainable(round_number)
    optimizer, factors = local_optimizer(parameters, settings), adapted.factors(round_number)
    if moments is not None:
        moments.restore(factors, optimizer)
    try:
        for step in range(local_steps):
            groups = next_groups(step)
            with adapted.thinned(masks(step)):
                _learn(adapted, parameters, optimizer, groups, settings, tally)
        if moments is not None:
            moments.keep(factors, optimizer)
        return adapted.get_vector(round_number) - received
    finally:
        adapted.set_vector(round_number, received)
        for parameter in parameters:
            parameter.grad = None


def completion_logp(adapted: AdaptedModel, rollouts: Rollouts, temperature: float) -> torch.Tensor:
    """Log-probability of every completion token at `temperature`, shape (sequences, tokens)."""
    ids = rollouts.ids
    group = ids.shape[0] // rollouts.prompt_ids.shape[0]
    prompts, base = (rollouts.prompt_ids, rollouts.prompt_mask), adapted.base
    if not (base.settings.gradient_checkpointing and torch.is_grad_enabled()):
        logits = opened(adapted.network, *prompts, group, base.from_cache).follow(ids)
        return _picked(logits, ids, temperature)
    with recomputed(adapted.network):
        logits = PlainRows(adapted.network, *prompts, group).follow(ids)
    pieces = zip(logits.split(PIECE, dim=1), ids.split(PIECE, dim=1), strict=True)
    return torch.cat([checkpoint(_picked, *piece, temperature, use_reentrant=False) for piece in pieces], dim=1)


def _picked(logits: torch.Tensor, ids: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probability of each of `ids`, shape (sequences, tokens)."""
    scaled = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
    return -functional.cross_entropy(scaled.flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape)


def gradients(
    adapted: AdaptedModel,
    parameters: list[torch.nn.Parameter],
    groups: PromptGroups,
    settings: Grpo,
    times: int,
    tally: Tally | None = None,
) -> list[torch.Tensor]:
    """Each parameter's gradient of `times` the objective of fresh rollouts: old and new policy are one."""
    return _gradients(adapted, parameters, _parts(adapted, groups, settings), settings, times, tally)


@dataclass
class _Part:
    """Some of a step's completions, with what their objective needs. Secret. `share` is their part of the denominator;
    None where they are all. `old` is set by the first iteration, whose policy is the one that sampled."""

    rollouts: Rollouts = field(repr=False)
    advantages: torch.Tensor = field(repr=False)
    mask: torch.Tensor = field(repr=False)
    share: torch.Tensor | float | None
    reference: torch.Tensor | None = field(repr=False)
    old: torch.Tensor | None = field(default=None, repr=False)


def _learn(
    adapted: AdaptedModel,
    parameters: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    groups: PromptGroups,
    settings: Grpo,
    tally: Tally | None,
) -> None:
    split = _parts(adapted, groups, settings)
    for _ in range(settings.num_iterations):
        found = _gradients(adapted, parameters, split, settings, tally=tally)
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient
        if settings.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()


def _gradients(
    adapted: AdaptedModel,
    parameters: list[torch.nn.Parameter],
    split: list[_Part],
    settings: Grpo,
    times: int = 1,
    tally: Tally | None = None,
) -> list[torch.Tensor]:
    """One backward for each part, whose gradients add up to the whole's: the objective is a sum over completions."""
    total: list[torch.Tensor] = []
    for part in split:
        logp = completion_logp(adapted, part.rollouts, settings.temperature)
        if tally is not None:
            tally.add(logp.detach(), part, settings, part.old is None)
        part.old = logp.detach() if part.old is None else part.old
        value = times * objective(logp, part.old, part.reference, part.advantages, part.mask, settings)
        found = torch.autograd.grad(value if part.share is None else value * part.share, parameters)
        total = [before + more for before, more in zip(total, found, strict=True)] if total else list(found)
    return total


def _parts(adapted: AdaptedModel, groups: PromptGroups, settings: Grpo) -> list[_Part]:
    """The step as a whole where its memory allows it, else a few completions at a time: whole groups, or pieces of one.

    A part's objective has its own denominator; times `share` it has the step's.
    """
    rollouts = groups.rollouts
    advantages, mask = _signal(groups, settings)
    sequences, size = mask.shape[0], memory.completions_at_once(adapted, rollouts)
    made = []
    for start in range(0, sequences, size):
        rows = slice(start, start + size)
        by_tokens = settings.loss_type in ("bnpo", "dapo")
        share = mask[rows].sum().clamp(min=1) / mask.sum().clamp(min=1) if by_tokens else size / sequences
        part = rollouts if size == sequences else rollouts.some(start, size)
        reference = _reference_logp(adapted, part, settings)
        made.append(_Part(part, advantages[rows], mask[rows], None if size == sequences else share, reference))
    return made


def _signal(groups: PromptGroups, settings: Grpo) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages, shape (sequences,), and the mask of the tokens that count, (sequences, tokens)."""
    rollouts = groups.rollouts
    rewards = torch.from_numpy(groups.rewards)
    advantages = group_advantages(rewards, settings.scale_rewards).flatten().float().to(rollouts.ids.device)
    mask = rollouts.mask.float()
    if settings.mask_truncated_completions:
        mask = mask * (~rollouts.truncated).unsqueeze(1)
    return advantages, mask


def _reference_logp(adapted: AdaptedModel, rollouts: Rollouts, settings: Grpo) -> torch.Tensor | None:
    """Log-probabilities under the model that the KL term compares with, if there is one."""
    if settings.beta == 0:
        return None
    with torch.no_grad(), adapted.reference():
        return completion_logp(adapted, rollouts, settings.temperature)


def local_optimizer(parameters: list[torch.nn.Parameter], settings: Grpo) -> torch.optim.Optimizer:
    """The optimiser of local steps, without memory of earlier rounds."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=settings.learning_rate)
    return torch.optim.Adam(parameters, lr=settings.learning_rate)
