"""Sampling completions: batched, with a key-value cache, each prompt read once for its whole group.

Works on any Hugging Face causal model. Randomness comes from the generator that is passed in, and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fgrpo_secure.adapters import Policy
from fgrpo_secure.config import Grpo


class PromptTooLong(ValueError):
    """A prompt leaves no room for its completion in the model's context."""


@dataclass(frozen=True)
class Rollouts:
    """Prompts and G completions of each, completions of a prompt together. Secret.

    Token tensors have one row per completion; prompts are padded on the left, completions on the right. `mask` is 1
    on completion tokens up to and including the end-of-sequence token, `truncated` true where there is none.
    """

    prompt_ids: torch.Tensor = field(repr=False)
    prompt_mask: torch.Tensor = field(repr=False)
    ids: torch.Tensor = field(repr=False)
    mask: torch.Tensor = field(repr=False)
    truncated: torch.Tensor = field(repr=False)
    completions: list[str] = field(repr=False)

    @property
    def completion_ids(self) -> list[list[int]]:
        """Each completion's tokens, as reward functions get them."""
        return [row[: int(kept)].tolist() for row, kept in zip(self.ids, self.mask.sum(1), strict=True)]


def sample(policy: Policy, prompts: Sequence[str], settings: Grpo, generator: torch.Generator) -> Rollouts:
    """`settings.num_generations` sampled completions of each prompt. Raises PromptTooLong."""

    def draw(logits: torch.Tensor) -> torch.Tensor:
        probabilities = torch.softmax(logits.float() / settings.temperature, dim=-1)
        if settings.top_p < 1:
            probabilities = _nucleus(probabilities, settings.top_p)
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)

    return _generate(policy, prompts, settings.num_generations, settings.max_completion_length, draw)


def greedy(policy: Policy, prompts: Sequence[str], max_new_tokens: int) -> Rollouts:
    """The most likely continuation of each prompt, token by token. Raises PromptTooLong."""
    return _generate(policy, prompts, 1, max_new_tokens, lambda logits: logits.argmax(dim=-1))


def check_prompts(policy: Policy, prompts: Sequence[str], max_new_tokens: int) -> None:
    """Raises PromptTooLong if a prompt and its completion do not fit the model's context."""
    for ids in policy.base.tokenizer(list(prompts))["input_ids"]:
        _check_length(policy, len(ids), max_new_tokens)


def _check_length(policy: Policy, length: int, max_new_tokens: int) -> None:
    if length + max_new_tokens > policy.base.context_length:
        raise PromptTooLong(
            f"a prompt of {length} tokens and {max_new_tokens} new ones do not fit the model's context of "
            f"{policy.base.context_length}"
        )


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero for every token outside the smallest set whose probability reaches `top_p`."""
    ordered, order = probabilities.sort(dim=-1, descending=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    return torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(outside, 0.0))


def _generate(policy: Policy, prompts: Sequence[str], group: int, length: int, draw: Any) -> Rollouts:
    tokenizer, model = policy.base.tokenizer, policy.network
    encoded = tokenizer(list(prompts), padding=True, return_tensors="pt").to(model.device)
    _check_length(policy, encoded["input_ids"].shape[1], length)
    prompt_ids = encoded["input_ids"].repeat_interleave(group, dim=0)
    prompt_mask = encoded["attention_mask"].repeat_interleave(group, dim=0)
    with policy.merged(), torch.inference_mode():
        drawn = _decode(model, encoded, group, length, draw, tokenizer.eos_token_id, tokenizer.pad_token_id)
    ids, finished_at = (tensor.clone() for tensor in drawn)  # usable in training: inference tensors are not
    mask = (torch.arange(ids.shape[1], device=ids.device) <= finished_at.unsqueeze(1)).to(prompt_mask.dtype)
    return Rollouts(
        prompt_ids,
        prompt_mask,
        ids,
        mask,
        finished_at >= ids.shape[1],
        tokenizer.batch_decode(ids * mask + tokenizer.pad_token_id * (1 - mask), skip_special_tokens=True),
    )


def _decode(
    model: Any, encoded: Any, group: int, length: int, draw: Any, eos: int, pad: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, position of the end-of-sequence token or `length`), one row per completion."""
    attention = encoded["attention_mask"]
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    out = model(
        input_ids=encoded["input_ids"],
        attention_mask=attention,
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
    )
    cache = out.past_key_values
    cache.batch_repeat_interleave(group)
    logits = out.logits[:, -1].repeat_interleave(group, dim=0)
    attention = attention.repeat_interleave(group, dim=0)
    next_position = positions[:, -1:].repeat_interleave(group, dim=0) + 1
    rows = logits.shape[0]
    ids = torch.full((rows, length), pad, dtype=torch.long, device=logits.device)
    finished_at = torch.full((rows,), length, dtype=torch.long, device=logits.device)
    for index in range(length):
        token = draw(logits)
        alive = finished_at == length
        ids[:, index] = torch.where(alive, token, pad)
        finished_at = torch.where(alive & (token == eos), index, finished_at)
        if index + 1 == length or bool((finished_at < length).all()):
            break
        attention = torch.cat([attention, attention.new_ones(rows, 1)], dim=1)
        out = model(
            input_ids=ids[:, index : index + 1],
            attention_mask=attention,
            position_ids=next_position + index,
            past_key_values=cache,
            use_cache=True,
        )
        logits = out.logits[:, -1]
    used = min(length, int(finished_at.max()) + 1)
    return ids[:, :used], finished_at.clamp(max=used) if used < length else finished_at
