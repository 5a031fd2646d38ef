"""Sampling completions: batched, with a key-value cache, each prompt read once for its whole group.

Works on any Hugging Face causal model. Randomness comes from the generator that is passed in, and nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fgrpo_secure.config.schema import Grpo
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.grpo import prompts as prompt_forms
from fgrpo_secure.learning.grpo import sampling
from fgrpo_secure.learning.grpo.forward import PlainRows, Reading, opened
from fgrpo_secure.learning.grpo.prompts import Prompt

# (logits, tokens that were there before or None), both (sequences, vocabulary) -> tokens (sequences,)
Draw = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


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

    def some(self, start: int, count: int) -> "Rollouts":
        """`count` completions from number `start` on: of whole groups, or of one."""
        group, rows = self.ids.shape[0] // self.prompt_ids.shape[0], slice(start, start + count)
        asked = slice(start // group, (start + count - 1) // group + 1)
        return Rollouts(
            self.prompt_ids[asked],
            self.prompt_mask[asked],
            self.ids[rows],
            self.mask[rows],
            self.truncated[rows],
            self.completion_ids[rows],
            self.completions[rows],
        )


def sample(adapted: AdaptedModel, prompts: Sequence[Prompt], settings: Grpo, generator: torch.Generator) -> Rollouts:
    """`settings.num_generations` sampled completions of each prompt. Raises UnusablePrompt."""

    def draw(logits: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        weights = sampling.weights(logits, seen, settings)
        drawn = torch.multinomial(weights.to(generator.device), 1, generator=generator)
        return drawn.squeeze(1).to(logits.device)

    return _generate(adapted, prompts, settings.num_generations, settings, draw)


def greedy(adapted: AdaptedModel, prompts: Sequence[Prompt], settings: Grpo) -> Rollouts:
    """The most likely continuation of each prompt, token by token. Raises UnusablePrompt."""

    def draw(logits: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        return sampling.penalised(logits, seen, settings).argmax(dim=-1)

    return _generate(adapted, prompts, 1, settings, draw)


def _generate(adapted: AdaptedModel, prompts: Sequence[Prompt], group: int, settings: Grpo, draw: Draw) -> Rollouts:
    tokenizer = adapted.base.tokenizer
    prompt_ids, prompt_mask = _encoded(adapted, prompts, settings)
    prompt_forms.check_length(prompt_ids.shape[1], settings.max_completion_length, adapted.base.context_length)
    with adapted.merged(), torch.inference_mode():
        reading = opened(adapted.network, prompt_ids, prompt_mask, group, adapted.base.from_cache)
        seen = None
        if settings.repetition_penalty != 1:
            seen = _seen(prompt_ids, prompt_mask, reading.next_logits.shape[1]).repeat_interleave(group, dim=0)
        drawn, ends, finished = _Decoding(adapted, settings).run(reading, draw, seen)
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
        ~finished.clone(),
        completion_ids,
        tokenizer.batch_decode(completion_ids, skip_special_tokens=True),
    )


def _encoded(adapted: AdaptedModel, prompts: Sequence[Prompt], settings: Grpo) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, mask) of the prompts, shape (prompts, tokens), padded on the left."""
    tokenizer, device = adapted.base.tokenizer, adapted.network.device
    for prompt in prompts:
        prompt_forms.check_size(prompt, adapted.base.context_length)
    rows = [prompt_forms.token_ids(tokenizer, prompt, settings) for prompt in prompts]
    width = max(map(len, rows))
    ids = [[tokenizer.pad_token_id] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _seen(ids: torch.Tensor, mask: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Which tokens stand in each row, padding aside, shape (rows, vocabulary)."""
    counts = torch.zeros((ids.shape[0], vocabulary), dtype=torch.long, device=ids.device)
    return counts.scatter_add(1, ids, mask) > 0


@dataclass(frozen=True)
class _Decoding:
    """Token after token until every completion has ended: by an end token, by a stop string, or by its length."""

    adapted: AdaptedModel
    settings: Grpo

    def run(
        self, reading: Reading | PlainRows, draw: Draw, seen: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(tokens, number of tokens that count, whether it came to its end), one row per completion."""
        logits, length = reading.next_logits, self.settings.max_completion_length
        pad = self.adapted.base.tokenizer.pad_token_id
        ids = torch.full((logits.shape[0], length), pad, device=logits.device)
        ends = torch.full((logits.shape[0],), length, device=logits.device)
        alive = torch.ones_like(ends, dtype=torch.bool)
        for index in range(length):
            token = torch.where(alive, draw(logits, seen), pad)
            ids[:, index] = token
            if seen is not None:
                seen.scatter_(1, token.unsqueeze(1), True)
            ended = alive & self._ended(token, ids[:, : index + 1])
            ends[ended] = index + 1
            alive = alive & ~ended
            if index + 1 == length or not alive.any():
                break
            logits = reading.feed(token.unsqueeze(1))[:, -1]
        return ids, ends, ~alive

    def _ended(self, token: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Which completions end with their last token, shape (sequences,)."""
        ended = torch.isin(token, torch.tensor(self.adapted.base.end_ids, device=token.device))
        if self.settings.stop:
            texts: list[Any] = self.adapted.base.tokenizer.batch_decode(ids, skip_special_tokens=True)
            stopped = [any(stop in text for stop in self.settings.stop) for text in texts]
            ended = ended | torch.tensor(stopped, device=token.device)
        return ended
