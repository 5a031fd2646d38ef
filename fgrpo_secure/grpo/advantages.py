"""Group-relative advantages, with TRL's arithmetic."""

import torch

EPSILON = 1e-4  # TRL's: keeps a group of equal rewards at advantage zero


def group_advantages(rewards: torch.Tensor, scale: str) -> torch.Tensor:
    """Advantages of `rewards`, both of shape (prompts, completions).

    Each reward less its group's mean; divided by the group's deviation ("group"), the whole batch's ("batch") or
    nothing ("none"). Deviations are unbiased and have 1e-4 added.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if scale == "none":
        return centred
    deviation = rewards.std() if scale == "batch" else rewards.std(dim=1, keepdim=True)
    return centred / (deviation + EPSILON)
