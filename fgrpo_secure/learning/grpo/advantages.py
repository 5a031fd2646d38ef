"""Group-relative advantages, with TRL's arithmetic."""

import torch

EPSILON = 1e-4  # TRL's: keeps a group of equal rewards at advantage zero


def group_advantages(rewards: torch.Tensor, scale: str) -> torch.Tensor:
    """Advantages of `rewards`, both of shape (prompts, completions).

    Each reward less its group's mean; divided by the group's deviation ("group"), the whole batch's ("batch") or
    nothing ("none"). Deviations are unbiased and have 1e-4 added. A group with a reward that is not a number has
    advantages 0, and no part in the batch's deviation.
    """
    whole = rewards.isfinite().all(dim=1)
    advantages = torch.zeros_like(rewards)
    advantages[whole] = _of_whole_groups(rewards[whole], scale)
    return advantages


def _of_whole_groups(rewards: torch.Tensor, scale: str) -> torch.Tensor:
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if scale == "none":
        return centred
    deviation = rewards.std() if scale == "batch" else rewards.std(dim=1, keepdim=True)
    return centred / (deviation + EPSILON)
