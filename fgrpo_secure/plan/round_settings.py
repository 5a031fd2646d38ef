"""What a round plan tells a client about training: every public setting, in one canonical form.

A client trains from these bytes alone, which the server's signature and the session identifier cover: a server that
gives two clients different rates, seeds or clips gets noise instead of a sum.
"""

import json
import math
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field

from fgrpo_secure.config.schema import Adapter, AdaptiveClip, ClipNorm, Config, Grpo, Section, Weighting
from fgrpo_secure.config.unit_rules import SMALL_UNITS
from fgrpo_secure.plan import adaptive_clip
from fgrpo_secure.privacy import units
from fgrpo_secure.privacy.clip import LARGEST_CLIP
from fgrpo_secure.privacy.encode import Lattice

SCORES = 2  # weight and gain: coordinates of a vector besides the update's; with an adaptive clip its bit, too
SPARE, SPARE_SECONDS = 0.05, 5.0  # of a training deadline: what did not end must be gone before the announcement


class UnitTerms(Section):
    """How units inside a client take part: what the claim composes over. None of it depends on data."""

    mode: Literal["distributed", "local"]
    sampling_rate: float | None = Field(gt=0, lt=1)
    units_per_client: int = Field(ge=1)
    blocks: int = Field(ge=1, description="each unit takes part in one of so many rounds")

    @property
    def expected(self) -> float:
        """Units of a step, by public numbers: what sums over units are divided by, whoever really took part."""
        return self.units_per_client * (self.sampling_rate or 1.0) / self.blocks

    def block(self, training_round: int) -> int:
        """Which block of units a round is for."""
        return training_round % self.blocks


def time_for_training(seconds: float) -> float:
    """What training has of so many seconds until a deadline: the rest is for what must be over by then."""
    return seconds - min(SPARE_SECONDS, SPARE * max(0.0, seconds))


class RoundSettings(Section):
    """Settings of one round, as they travel in `RoundPlan.settings`."""

    training_round: int = Field(ge=0, lt=2**32)
    seed: int = Field(ge=0)
    local_steps: int = Field(ge=1, le=2**53)
    adapter: Adapter
    grpo: Grpo
    weighting: Weighting
    unit: Literal["client", "subject", "prompt_group", "none"]
    units: UnitTerms | None = Field(description="None unless the unit lies inside a client")
    clip_norm: ClipNorm
    adaptive_clip: AdaptiveClip | None = Field(None, description="the rule by which the clip norm follows `shares`")
    first_clip_norm: ClipNorm | None = Field(None, description="what the rule began with; None without one")
    shares: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (), description="noised fraction of clients within the clip norm in each round before, as released"
    )
    share_variance: int = Field(
        ge=0,
        description="lattice variance of each client's noise: its share, or all of a local step's; 0 without",
    )
    aggregation: Literal["secure", "plain"] = Field(
        "secure", description="'plain': the server adds all noise itself, once, of that variance"
    )
    training_seconds: int | None = Field(
        None, ge=1, description="between machines: every client announces itself so long after it was asked"
    )

    @property
    def scores(self) -> int:
        """Coordinates of a vector besides the update's."""
        return score_count(self.adaptive_clip)

    @property
    def score_ranges(self) -> tuple[tuple[float, float], ...]:
        """The public (low, high) of every coordinate besides the update's, in their order."""
        limit = self.weighting.gain_clip
        bits = () if self.adaptive_clip is None else ((0.0, 1.0),)
        return (self.weighting.min_weight, 1.0), (-limit, limit), *bits

    @property
    def vectors_per_client(self) -> int:
        """How many vectors of the norm bound a client's upload may be the sum of: its units' and its own scores'."""
        shared = self.units is not None and self.units.mode == "distributed"
        return 1 + self.units.units_per_client if shared and self.units else 1

    @property
    def upload_variance(self) -> int:
        """The lattice variance of the noise that is added for the sum; in mode 'local' it is in the update already."""
        return 0 if self.units is not None and self.units.mode == "local" else self.share_variance

    @property
    def releases(self) -> int:
        """Noised sums that a round takes from the data of a unit."""
        return self.local_steps if self.units is not None and self.units.mode == "local" else 1

    @property
    def reward_charge(self) -> Fraction:
        """mu^2 of the noised reward sum that goes with a release; 0 where weights need none."""
        return units.reward_charge(self.weighting.reward_noise_multiplier if self.units else None)

    def unit_lattice(self, dimension: int) -> Lattice:
        """The lattice of what is clipped: a client's update, or one unit's gradient."""
        return Lattice.build(dimension, self.clip_norm, self.scores)

    def upload_lattice(self, dimension: int) -> Lattice:
        """The lattice of what a client sends; another one only in mode 'local', where an update is noised before.

        Its norm bound is then that on the longest move of the noisy steps, with 25 % headroom on the expected norm of
        their noise: a longer update is cut, which costs no privacy.
        """
        if self.units is None or self.units.mode == "distributed":
            return self.unit_lattice(dimension)
        rate, steps = self.grpo.learning_rate, self.local_steps
        if self.grpo.optimizer == "adam":  # moves each coordinate by about the rate
            bound = 2 * rate * steps * math.sqrt(dimension)
        else:
            noise = math.sqrt(steps * dimension * self.share_variance) / self.unit_lattice(dimension).scale
            bound = rate * (steps * self.clip_norm + 1.25 * noise / self.units.expected)
        return Lattice.build(dimension, min(bound, LARGEST_CLIP), self.scores)

    def encode(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()

    @staticmethod
    def decode(data: bytes) -> "RoundSettings":
        """The settings in `data`; raises pydantic's ValidationError (a ValueError) if they are not usable."""
        return RoundSettings.model_validate_json(data)


def score_count(rule: AdaptiveClip | None) -> int:
    """Weight, gain, and the bit of an adaptive clip if there is one."""
    return SCORES + (rule is not None)


def unit_terms(config: Config) -> UnitTerms | None:
    """The terms of a configuration whose unit lies inside a client."""
    if config.privacy.unit not in SMALL_UNITS:
        return None
    return UnitTerms(
        mode=config.privacy.mode,
        sampling_rate=config.privacy.sampling_rate,
        units_per_client=config.units_per_client,
        blocks=config.unit_blocks,
    )


def for_round(
    config: Config, training_round: int, share_variance: int, shares: tuple[float, ...] = ()
) -> RoundSettings:
    """The settings that `config` gives round `training_round`, after rounds that released `shares`."""
    rule, first = config.privacy.adaptive_clip, config.privacy.clip_norm
    return RoundSettings(
        training_round=training_round,
        seed=config.run.seed,
        local_steps=config.federation.local_steps,
        adapter=config.adapter.model_copy(update={"init_from": None}),  # a path means nothing elsewhere
        grpo=config.grpo,
        weighting=config.weighting,
        unit=config.privacy.unit,
        units=unit_terms(config),
        clip_norm=first if rule is None else adaptive_clip.clip_norm(rule, first, shares),
        adaptive_clip=rule,
        first_clip_norm=None if rule is None else first,
        shares=() if rule is None else shares,
        share_variance=share_variance,
        aggregation=config.aggregation.mode,
        training_seconds=config.training_deadline,
    )
