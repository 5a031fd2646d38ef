"""What a round plan tells a client about training: every public setting, in one canonical form.

A client trains from these bytes alone, which the server's signature and the session identifier cover: a server that
gives two clients different rates, seeds or clips gets noise instead of a sum.
"""

import json
from typing import Literal

from pydantic import Field

from fgrpo_secure.config import Adapter, ClipNorm, Config, Grpo, Section, Weighting


class RoundSettings(Section):
    """Settings of one round, as they travel in `RoundPlan.settings`."""

    training_round: int = Field(ge=0)
    seed: int = Field(ge=0)
    local_steps: int = Field(ge=1)
    adapter: Adapter
    grpo: Grpo
    weighting: Weighting
    unit: Literal["client", "none"]
    clip_norm: ClipNorm
    share_variance: int = Field(ge=0, description="lattice variance of each client's noise share; 0 without privacy")
    aggregation: Literal["secure", "plain"] = Field(
        "secure", description="'plain': the server adds all noise itself, once, of that variance"
    )

    def encode(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()

    @staticmethod
    def decode(data: bytes) -> "RoundSettings":
        """The settings in `data`; raises pydantic's ValidationError (a ValueError) if they are not usable."""
        return RoundSettings.model_validate_json(data)


def for_round(config: Config, training_round: int, share_variance: int) -> RoundSettings:
    """The settings that `config` gives round `training_round`."""
    return RoundSettings(
        training_round=training_round,
        seed=config.run.seed,
        local_steps=config.federation.local_steps,
        adapter=config.adapter.model_copy(update={"init_from": None}),  # a path means nothing elsewhere
        grpo=config.grpo,
        weighting=config.weighting,
        unit=config.privacy.unit,
        clip_norm=config.privacy.clip_norm,
        share_variance=share_variance,
        aggregation=config.aggregation.mode,
    )
