"""The `[weighting]` table: how much a client counts in a round's sum. `fgrpo_secure.gain` has the rules."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fgrpo_secure.config.section import Count, Positive, Section

TOLERATED_FALL = 1.5  # t value of a falling history that rule 'history' still takes for chance
FALL_FOR_ALL_WEIGHT = 2.0  # by how much further it would have to fall for a weight of 0, did min_weight not stop it


class Weighting(Section):
    """How much a client counts in a sum, by its own rewards: the weight is at least `min_weight` and at most 1."""

    rule: Literal["history", "softmax", "linear", "uniform"] = Field(
        "history",
        description="'history': full weight unless a client's rewards fall over the whole run; 'softmax' and 'linear': "
        "by gain over a moving average",
    )
    gain: Literal["standardized", "relative"] = Field(
        "standardized", description="how rules 'softmax' and 'linear' compare a reward with the moving average"
    )
    gain_prompts: Count | None = Field(
        None, description="prompts that measure the mean reward; default: the first step's"
    )
    temperature: Positive | None = Field(
        None, description="of rules 'softmax' and 'linear'; default: 2 * gain_clip / ln(1 / min_weight)"
    )
    gain_clip: Positive = Field(3.0, description="public range of gains; default: 3 with rule 'history', else 2")
    baseline_decay: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.7, description="how slowly the moving average of rules 'softmax' and 'linear' forgets"
    )
    min_weight: Annotated[float, Field(ge=1e-9, lt=1)] = Field(0.5, description="least weight of a client")
    favour: Literal["leaders", "laggards"] = Field(
        "leaders", description="whom rules 'softmax' and 'linear' give weight: who gains most, or least"
    )
    denominator: Literal["auto", "public", "noisy_ratio"] = Field(
        "auto",
        description="'auto': exact ratio without privacy; with it public below 100 clients, noisy ratio from 100",
    )
    reward_range: tuple[float, float] | None = Field(
        None, description="public range that rewards are clipped to where weights need gains under a unit below client"
    )
    reward_noise_multiplier: Positive | None = Field(
        None, description="deviation of the noise on such a clipped reward sum over half the range; charged"
    )

    @model_validator(mode="before")
    @classmethod
    def range_of_the_rule(cls, table: Any) -> Any:
        """Gains over a moving average have a range of 2; 'history' needs more: see `reaches_the_least_weight`."""
        moving = isinstance(table, dict) and table.get("rule", "history") != "history"
        return {"gain_clip": 2.0, **table} if moving else table

    @model_validator(mode="after")
    def reaches_the_least_weight(self) -> "Weighting":
        if self.rule != "history":
            return self
        for key, value, usual in (
            ("gain", self.gain, "standardized"),
            ("temperature", self.temperature, None),
            ("favour", self.favour, "leaders"),
        ):
            if value != usual:
                raise ValueError(
                    f"{key} {value!r} is for rules 'softmax' and 'linear'; rule is 'history': leave it out"
                )
        needed = TOLERATED_FALL + FALL_FOR_ALL_WEIGHT * (1 - self.min_weight)
        if self.gain_clip < needed:
            raise ValueError(
                f"gain_clip is {self.gain_clip:g}; rule 'history' gives min_weight {self.min_weight:g} to gains of "
                f"-{needed:g} and below, so it must be at least {needed:g}"
            )
        return self
