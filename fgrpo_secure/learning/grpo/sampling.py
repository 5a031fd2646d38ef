"""The next token's distribution under the settings that shape it, in the order in which transformers applies them:
repetition_penalty, temperature, top_k, top_p, min_p; and its draw. Pure arithmetic; names and meanings are TRL's.
"""

import torch

from fgrpo_secure.config.schema import Grpo


def penalised(logits: torch.Tensor, seen: torch.Tensor | None, settings: Grpo) -> torch.Tensor:
    """Float32 logits, shape (sequences, vocabulary); those of tokens that are `seen`, of the same shape, made less
    likely by `settings.repetition_penalty`."""
    scores = logits.float()
    if seen is None or settings.repetition_penalty == 1:
        return scores
    penalty = settings.repetition_penalty
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def weights(logits: torch.Tensor, seen: torch.Tensor | None, settings: Grpo) -> torch.Tensor:
    """What to draw the next token by: probabilities up to a factor for each sequence, shape (sequences, vocabulary)."""
    probabilities = torch.softmax(penalised(logits, seen, settings) / settings.temperature, dim=-1)
    if 0 < settings.top_k < probabilities.shape[-1]:
        least = probabilities.topk(settings.top_k, dim=-1).values[..., -1:]
        kept = probabilities.masked_fill(probabilities < least, 0.0)
        probabilities = kept / kept.sum(dim=-1, keepdim=True)
    if settings.top_p < 1:
        probabilities = _nucleus(probabilities, settings.top_p)
    if settings.min_p:
        least = settings.min_p * probabilities.max(dim=-1, keepdim=True).values
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    return probabilities


def inverse_cdf(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The tokens that numbers `uniform` in (0, 1], shape (sequences,), stand for: the first of each row of
    `probabilities`, shape (sequences, vocabulary), up to a factor, whose sum with those before it reaches its number.

    A row's token depends on that row alone, and is one that has a probability. A row that is not finite gives any.
    """
    # Sums of a large vocabulary in float32 would move draws between rare tokens.
    reached = probabilities.cumsum(dim=-1, dtype=uniform.dtype)
    drawn = torch.searchsorted(reached, uniform.unsqueeze(1) * reached[:, -1:]).squeeze(1)
    return drawn.clamp(max=probabilities.shape[-1] - 1)


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero for every token outside the smallest set whose probability reaches `top_p`."""
    ordered, order = probabilities.sort(dim=-1, descending=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    return torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(outside, 0.0))
