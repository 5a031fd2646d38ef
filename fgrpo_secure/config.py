"""The configuration of a run: what may be written in a TOML file, and what it means.

Configuration is public: nothing here depends on data. Every key has a default; a file states only what differs.
Names of the `grpo` section, and their semantics, are TRL's.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fgrpo_secure import coupling
from fgrpo_secure.privacy.clip import LARGEST_CLIP, SMALLEST_CLIP

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction01 = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
ClipNorm = Annotated[float, Field(ge=SMALLEST_CLIP, le=LARGEST_CLIP)]
FaultKey = Annotated[str, Field(pattern=r"^(announce|share|mask|agree|unmask)(\.(drop|duplicate|corrupt))?$")]


class Section(BaseModel):
    """One table of the configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


class Run(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = Field(
        "run", description="name of the run and of its directory"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="fixes tasks, order, frozen factors and rollouts; never keys or noise"
    )
    entropy: Literal["os", "seeded"] = Field(
        "os", description="source of keys, nonces, rounding and noise; 'seeded' is for tests and not private"
    )


class Model(Section):
    path: str = Field("builtin", description="Hugging Face causal LM folder or hub id; 'builtin' is the shipped one")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"


class Adapter(Section):
    rank: Annotated[int, Field(ge=1, le=65_536)] = 4
    alpha: Positive = 8.0
    targets: tuple[str, ...] = Field(("down_proj",), min_length=1, description="module names that get LoRA factors")
    factors: Literal["ffa", "alternate", "full"] = Field(
        "ffa",
        description="'ffa' trains and sends B only; 'alternate' B in even rounds, A in odd ones; 'full' both",
    )
    init_from: str | None = Field(None, description="PEFT adapter folder to start from")


class Federation(Section):
    rounds: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    clients: Count | None = Field(None, description="checked against the [[client]] tables if given")
    clients_per_round: Count | None = Field(None, description="default: all of them")
    schedule: Literal["all", "blocks"] = Field(
        "all", description="fixed before the run: everybody in every round, or public blocks in turn"
    )
    max_rounds_per_client: Count | None = Field(None, description="default: what the schedule needs")
    local_steps: Count = Field(1, description="optimiser steps of a client per round, each on fresh rollouts")


class Grpo(Section):
    num_generations: Annotated[int, Field(ge=2)] = 8
    prompts_per_step: Count = Field(
        4, description="prompts of a client in one step; of one subject, or one prompt group, where these are the unit"
    )
    loss_type: Literal["grpo", "dr_grpo", "bnpo", "dapo"] = "dr_grpo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    epsilon: Positive = 0.2
    epsilon_high: Positive | None = Field(None, description="upper clip; default: epsilon")
    beta: Annotated[float, Field(ge=0)] = Field(0.0, description="weight of the KL to the model without adapter")
    importance_sampling_level: Literal["token", "sequence"] = "token"
    num_iterations: Count = 1
    learning_rate: Positive = 4e-3
    optimizer: Literal["adam", "sgd"] = "adam"
    max_grad_norm: Positive | None = 1.0
    max_completion_length: Count = 8
    temperature: Positive = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    mask_truncated_completions: bool = False
    reward_weights: tuple[float, ...] | None = None
    use_bias_correction_kl: bool = True


class Client(Section):
    """One kind of data owner; the embedded engine makes `count` of them."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    task: str | None = Field(None, description="a procedural task of fgrpo_secure.tasks")
    data: str | None = Field(None, description="a JSONL file with a 'prompt' field on each line")
    subject: str | None = Field(None, description="column that says whom a row is about: the units of 'subject'")
    rows: Count | None = Field(
        None, description="a procedural task as a fixed data set of so many rows; default: fresh ones without end"
    )
    rows_per_subject: Count = Field(1, description="rows about each subject of a procedural data set")
    reward: str | tuple[str, ...] | None = Field(
        None, description="'module:function' or a built-in reward; default: the task's own"
    )
    reward_scale: float = Field(1.0, description="multiplies every reward of this client")
    difficulty: Annotated[int, Field(ge=1, le=3)] = Field(1, description="level of a procedural task")
    count: Count = 1

    @model_validator(mode="after")
    def one_source(self) -> "Client":
        if (self.task is None) == (self.data is None):
            raise ValueError(f"client {self.name!r} needs exactly one of 'task' and 'data'")
        if self.data is not None and self.reward is None:
            raise ValueError(f"client {self.name!r} reads a data file and therefore needs a 'reward'")
        if self.data is not None and self.rows is not None:
            raise ValueError(f"client {self.name!r} reads a data file, which has its own number of rows: leave 'rows'")
        if self.reward_scale == 0:
            raise ValueError(f"client {self.name!r} has reward_scale 0; any other number is allowed")
        return self


class Evaluation(Section):
    data: str = Field("tasks", description="'tasks': the public evaluation set of the clients' tasks; or a JSONL file")
    reward: str | None = Field(None, description="reward of the evaluation file: 'module:function' or built-in")
    prompts: Count = Field(100, description="held-out problems per task")
    samples: Count = Field(4, description="sampled completions per problem")
    every: Annotated[int, Field(ge=0)] = Field(5, description="rounds between evaluations; 0: first and last only")


class Weighting(Section):
    rule: Literal["softmax", "linear", "uniform"] = "softmax"
    gain: Literal["standardized", "relative"] = "standardized"
    gain_prompts: Count | None = Field(
        None, description="prompts that measure the mean reward; default: the first step's"
    )
    temperature: Positive | None = Field(None, description="default: 2 * gain_clip / ln(1 / min_weight)")
    gain_clip: Positive = 2.0
    baseline_decay: Annotated[float, Field(gt=0, lt=1)] = 0.7
    min_weight: Annotated[float, Field(ge=1e-9, lt=1)] = 0.5
    favour: Literal["leaders", "laggards"] = "leaders"
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


class AdaptiveClip(Section):
    """A clip norm that follows a quantile of the clients' update norms; see `fgrpo_secure.adaptive_clip`."""

    quantile: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="share of clients that need no clipping")
    learning_rate: Annotated[float, Field(gt=0, le=1)] = Field(
        0.2, description="of the clip norm's logarithm, in a round"
    )
    range: Annotated[float, Field(ge=1, le=1e6)] = Field(
        100.0, description="the clip norm stays within privacy.clip_norm times and divided by this"
    )


class Privacy(Section):
    unit: Literal["client", "subject", "prompt_group", "none"] = Field(
        "client",
        description="what is protected: all of a client's data, all rows of one subject, one prompt; or nothing",
    )
    epsilon: Annotated[float, Field(ge=1e-9)] | None = Field(
        None, description="budget against the server; give this or noise_multiplier"
    )
    noise_multiplier: Positive | None = None
    delta: Annotated[float, Field(ge=1e-30, lt=1)] = 1e-5
    clip_norm: ClipNorm = Field(1.0, description="L2 bound of one unit's update (a client's, or one gradient)")
    adaptive_clip: AdaptiveClip | None = Field(
        None, description="quantile, learning_rate, range: clip_norm is then the first round's; default: off"
    )
    mode: Literal["distributed", "local"] = Field(
        "distributed",
        description="'distributed': clients share the noise of a sum; 'local': each adds all of it, at every step",
    )
    sampling_rate: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="chance of each unit to take part in a step, by its client's secret coins; default: all do"
    )
    units_per_client: Count | None = Field(
        None, description="the most subjects or prompts that any client holds; default: of procedural data, its size"
    )
    max_rounds_per_unit: Count | None = Field(
        None, description="rounds that a subject or prompt takes part in, in public turns; default: all of its client's"
    )

    @model_validator(mode="after")
    def one_budget(self) -> "Privacy":
        if self.unit != "none" and (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("give exactly one of 'epsilon' and 'noise_multiplier'")
        return self


class Aggregation(Section):
    mode: Literal["secure", "plain"] = Field(
        "secure", description="'plain' has no secure aggregation: a baseline whose server sees every client's update"
    )
    adversary: Literal["honest_but_curious", "lying_server", "none"] = Field(
        "honest_but_curious", description="'none' with mode 'plain', and only there"
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


class Server(Section):
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: Positive = 1.0
    momentum: Fraction01 = 0.0
    averaging: Fraction01 = Field(
        0.0, description="decay of the average over rounds that is evaluated and saved; 0: the last adapter itself"
    )


class Deployment(Section):
    """What a registry of deployments asks besides; it changes nothing in the run."""

    name: str | None = Field(None, description="name of the published adapter; default: run.name")
    curators: tuple[str, ...] = Field(("not stated",), min_length=1, description="who publishes the adapter")
    intended_use: str = "not stated"
    region: str = Field("not stated", description="what region the data describes, or whose law applies")
    sector: Literal["Technology", "Healthcare", "Education", "Government", "Energy", "Finance"] | None = None
    publication_date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] = Field(
        "1970-01-01", description="YYYY-MM-DD; 1970-01-01: not published"
    )


class Engine(Section):
    kind: Literal["embedded"] = "embedded"
    processes: Annotated[int, Field(ge=1, le=64)] = Field(1, description="worker processes that hold the clients")
    owners: str | None = Field(
        None, description="folder of the data owners, for several runs of the same ones; default: one beside the run"
    )
    faults: dict[FaultKey, Fraction01] = Field(
        default_factory=dict,
        description="step -> probability that a message is lost there; also step.duplicate and step.corrupt",
    )


class Config(Section):
    """A whole run. `clients_total`, `cohort` and `rounds_per_client` are what the tables amount to."""

    run: Run = Run()
    model: Model = Model()
    adapter: Adapter = Adapter()
    federation: Federation = Federation()
    grpo: Grpo = Grpo()
    client: tuple[Client, ...] = Field(min_length=1)
    evaluation: Evaluation = Evaluation()
    weighting: Weighting = Weighting()
    privacy: Privacy = Privacy(epsilon=8.0)
    aggregation: Aggregation = Aggregation()
    server: Server = Server()
    engine: Engine = Engine()
    deployment: Deployment = Deployment()

    @property
    def clients_total(self) -> int:
        return sum(client.count for client in self.client)

    @property
    def units_per_client(self) -> int:
        """The most units that any client holds, by public facts: what a sum of units allows for."""
        if self.privacy.unit in ("client", "none"):
            return 1
        return self.privacy.units_per_client or max(coupling.procedural_units(self, each) for each in self.client)

    @property
    def unit_blocks(self) -> int:
        """Units take part in turns of so many blocks: each in one round of `unit_blocks`."""
        rounds = self.federation.rounds
        return -(-rounds // min(rounds, self.privacy.max_rounds_per_unit or rounds))

    @property
    def cohort(self) -> int:
        return self.federation.clients_per_round or self.clients_total

    @model_validator(mode="before")
    @classmethod
    def unit_defaults(cls, table: Any) -> Any:
        """What is not written means something else where units lie inside a client: see `coupling.DEFAULTS`."""
        return coupling.with_defaults(table)

    @model_validator(mode="after")
    def uncoupled(self) -> "Config":
        coupling.check(self)
        return self

    @model_validator(mode="after")
    def adds_up_over_runs(self) -> "Config":
        private = self.privacy
        if self.engine.owners is not None and (private.sampling_rate, private.max_rounds_per_unit) != (None, None):
            raise ValueError(
                "engine.owners adds up what several runs spend; privacy.sampling_rate and privacy.max_rounds_per_unit "
                "account for one run only: remove one or the other"
            )
        return self

    @model_validator(mode="after")
    def consistent(self) -> "Config":
        names = [client.name for client in self.client]
        if len(set(names)) != len(names):
            raise ValueError("two [[client]] tables have the same name")
        stated = self.federation.clients
        if stated is not None and stated != self.clients_total:
            raise ValueError(
                f"federation.clients is {stated}, but the [[client]] tables make {self.clients_total} clients"
            )
        if self.cohort > self.clients_total:
            raise ValueError(
                f"federation.clients_per_round is {self.cohort}; there are only {self.clients_total} clients"
            )
        if self.federation.schedule == "all" and self.cohort != self.clients_total:
            raise ValueError(
                "federation.schedule 'all' takes every client in every round; use schedule = 'blocks' "
                f"for {self.cohort} of {self.clients_total}"
            )
        if self.aggregation.mode == "plain" and self.engine.faults:
            raise ValueError("engine.faults strike the steps of secure aggregation; aggregation.mode 'plain' has none")
        return self
