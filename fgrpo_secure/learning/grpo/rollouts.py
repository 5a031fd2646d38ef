"""Sampling completions: batched, with a key-value cache, each prompt read once for its whole group.

Works on any Hugging Face causal model. Randomness comes from the streams that are passed in, and nothing else. They go
to the model's device once; token by token nothing of ours comes back from it, but for the texts that stop strings are
looked for in, and every few tokens whether all completions have ended. (transformers asks once for each token whether
there is padding.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from fgrpo_secure.config.schema import Grpo
from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.grpo import prompts as prompt_forms
from fgrpo_secure.learning.grpo import sampling
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.grpo.forward import PlainRows, Reading, opened
from fgrpo_secure.learning.grpo.prompts import Prompt

# From the number of the token, its logits, and the tokens there were before or None, both of shape (sequences,
# vocabulary), to the tokens, shape (sequences,).
Draw = Callable[[int, torch.Tensor, torch.Tensor | None], torch.Tensor]
TOKENS_UNSEEN = 8  # as many at most are drawn for nothing, once all have ended


class NotFinite(UnusableInput):
    """The model gives the next token no probability: its weights, or what was trained, are out of bounds."""


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


def sample(adapted: AdaptedModel, prompts: Sequence[Prompt], settings: Grpo, streams: Streams) -> Rollouts:
    """`settings.num_generations` sampled completions of each prompt. Raises UnusablePrompt or NotFinite."""
    rows, group, device = _token_rows(adapted, prompts, settings), settings.num_generations, adapted.network.device
    exact = torch.float32 if device.type == "mps" else torch.float64  # which mps lacks
    uniform = torch.from_numpy(streams.uniform(rows, group, settings.max_completion_length)).to(device, exact)
    finite = torch.ones(uniform.shape[0], dtype=torch.bool, device=device)

    def draw(index: int, logits: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        weights = sampling.weights(logits, seen, settings)
        finite.logical_and_(weights[:, 0].isfinite())  # softmax makes all of a row NaN or none; looked at in the end
        return sampling.inverse_cdf(weights, uniform[:, index])

    made = _generate(adapted, rows, group, settings, draw)
    if not finite.all():
        raise NotFinite("the model's probabilities of a next token are not finite: its weights or its adapter overflow")
    return made


def greedy(adapted: AdaptedModel, prompts: Sequence[Prompt], settings: Grpo) -> Rollouts:
    """The most likely continuation of each prompt, token by token. Raises UnusablePrompt."""

    def draw(_: int, logits: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        return sampling.penalised(logits, seen, settings).argmax(dim=-1)

    return _generate(adapted, _token_rows(adapted, prompts, settings), 1, settings, draw)


def _generate(
    adapted: AdaptedModel, prompts: Sequence[Sequence[int]], group: int, settings: Grpo, draw: Draw
) -> Rollouts:
    tokenizer = adapted.base.tokenizer
    prompt_ids, prompt_mask = _padded(adapted, prompts)
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


def _token_rows(adapted: AdaptedModel, prompts: Sequence[Prompt], settings: Grpo) -> list[list[int]]:
    """The tokens of each prompt. Raises UnusablePrompt."""
    for prompt in prompts:
        prompt_forms.check_size(prompt, adapted.base.context_length)
    return [prompt_forms.token_ids(adapted.base.tokenizer, prompt, settings) for prompt in prompts]


def _padded(adapted: AdaptedModel, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, mask) of prompts, shape (prompts, tokens), padded on the left."""
    pad, device, width = adapted.base.tokenizer.pad_token_id, adapted.network.device, max(map(len, rows))
    ids = [[pad] * (width - len(row)) + [*row] for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _seen(ids: torch.Tensor, mask: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Which tokens stand in each row, padding aside, shape (rows, vocabulary)."""
    counts = torch.zeros((ids.shape[0], vocabulary), dtype=torch.long, device=ids.device)
    return counts.scatter_add(1, ids, mask) > 0


def _looks_every(device: torch.device) -> int:
    """After how many tokens it is asked whether all completions have ended: asking waits for an accelerator."""
    return 1 if device.type == "cpu" else TOKENS_UNSEEN


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
        pad, device = self.adapted.base.tokenizer.pad_token_id, logits.device
        looks_every = _looks_every(device)
        end_ids = torch.tensor(self.adapted.base.end_ids, device=device)
        ids = torch.full((logits.shape[0], length), pad, device=device)
        ends = torch.full((logits.shape[0],), length, device=device)
        alive = torch.ones_like(ends, dtype=torch.bool)
        for index in range(length):
            token = torch.where(alive, draw(index, logits, seen), pad)
            ids[:, index] = token
            if seen is not None:
                seen.scatter_(1, token.unsqueeze(1), True)
            ended = alive & (torch.isin(token, end_ids) | self._stopped(ids[:, : index + 1]))
            ends = torch.where(ended, index + 1, ends)
            alive = alive & ~ended
            if index + 1 == length or ((index + 1) % looks_every == 0 and not alive.any()):
                break
            logits = reading.feed(token.unsqueeze(1))[:, -1]
        return ids, ends, ~alive

    def _stopped(self, ids: torch.Tensor) -> torch.Tensor | bool:
        """Which completions hold a stop string, shape (sequences,)."""
        if not self.settings.stop:
            return False
        texts: list[str] = self.adapted.base.tokenizer.batch_decode(ids, skip_special_tokens=True)
        stopped = [any(stop in text for stop in self.settings.stop) for text in texts]
        return torch.tensor(stopped, device=ids.device)
