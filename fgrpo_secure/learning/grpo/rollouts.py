"""Sampling completions: batched, with a key-value cache, each prompt read once for its whole group.

Works on any Hugging Face causal model. Randomness comes from the streams that are passed in, and nothing else. They go
to the model's device once; token by token nothing comes back from it. Every few tokens it is looked at which
completions have ended; once half of those that are read have, the others are read on without them.
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
from fgrpo_secure.learning.grpo.forward import PlainRows, Reading, opened, told
from fgrpo_secure.learning.grpo.prompts import Prompt

# From the numbers of the sequences that are read, the number of the token, its logits, and the tokens there were before
# or None, both of shape (sequences, vocabulary), to the tokens, shape (sequences,).
Draw = Callable[[torch.Tensor, int, torch.Tensor, torch.Tensor | None], torch.Tensor]
TOKENS_UNSEEN = 8  # between two looks at an accelerator: as many at most are drawn for nothing after an end


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

    def draw(rows: torch.Tensor, index: int, logits: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        weights = sampling.weights(logits, seen, settings)
        finite[rows] &= weights[:, 0].isfinite()  # softmax makes all of a row NaN or none; looked at in the end
        return sampling.inverse_cdf(weights, uniform[rows, index])

    made = _generate(adapted, rows, group, settings, draw)
    if not finite.all():
        raise NotFinite("the model's probabilities of a next token are not finite: its weights or its adapter overflow")
    return made


def greedy(adapted: AdaptedModel, prompts: Sequence[Prompt], settings: Grpo) -> Rollouts:
    """The most likely continuation of each prompt, token by token. Raises UnusablePrompt."""

    def draw(_: torch.Tensor, __: int, logits: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
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
        with told(padded=len(set(map(len, prompts))) > 1):
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
    """After how many tokens it is looked at what has ended: to look waits for an accelerator."""
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
        never = length + 1
        ends = torch.full((logits.shape[0],), never, device=device)
        rows, looked = torch.arange(logits.shape[0], device=device), 0  # those that are read on
        for index in range(length):
            token = torch.where(ends[rows] == never, draw(rows, index, logits, seen), pad)
            ids[rows, index] = token
            if seen is not None:
                seen.scatter_(1, token.unsqueeze(1), True)
            ended = (ends[rows] == never) & torch.isin(token, end_ids)
            ends[rows] = torch.where(ended, index + 1, ends[rows])
            last = index + 1 == length
            if last or (index + 1) % looks_every == 0:
                self._stop(ids, ends, looked, index + 1)
                looked, kept = index + 1, (ends[rows] == never).nonzero().squeeze(1)
                if last or not len(kept):
                    break
                if 2 * len(kept) <= len(rows):
                    # Rows have streams of their own: what is drawn for one does not depend on which others there are.
                    reading.keep(kept)
                    rows, token, seen = rows[kept], token[kept], None if seen is None else seen[kept]
            logits = reading.feed(token.unsqueeze(1))[:, -1]
        return ids, ends.clamp(max=length), ends <= length

    def _stop(self, ids: torch.Tensor, ends: torch.Tensor, looked: int, length: int) -> None:
        """End, in place, what of `length` tokens holds a stop string, with the first token after `looked` that made it
        hold one; pad what was drawn after that."""
        if not self.settings.stop:
            return
        drawn, counts = ids[:, :length].tolist(), ends.tolist()
        decode = self.adapted.base.tokenizer.batch_decode
        for row, count in enumerate(counts):
            lengths = range(looked + 1, min(count, length) + 1)
            texts = decode([drawn[row][:tokens] for tokens in lengths], skip_special_tokens=True) if lengths else []
            held = (
                n for n, text in zip(lengths, texts, strict=True) if any(stop in text for stop in self.settings.stop)
            )
            if (end := next(held, None)) is not None:
                ends[row] = end
                ids[row, end:] = self.adapted.base.tokenizer.pad_token_id
