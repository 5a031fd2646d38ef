"""Relative gains and weights: a client that falls against its own past counts less, one that holds its own in full.

A client judges each round's mean reward R by its own past, turns the relative gain g into a weight w in [min_weight, 1]
and multiplies its *clipped* update by w. What it remembers of its rewards never leaves it. Two ways to judge:

* rule `history`: g is the t value of a straight line through all of the client's rewards so far. The weight saturates
  at 1 from below: clients that improve or stand still lose no signal under the noise (docs/explanation/weights.md);
* rules `softmax` and `linear`: g compares R with a moving average. The weight formula of the paper behind FGRPO is not
  public; these two are a reconstruction (docs/adr/0002).
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fgrpo_secure.config.schema import FALL_FOR_ALL_WEIGHT, TOLERATED_FALL, Weighting

TINY = 1e-12  # keeps `relative` defined at a baseline of zero, far below any reward that means something
RESOLUTION = 1e-12  # rewards that differ by less, relative to their mean, differ by the rounding of floats alone
A_LINE = 3  # rounds: through two points every straight line fits, and says nothing about chance


@dataclass(frozen=True, slots=True)
class Observation:
    """Mean reward of one round's first rollouts and its standard error. Secret."""

    mean: float = field(repr=False)
    standard_error: float = field(repr=False)


@dataclass(frozen=True, slots=True)
class Trend:
    """A straight line through all of a client's mean rewards over the number of the round, as sums. Secret.

    Sums are taken about the running means (Welford), so that neither 10^5 rounds nor rewards around a large number
    lose the digits that the line is made of. With a list instead, a client's state would grow with the run.
    """

    rounds: int = 0
    mean_round: float = field(default=0.0, repr=False)
    mean_reward: float = field(default=0.0, repr=False)
    round_squares: float = field(default=0.0, repr=False)  # of deviations from the mean, as the two below
    reward_squares: float = field(default=0.0, repr=False)
    products: float = field(default=0.0, repr=False)
    error_squares: float = field(default=0.0, repr=False)

    def updated(self, observation: Observation, training_round: int) -> "Trend":
        """The sums after the reward of one more round; rounds may be missing in between."""
        count = self.rounds + 1
        later, higher = training_round - self.mean_round, observation.mean - self.mean_reward
        mean_round, mean_reward = self.mean_round + later / count, self.mean_reward + higher / count
        return Trend(
            count,
            mean_round,
            mean_reward,
            self.round_squares + later * (training_round - mean_round),
            self.reward_squares + higher * (observation.mean - mean_reward),
            self.products + later * (observation.mean - mean_reward),
            self.error_squares + observation.standard_error * observation.standard_error,
        )

    def t_value(self) -> float:
        """The slope over its standard error; 0 before the third round and where all rewards are equal.

        A reward's variance is taken half from the standard errors, which know nothing of what a round itself adds, and
        half from what the line leaves over, which rests on few rounds at first.
        """
        if self.rounds < A_LINE or self._equal():
            return 0.0
        left_over = max(0.0, self.reward_squares - self.products * self.products / self.round_squares)
        variance = (self.error_squares / self.rounds + left_over / (self.rounds - 2)) / 2
        if variance == 0.0:
            return math.copysign(math.inf, self.products) if self.products else 0.0
        value = self.products / math.sqrt(self.round_squares * variance)
        return 0.0 if math.isnan(value) else value  # rewards beyond the range of floats say nothing

    def _equal(self) -> bool:
        """Whether rewards differ by rounding alone: then the slope is rounding, too, however large its t value."""
        spread, rounding = (self.reward_squares + self.error_squares) / self.rounds, RESOLUTION * self.mean_reward
        return spread <= rounding * rounding  # `**` would raise where `*` gives infinity


@dataclass(frozen=True, slots=True)
class Baseline:
    """A client's past observations: exponential moving average and variance, and their trend. Secret."""

    mean: float = field(default=0.0, repr=False)
    variance: float = field(default=0.0, repr=False)
    observations: int = 0
    trend: Trend = field(default=Trend(), repr=False)

    def updated(self, observation: Observation, training_round: int, decay: float) -> "Baseline":
        """The baseline after one more observation; `decay` in (0, 1) is the share of the past that stays."""
        trend = self.trend.updated(observation, training_round)
        if self.observations == 0:
            return Baseline(observation.mean, 0.0, 1, trend)
        surprise = observation.mean - self.mean
        return Baseline(
            mean=decay * self.mean + (1 - decay) * observation.mean,
            variance=decay * self.variance + (1 - decay) * surprise * surprise,
            observations=self.observations + 1,
            trend=trend,
        )


@dataclass(frozen=True, slots=True)
class Weighed:
    """A client's gain and weight in one round, and its past after that round. Secret."""

    gain: float = field(repr=False)
    weight: float = field(repr=False)
    baseline: Baseline = field(repr=False)

    def capped(self, max_weight: float) -> "Weighed":
        """The same with a weight of at most the owner's largest."""
        return replace(self, weight=min(self.weight, max_weight))


def weigh(observation: Observation, past: Baseline, weighting: Weighting, training_round: int) -> Weighed:
    """What a client's reward in round `training_round` comes to, after the rounds in `past`."""
    present = past.updated(observation, training_round, weighting.baseline_decay)
    if weighting.rule == "history":
        gain = _within(present.trend.t_value(), weighting)
    else:
        gain = relative_gain(observation, past, weighting)
    return Weighed(gain, weight(gain, weighting), present)


def observe(rewards: NDArray[np.float64]) -> Observation:
    """Mean and standard error of `rewards`, shape (prompts, completions per prompt).

    Completions of one prompt are not independent draws of the task, so the error counts prompts; a single prompt
    leaves only its completions to judge by.
    """
    samples = rewards.mean(axis=1) if rewards.shape[0] > 1 else rewards.ravel()
    error = float(samples.std(ddof=1)) / math.sqrt(samples.size) if samples.size > 1 else 0.0
    return Observation(mean=float(rewards.mean()), standard_error=error)


def relative_gain(observation: Observation, past: Baseline, weighting: Weighting) -> float:
    """The gain g in [-gain_clip, gain_clip] over the moving average; 0 until there are two past observations.

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
    return _within(difference / scale if scale > 0.0 else math.copysign(math.inf, difference), weighting)


def _within(gain: float, weighting: Weighting) -> float:
    return min(weighting.gain_clip, max(-weighting.gain_clip, gain))


def weight(gain: float, weighting: Weighting) -> float:
    """The weight in [min_weight, 1] for a gain in [-gain_clip, gain_clip]."""
    directed = gain if weighting.favour == "leaders" else -gain
    if weighting.rule == "uniform":
        raw = 1.0
    elif weighting.rule == "history":
        raw = 1.0 + (gain + TOLERATED_FALL) / FALL_FOR_ALL_WEIGHT
    elif weighting.rule == "linear":
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
