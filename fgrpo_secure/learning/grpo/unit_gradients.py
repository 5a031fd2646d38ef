"""The gradient of one unit, from its own prompt groups and nothing else: what is clipped under the small units.

A plain loop, one backward per unit. Per-sample hooks would give the same numbers for several times the memory, and
would clip completions one by one, which is no unit: a group's advantages couple its completions.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from fgrpo_secure.config.schema import Grpo
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.grpo import local_update
from fgrpo_secure.learning.grpo.local_update import PromptGroups, Tally


def descent(
    adapted: AdaptedModel, groups: PromptGroups, settings: Grpo, round_number: int, tally: Tally | None = None
) -> NDArray[np.float64]:
    """Minus the sum of the groups' gradients at the policy as it is, shape (dimension,). `tally` counts along.

    `settings` decouple the groups (see `coupling`), so that the mean over P groups times P is their sum.
    """
    parameters = adapted.trainable(round_number)
    found = local_update.gradients(adapted, parameters, groups, settings, groups.rewards.shape[0], tally)
    flat: NDArray[np.float64] = -torch.cat([each.reshape(-1) for each in found]).double().cpu().numpy()
    return flat
