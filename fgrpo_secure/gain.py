"""Relative gains and weights: clients that improve most against their own past count more.

A client compares the mean reward R of a round's first rollouts with its own moving baseline, turns the relative
gain g into a weight w in [min_weight, 1] and multiplies its *clipped* update by w. The baseline never leaves it.
The weight formula of the paper behind FGRPO is not public; this one is a reconstruction (docs/adr/0002).
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fgrpo_secure.config import Weighting

TINY = 1e-12  # keeps `relative` defined at a baseline of zero, far below any reward that means something


@dataclass(frozen=True, slots=True)
class Observation:
    """Mean reward of one round's first rollouts and its standard error. Secret."""

    mean: float = field(repr=False)
    standard_error: float = field(repr=False)


@dataclass(frozen=True, slots=True)
class Baseline:
    """Exponential moving average and variance of a client's past observations. Secret."""

    mean: float = field(default=0.0, repr=False)
    variance: float = field(default=0.0, repr=False)
    observations: int = 0

    def updated(self, observation: Observation, decay: float) -> "Baseline":
        """The baseline after one more observation; `decay` in (0, 1) is the share of the past that stays."""
        if self.observations == 0:
            return replace(self, mean=observation.mean, observations=1)
        surprise = observation.mean - self.mean
        return Baseline(
            mean=decay * self.mean + (1 - decay) * observation.mean,
            variance=decay * self.variance + (1 - decay) * surprise * surprise,
            observations=self.observations + 1,
        )


def observe(rewards: NDArray[np.float64]) -> Observation:
    """Mean and standard error of `rewards`, shape (prompts, completions per prompt).

    Completions of one prompt are not independent draws of the task, so the error counts prompts; a single prompt
    leaves only its completions to judge by.
    """
    samples = rewards.mean(axis=1) if rewards.shape[0] > 1 else rewards.ravel()
    error = float(samples.std(ddof=1)) / math.sqrt(samples.size) if samples.size > 1 else 0.0
    return Observation(mean=float(rewards.mean()), standard_error=error)


def relative_gain(observation: Observation, past: Baseline, weighting: Weighting) -> float:
    """The gain g in [-gain_clip, gain_clip]; 0 until there are two past observations.

    `standardized` does not change when all of a client's rewards are shifted or scaled, `relative` not when they
    are scaled.
    """
    if past.observations < 2:
        return 0.0
    difference = observation.mean - past.mean
    if weighting.gain == "standardized":
        scale = math.hypot(math.sqrt(past.variance), observation.standard_error)
    else:
        scale = abs(past.mean) + TINY
    if difference == 0.0:
        return 0.0
    gain = difference / scale if scale > 0.0 else math.copysign(math.inf, difference)
    return min(weighting.gain_clip, max(-weighting.gain_clip, gain))


def weight(gain: float, weighting: Weighting) -> float:
    """The weight in [min_weight, 1] for a gain in [-gain_clip, gain_clip]."""
    if weighting.rule == "uniform":
        return 1.0
    directed = gain if weighting.favour == "leaders" else -gain
    if weighting.rule == "linear":
        position = (directed + weighting.gain_clip) / (2 * weighting.gain_clip)
        raw = weighting.min_weight + (1 - weighting.min_weight) * position
    else:
        raw = math.exp((directed - weighting.gain_clip) / temperature(weighting))
    return min(1.0, max(weighting.min_weight, raw))


def temperature(weighting: Weighting) -> float:
    """The softmax temperature; by default the one at which gain -gain_clip gives exactly min_weight."""
    if weighting.temperature is not None:
        return weighting.temperature
    return 2 * weighting.gain_clip / math.log(1 / weighting.min_weight)


def reference_weight(weighting: Weighting) -> float:
    """The public weight of a client that neither gained nor lost: what a public denominator counts it as."""
    return weight(0.0, weighting)
