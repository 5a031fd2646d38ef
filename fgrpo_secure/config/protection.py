"""The tables `[privacy]` and `[aggregation]`: what is protected, against whom, and at which price."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fgrpo_secure.config.section import Count, Fraction01, Positive, Section
from fgrpo_secure.privacy.clip import LARGEST_CLIP, SMALLEST_CLIP

ClipNorm = Annotated[float, Field(ge=SMALLEST_CLIP, le=LARGEST_CLIP)]


class AdaptiveClip(Section):
    """A clip norm that follows a quantile of the clients' update norms; see `fgrpo_secure.plan.adaptive_clip`."""

    quantile: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="fraction of clients that need no clipping")
    learning_rate: Annotated[float, Field(gt=0, le=1)] = Field(
        0.2, description="of the clip norm's logarithm, in a round"
    )
    range: Annotated[float, Field(ge=1, le=1e6)] = Field(
        100.0, description="the clip norm stays within privacy.clip_norm times and divided by this"
    )


class Privacy(Section):
    """Whose data may come or go without anybody being able to tell, and at which budget."""

    unit: Literal["client", "subject", "prompt_group", "none"] = Field(
        "client",
        description="what is protected: all of a client's data, all rows of one subject, one prompt; or nothing",
    )
    epsilon: Annotated[float, Field(ge=1e-9)] | None = Field(
        None, description="budget against the server; give this or noise_multiplier"
    )
    noise_multiplier: Positive | None = Field(
        None, description="deviation of the noise in a sum over clip_norm; give this or epsilon"
    )
    delta: Annotated[float, Field(ge=1e-30, lt=1)] = Field(
        1e-5, description="chance that the guarantee fails; far below 1 over the number of units"
    )
    clip_norm: ClipNorm = Field(1.0, description="L2 bound of one unit's update (a client's, or one gradient)")
    adaptive_clip: AdaptiveClip | None = Field(
        None, description="quantile, learning_rate, range: clip_norm is then the first round's; default: off"
    )
    mode: Literal["distributed", "local"] = Field(
        "distributed",
        description="'distributed': clients share the noise of a sum; 'local': each adds all of it, at every step",
    )
    sampling_rate: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="chance of each unit to take part in a step, by secret Poisson sampling; default: all do",
    )
    units_per_client: Count | None = Field(
        None, description="the most subjects or prompts that any client holds; default: of procedural data, its size"
    )
    max_rounds_per_unit: Count | None = Field(
        None,
        description="rounds that a subject or prompt takes part in, by public blocks; default: all of its client's",
    )

    reserved_sessions: Annotated[int, Field(ge=0, le=2)] = Field(
        2, description="sessions that may end without a sum, after a liar or a crash, within the same budget"
    )

    @model_validator(mode="after")
    def one_budget(self) -> "Privacy":
        if self.unit != "none" and (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("give exactly one of 'epsilon' and 'noise_multiplier'")
        return self


class Aggregation(Section):
    """How a sum is made that shows no summand, and whom that withstands."""

    mode: Literal["secure", "plain"] = Field(
        "secure", description="'plain' has no secure aggregation: a baseline whose server sees every client's update"
    )
    adversary: Literal["honest_but_curious", "lying_server", "none"] = Field(
        "honest_but_curious",
        description="the server that a sum withstands: one that keeps to the protocol, or one that lies; "
        "'none' with mode 'plain', and only there",
    )
    max_corrupt: Fraction01 = Field(0.05, description="fraction of the roster that may collude with the server")
    max_dropout: Fraction01 = Field(0.1, description="fraction of a cohort whose loss a round survives")
    post_quantum: bool = Field(
        False, description="agree on keys with ML-KEM-768 as well as X25519, against recording now and decrypting later"
    )
    shard_size: Annotated[int, Field(ge=4, le=1000)] | None = Field(
        None,
        description="clients in one session at most; a larger cohort makes disjoint shards; default: 1,000 "
        "against a lying server, else no limit",
    )

    @model_validator(mode="after")
    def claims_no_protection_that_is_not_there(self) -> "Aggregation":
        if self.mode == "plain" and self.shard_size is not None:
            raise ValueError("shard_size bounds the sessions of secure aggregation; mode 'plain' has none")
        if self.mode == "plain" and (self.adversary != "none" or self.max_corrupt != 0):
            raise ValueError(
                "mode 'plain' shows the server every client's update and so withstands no adversary: "
                "write adversary = 'none' and max_corrupt = 0 beside it"
            )
        if self.mode == "plain" and self.post_quantum:
            raise ValueError("post_quantum = true goes with mode 'secure': a plain run agrees on no keys")
        if self.mode == "secure" and self.adversary == "none":
            raise ValueError("adversary 'none' goes with mode 'plain'; allowed are honest_but_curious and lying_server")
        return self
