"""From a decoded sum to the next adapter: weighted mean, then the server's optimiser. All of it post-processing."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fgrpo_secure import gain
from fgrpo_secure.config.schema import Server, Weighting

NOISY_RATIO_FROM = 100  # clients per round; below, noise in the denominator costs more than a public constant


@dataclass(frozen=True, slots=True)
class WeightedMean:
    """The mean update, and what the released sums say about the cohort's weights and gains."""

    update: NDArray[np.float64]
    mean_weight: float
    mean_gain: float


def denominator_kind(weighting: Weighting, private: bool, cohort: int) -> str:
    """'exact_ratio', 'public' or 'noisy_ratio': what the sum of updates is divided by."""
    if not private:
        return "exact_ratio"
    if weighting.denominator != "auto":
        return weighting.denominator
    return "noisy_ratio" if cohort >= NOISY_RATIO_FROM else "public"


def denominator_of(kind: str, weighting: Weighting, survivors: int, weight_sum: float) -> float:
    """What a sum is divided by. A ratio is clamped to what honest weights of so many survivors can add up to."""
    if kind == "public":
        return survivors * gain.reference_weight(weighting)
    lowest = 1.0 if weighting.rule == "uniform" else weighting.min_weight
    return min(float(survivors), max(survivors * lowest, weight_sum))


def weighted_mean(
    update_sum: NDArray[np.float64],
    weight_sum: float,
    gain_sum: float,
    survivors: int,
    kind: str,
    weighting: Weighting,
) -> WeightedMean:
    """The mean update of `survivors` clients, shape (d,).

    A ratio uses the released sum of weights, clamped to what `survivors` honest weights can add up to, so that
    noise cannot make the denominator vanish or change sign.
    """
    denominator = denominator_of(kind, weighting, survivors, weight_sum)
    return WeightedMean(update_sum / denominator, weight_sum / survivors, gain_sum / survivors)


class ServerOptimizer:
    """A torch optimiser that steps a flat vector along the mean update.

    `factors` names which LoRA factors the vector holds ("A", "B" or "AB"): each set keeps its own momentum.
    """

    def __init__(self, settings: Server) -> None:
        self._settings = settings
        self._states: dict[str, dict[str, torch.Tensor]] = {}

    def step(self, vector: NDArray[np.float64], mean: NDArray[np.float64], factors: str) -> NDArray[np.float64]:
        """The vector after one step; both of shape (d,)."""
        parameter = torch.nn.Parameter(torch.from_numpy(vector.copy()))
        optimizer = self._build(parameter)
        if factors in self._states:
            optimizer.state[parameter] = {key: value.clone() for key, value in self._states[factors].items()}
        parameter.grad = torch.from_numpy(-mean)
        optimizer.step()
        self._states[factors] = {
            key: value.detach().clone()
            for key, value in optimizer.state[parameter].items()
            if isinstance(value, torch.Tensor)
        }
        result: NDArray[np.float64] = parameter.detach().numpy()
        return result

    def state(self) -> dict[str, torch.Tensor]:
        """Everything a checkpoint needs, as named tensors."""
        return {f"{factors}.{key}": value for factors, state in self._states.items() for key, value in state.items()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from what `state` returned."""
        self._states = {}
        for name, value in state.items():
            factors, _, key = name.partition(".")
            self._states.setdefault(factors, {})[key] = value

    def _build(self, parameter: torch.nn.Parameter) -> torch.optim.Optimizer:
        if self._settings.optimizer == "adam":
            return torch.optim.Adam([parameter], lr=self._settings.learning_rate)
        return torch.optim.SGD([parameter], lr=self._settings.learning_rate, momentum=self._settings.momentum)
