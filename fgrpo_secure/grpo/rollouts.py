"""Sampling completions: batched, with a key-value cache, each prompt read once for its whole group.

Works on any Hugging Face causal model. Randomness comes from the generator that is passed in, and nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from fgrpo_secure.adapters import Policy
from fgrpo_secure.config import Grpo
from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.grpo.forward import Reading

Draw = Callable[[torch.Tensor], torch.Tensor]  # logits (sequences, vocabulary) -> tokens (sequences,)


class PromptTooLong(UnusableInput):
    """A prompt leaves no room for its completion in the model's context."""


@dataclass(frozen=True)
class Rollouts:
    """P prompts and G completions of each, completions of a prompt together. Secret.

    `prompt_ids` and `prompt_mask` have shape (P, prompt tokens), padded on the left; `ids` and `mask` (P * G,
    completion tokens), padded on the right. `mask` is 1 on tokens up to and including the end-of-sequence token;
    `truncated`, shape (P * G,), is true where there is none. Texts and `completion_ids` end with their completion.
    """

    prompt_ids: torch.Tensor = field(repr=False)
    prompt_mask: torch.Tensor = field(repr=False)
    ids: torch.Tensor = field(repr=False)
    mask: torch.Tensor = field(repr=False)
    truncated: torch.Tensor = field(repr=False)
    completion_ids: list[list[int]] = field(repr=False)
    completions: list[str] = field(repr=False)


def sample(policy: Policy, prompts: Sequence[str], settings: Grpo, generator: torch.Generator) -> Rollouts:
    """`settings.num_generations` sampled completions of each prompt. Raises PromptTooLong."""

    def draw(logits: torch.Tensor) -> torch.Tensor:
        probabilities = torch.softmax(logits.float() / settings.temperature, dim=-1)
        if settings.top_p < 1:
            probabilities = _nucleus(probabilities, settings.top_p)
        drawn = torch.multinomial(probabilities.to(generator.device), 1, generator=generator)
        return drawn.squeeze(1).to(logits.device)

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


def _generate(policy: Policy, prompts: Sequence[str], group: int, length: int, draw: Draw) -> Rollouts:
    tokenizer = policy.base.tokenizer
    encoded = tokenizer(list(prompts), padding=True, return_tensors="pt").to(policy.network.device)
    prompt_ids, prompt_mask = encoded["input_ids"], encoded["attention_mask"]
    _check_length(policy, prompt_ids.shape[1], length)
    with policy.merged(), torch.inference_mode():
        reading = Reading(policy.network, prompt_ids, prompt_mask, group)
        drawn, ends = _decode(reading, length, draw, tokenizer.eos_token_id, tokenizer.pad_token_id)
    width = int(ends.max())
    ids = drawn[:, :width].clone()  # a tensor made in inference mode cannot be trained on
    mask = (torch.arange(width, device=ids.device) < ends.unsqueeze(1)).to(prompt_mask.dtype)
    rows = zip(ids.tolist(), ends.tolist(), strict=True)
    completion_ids = [row[:end] for row, end in rows]
    return Rollouts(
        prompt_ids,
        prompt_mask,
        ids,
        mask,
        (ids.gather(1, ends.unsqueeze(1) - 1) != tokenizer.eos_token_id).squeeze(1),
        completion_ids,
        tokenizer.batch_decode(completion_ids, skip_special_tokens=True),
    )


def _decode(reading: Reading, length: int, draw: Draw, eos: int, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, number of tokens that count), one row per completion; stops once all have ended."""
    logits = reading.next_logits
    ids = torch.full((logits.shape[0], length), pad, device=logits.device)
    ends = torch.full((logits.shape[0],), length, device=logits.device)
    alive = torch.ones_like(ends, dtype=torch.bool)
    for index in range(length):
        token = torch.where(alive, draw(logits), pad)
        ids[:, index] = token
        ended = alive & (token == eos)
        ends[ended] = index + 1
        alive = alive & ~ended
        if index + 1 == length or not alive.any():
            break
        logits = reading.feed(token.unsqueeze(1))[:, -1]
    return ids, ends
