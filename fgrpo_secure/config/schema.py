"""The configuration of a run: what may be written in a TOML file, and what it means.

Configuration is public: nothing here depends on data. Every key has a default; a file states only what differs.
Names of the `grpo` section, and their semantics, are TRL's.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fgrpo_secure.config import client_rules
from fgrpo_secure.config import unit_rules as coupling
from fgrpo_secure.config.grpo import Grpo as Grpo  # readers of tables know all of them from here
from fgrpo_secure.config.protection import AdaptiveClip as AdaptiveClip
from fgrpo_secure.config.protection import Aggregation as Aggregation
from fgrpo_secure.config.protection import ClipNorm as ClipNorm
from fgrpo_secure.config.protection import Privacy as Privacy
from fgrpo_secure.config.section import Count as Count
from fgrpo_secure.config.section import Fraction01 as Fraction01
from fgrpo_secure.config.section import Positive
from fgrpo_secure.config.section import Section as Section
from fgrpo_secure.config.weighting import FALL_FOR_ALL_WEIGHT as FALL_FOR_ALL_WEIGHT
from fgrpo_secure.config.weighting import TOLERATED_FALL as TOLERATED_FALL
from fgrpo_secure.config.weighting import Weighting as Weighting

GYM = "reasoning-gym:"  # how the name of a task begins that is a data set of that library
Setting = bool | int | float | str
FaultKey = Annotated[str, Field(pattern=r"^(announce|share|mask|agree|unmask)(\.(drop|duplicate|corrupt))?$")]


class Run(Section):
    """The run's name, and where its randomness comes from."""

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
    """The base model. It stays frozen."""

    path: str = Field("builtin", description="Hugging Face causal LM folder or hub id; 'builtin' is the shipped one")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the frozen weights")
    device: str = Field("cpu", description="where it runs, in torch's words: 'cpu', 'cuda', 'cuda:1', 'mps'")
    gradient_checkpointing: bool = Field(
        False, description="training computes each layer twice and keeps less memory; for long completions"
    )


class Adapter(Section):
    """The LoRA adapter: what is trained, sent and released."""

    rank: Annotated[int, Field(ge=1, le=65_536)] = Field(4, description="rank of the factors")
    alpha: Positive = Field(8.0, description="the product of the factors counts alpha / rank")
    targets: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("down_proj",),
        description="module names that get LoRA factors; or 'all-linear': every linear layer but the output's",
    )
    rslora: bool = Field(False, description="the product counts alpha / sqrt(rank) instead (rank-stabilised LoRA)")
    dropout: Fraction01 = Field(
        0.0, description="share of a factor's inputs that local training leaves out, drawn anew at every step"
    )
    factors: Literal["ffa", "alternate", "full"] = Field(
        "ffa",
        description="'ffa' trains and sends B only; 'alternate' B in even rounds, A in odd ones; 'full' both",
    )
    init_from: str | None = Field(None, description="PEFT adapter folder to start from")

    def letters(self, training_round: int) -> str:
        """Which factors a round trains and sends: "A", "B" or "AB"."""
        if self.factors == "full":
            return "AB"
        return "A" if self.factors == "alternate" and training_round % 2 else "B"


class Federation(Section):
    """How many rounds, and who takes part in each: fixed before the run."""

    rounds: Annotated[int, Field(ge=1, le=1_000_000)] = Field(10, description="training rounds")
    clients: Count | None = Field(
        None, description="how many; needed where engine.kind is 'https', else checked against the [[client]] tables"
    )
    clients_per_round: Count | None = Field(None, description="the cohort; default: all of them")
    schedule: Literal["all", "blocks"] = Field(
        "all", description="fixed before the run: everybody in every round, or public blocks in turn"
    )
    max_rounds_per_client: Count | None = Field(
        None, description="most rounds of any one client; default: what the schedule needs"
    )
    local_steps: Count = Field(1, description="optimiser steps of a client per round, each on fresh rollouts")
    training_seconds: Count | None = Field(
        None, description="between machines (there 600 unless given): all train so long, then announce themselves"
    )
    step_seconds: Count = Field(120, description="between machines: how long the server waits in every other step")


class Client(Section):
    """One kind of data owner; the embedded engine makes `count` of them."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = Field(
        description="what this kind of owner is called; with count above 1 they are NAME-0, NAME-1, ..."
    )
    task: str | None = Field(
        None, description="a procedural task of fgrpo_secure.learning.tasks; or 'reasoning-gym:NAME' (extra 'tasks')"
    )
    task_settings: dict[str, Setting | tuple[Setting, ...]] = Field(
        default_factory=dict,
        description="of a reasoning-gym task: parameters of its data set by that library's names, and 'seed'",
    )
    data: str | None = Field(
        None,
        description="rows with a 'prompt' each, a string or messages: a JSONL or Parquet file, or a saved data set",
    )
    subject: str | None = Field(None, description="column that says whom a row is about: the units of 'subject'")
    rows: Count | None = Field(
        None, description="a procedural task as a fixed data set of so many rows; default: fresh ones without end"
    )
    rows_per_subject: Count = Field(1, description="rows about each subject of a procedural data set")
    reward: str | tuple[str, ...] | None = Field(
        None,
        description="'module:function', a module beside this file or installed; or a built-in: exact, contains, "
        "partial, signed, percent, numeric(tolerance), math(tolerance), format(pattern), length(tokens), "
        "reasoning-gym; default: the task's own",
    )
    reward_weights: tuple[float, ...] | None = Field(None, description="one for each reward; default: each counts once")
    reward_scale: float = Field(1.0, description="multiplies every reward of this client")
    difficulty: Annotated[int, Field(ge=1, le=3)] = Field(1, description="level of a procedural task")
    trainer: str | None = Field(
        None,
        description="what trains in place of the built-in loop: 'module:function', as of a reward; or 'trl'",
    )
    trainer_settings: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="the trainer's own: with 'trl' fields of its GRPOConfig, over those of [grpo]"
    )
    keep_optimizer: bool = Field(
        False, description="the built-in trainer's Adam goes on from what it remembered after the round before"
    )
    count: Count = Field(1, description="how many such clients the embedded engine makes")

    @property
    def rewards(self) -> tuple[str | None, ...]:
        """Every reward that is named; or one that is not, which is the task's own."""
        named = self.reward or None
        return named if isinstance(named, tuple) else (named,)

    @model_validator(mode="after")
    def one_source(self) -> "Client":
        if (self.task is None) == (self.data is None):
            raise ValueError(f"client {self.name!r} needs exactly one of 'task' and 'data'")
        if self.data is not None and self.reward is None:
            raise ValueError(f"client {self.name!r} reads a data file and therefore needs a 'reward'")
        if self.data is not None and self.rows is not None:
            raise ValueError(f"client {self.name!r} reads a data file, which has its own number of rows: leave 'rows'")
        given = len(self.rewards)
        if self.reward_weights is not None and len(self.reward_weights) != given:
            raise ValueError(
                f"client {self.name!r} has {len(self.reward_weights)} reward_weights for {given} rewards; give one each"
            )
        of_gym = (self.task or "").startswith(GYM)
        if self.task_settings and not of_gym:
            raise ValueError(f"client {self.name!r} has task_settings, but no task '{GYM}NAME' that could have any")
        if self.difficulty != 1 and of_gym:
            raise ValueError(f"client {self.name!r}: a task '{GYM}NAME' has no difficulty; set its task_settings")
        if self.trainer is not None and self.trainer != "trl" and ":" not in self.trainer:
            raise ValueError(f"client {self.name!r} has trainer {self.trainer!r}; write 'module:function' or 'trl'")
        if self.trainer_settings and self.trainer is None:
            raise ValueError(f"client {self.name!r} has trainer_settings without a 'trainer'; name one or leave them")
        if self.keep_optimizer and self.trainer is not None:
            raise ValueError(
                f"client {self.name!r} has a trainer of its own, whose optimiser is its own: leave keep_optimizer"
            )
        if self.reward_scale == 0:
            raise ValueError(f"client {self.name!r} has reward_scale 0; any other number is allowed")
        return self


class Evaluation(Section):
    """The public problems that pass rates are measured on. They are nobody's data, so they cost no budget."""

    data: str = Field(
        "tasks", description="'tasks': the public evaluation set of the clients' tasks; or a file, as of a client"
    )
    tasks: tuple[str, ...] | None = Field(
        None, description="the tasks of data = 'tasks', each as 'add' or 'add-2' (difficulty 2); default: the clients'"
    )
    reward: str | None = Field(None, description="reward of the evaluation file, as of a client")
    prompts: Count = Field(100, description="held-out problems per task")
    samples: Count = Field(4, description="sampled completions per problem")
    every: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        5, description="rounds between evaluations; 0: first and last only"
    )


class Server(Section):
    """What the server does with the mean of a round."""

    optimizer: Literal["sgd", "adam"] = Field("sgd", description="that moves the adapter along the mean")
    learning_rate: Positive = Field(1.0, description="of the server's optimiser; 1 with 'sgd' takes the mean as it is")
    momentum: Fraction01 = Field(0.0, description="of optimizer 'sgd'")
    averaging: Fraction01 = Field(
        0.0, description="decay of the average over rounds that is evaluated and saved; 0: the last adapter itself"
    )


class Deployment(Section):
    """What a registry of deployments asks besides; it changes nothing in the run."""

    name: str | None = Field(None, description="name of the published adapter; default: run.name")
    curators: tuple[str, ...] = Field(("not stated",), min_length=1, description="who publishes the adapter")
    intended_use: str = Field("not stated", description="what the adapter is published for")
    region: str = Field("not stated", description="what region the data describes, or whose law applies")
    sector: Literal["Technology", "Healthcare", "Education", "Government", "Energy", "Finance"] | None = Field(
        None, description="whose data it is"
    )
    publication_date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] = Field(
        "1970-01-01", description="YYYY-MM-DD; 1970-01-01: not published"
    )


class Engine(Section):
    """What carries messages between server and clients."""

    kind: Literal["embedded", "https", "ray"] = Field(
        "embedded",
        description="'embedded': all clients simulated on this machine; 'ray': simulated over the machines of a Ray "
        "cluster; 'https': clients are organisations on machines of their own, and no [[client]] stands here",
    )
    processes: Annotated[int, Field(ge=1, le=1024)] = Field(1, description="worker processes that hold the clients")
    gpus: Annotated[float, Field(ge=0, le=8)] = Field(
        0.0, description="accelerators that Ray sets aside for each process; a part of one: several share it"
    )
    owners: str | None = Field(
        None, description="folder of the data owners, for several runs of the same ones; default: one beside the run"
    )
    faults: dict[FaultKey, Fraction01] = Field(
        default_factory=dict,
        description="step -> probability that a message is lost there; also step.duplicate and step.corrupt",
    )


class Config(Section):
    """A whole run. `clients_total`, `cohort` and `rounds_per_client` are what the tables amount to.

    `client` is empty where clients have machines of their own: what they train on is in a file of each of them.
    """

    run: Run = Run()
    model: Model = Model()
    adapter: Adapter = Adapter()
    federation: Federation = Federation()
    grpo: Grpo = Grpo()
    client: tuple[Client, ...] = ()
    evaluation: Evaluation = Evaluation()
    weighting: Weighting = Weighting()
    privacy: Privacy = Privacy(epsilon=8.0)
    aggregation: Aggregation = Aggregation()
    server: Server = Server()
    engine: Engine = Engine()
    deployment: Deployment = Deployment()

    @property
    def training_deadline(self) -> int | None:
        """Seconds from a round's first message to everybody's announcement; None in a simulation, which never waits."""
        return self.federation.training_seconds or (600 if self.engine.kind == "https" else None)

    @property
    def clients_total(self) -> int:
        return sum(client.count for client in self.client) or self.federation.clients or 0

    @property
    def units_per_client(self) -> int:
        """The most units that any client holds, by public facts: what a sum of units allows for."""
        if self.privacy.unit in ("client", "none"):
            return 1
        held = (coupling.procedural_units(self, each) for each in self.client)
        return self.privacy.units_per_client or max(held, default=1)

    @property
    def unit_blocks(self) -> int:
        """Each unit takes part in one of every `unit_blocks` rounds."""
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
    def compares_policies_not_masks(self) -> "Config":
        """With dropout a step's log-probabilities are those of the model thinned by the step's own mask."""
        for key, off in (("num_iterations", 1), ("beta", 0)):
            if self.adapter.dropout and getattr(self.grpo, key) != off:
                raise ValueError(
                    f"adapter.dropout above 0 asks for grpo.{key} = {off}: else log-probabilities under two masks "
                    "are compared, and the difference taken for one of policies"
                )
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
        client_rules.check(self)
        return self
