"""The GRPO objective on given log-probabilities: pure arithmetic, equal to TRL's on the same tensors.

Sources: Shao et al. 2024 (GRPO, arXiv 2402.03300), Liu et al. 2025 (Dr. GRPO, 2503.20783), Yu et al. 2025 (DAPO,
2503.14476), Zheng et al. 2025 (GSPO, sequence-level ratios, 2507.18071).
"""

import torch

from fgrpo_secure.config.schema import Grpo


def objective(
    logp: torch.Tensor,
    logp_old: torch.Tensor,
    logp_reference: torch.Tensor | None,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    settings: Grpo,
    num_items_in_batch: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss to minimise, a scalar.

    Log-probabilities and `mask` (1 where a completion token counts) have shape (sequences, tokens), `advantages`
    (sequences,). `logp_reference` is needed where `beta` is above 0. `num_items_in_batch` is dapo's denominator;
    by default the tokens of this batch.
    """
    ratio = _importance_ratio(logp, logp_old, mask, settings.importance_sampling_level)
    high = settings.epsilon if settings.epsilon_high is None else settings.epsilon_high
    clipped = ratio.clamp(1 - settings.epsilon, 1 + high)
    column = advantages.unsqueeze(1)
    per_token = -torch.minimum(ratio * column, clipped * column)
    if settings.beta > 0:
        if logp_reference is None:
            raise ValueError("beta is above 0: the objective needs the reference model's log-probabilities")
        divergence = torch.exp(logp_reference - logp) - (logp_reference - logp) - 1
        if settings.use_bias_correction_kl:
            divergence = divergence * ratio
        per_token = per_token + settings.beta * divergence
    return _reduce(per_token, mask, settings, num_items_in_batch)


def _importance_ratio(logp: torch.Tensor, logp_old: torch.Tensor, mask: torch.Tensor, level: str) -> torch.Tensor:
    """Shape (sequences, tokens), or (sequences, 1) for one ratio per sequence (the geometric mean)."""
    log_ratio = logp - logp_old
    if level == "sequence":
        log_ratio = ((log_ratio * mask).sum(1) / mask.sum(1).clamp(min=1)).unsqueeze(1)
    return torch.exp(log_ratio)


def _reduce(
    per_token: torch.Tensor, mask: torch.Tensor, settings: Grpo, num_items_in_batch: torch.Tensor | None
) -> torch.Tensor:
    kept = per_token * mask
    if settings.loss_type == "grpo":
        return (kept.sum(1) / mask.sum(1).clamp(min=1)).mean()
    if settings.loss_type == "dr_grpo":
        return kept.sum() / (mask.shape[0] * settings.max_completion_length)
    tokens = mask.sum() if settings.loss_type == "bnpo" or num_items_in_batch is None else num_items_in_batch
    return kept.sum() / tokens.clamp(min=1)
