"""An owner's own file, `client.toml`: what it trains on, by what rewards, and with what machine.

No configuration of a run says any of this, and nothing of it is ever sent. Relative paths are meant from the folder
that the file lies in.
"""

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from fgrpo_secure.config import anchors, files, unit_rules
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.config.schema import Client, Count, Model, Setting
from fgrpo_secure.config.section import Section

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Data(Section):
    """What the owner trains on and how it is rewarded; keys as of a [[client]] table in a trial."""

    task: str | None = Field(None, description="a procedural task, 'add' or 'reasoning-gym:NAME'; or give 'data'")
    task_settings: dict[str, Setting | tuple[Setting, ...]] = Field(
        default_factory=dict,
        description="of a reasoning-gym task: parameters of its data set by that library's names, and 'seed'",
    )
    data: str | None = Field(
        None, description="rows with a 'prompt' each: a JSONL or Parquet file, or a saved data set; it never leaves"
    )
    subject: str | None = Field(None, description="column that says whom a row is about, where that is the unit")
    rows: Count | None = Field(None, description="a procedural task as a fixed data set of so many rows")
    rows_per_subject: Count = Field(1, description="rows about each subject of a procedural data set")
    reward: str | tuple[str, ...] | None = Field(
        None, description="'module:function', a module beside this file or installed; or a built-in; or several"
    )
    reward_weights: tuple[float, ...] | None = Field(
        None, description="weight of each reward; default: each counts once"
    )
    reward_scale: float = Field(1.0, description="multiplies every reward")
    trainer: str | None = Field(
        None,
        description="what trains in place of the built-in loop: 'module:function', as of a reward; or 'trl'",
    )
    trainer_settings: dict[str, bool | int | float | str] = Field(
        default_factory=dict,
        description="the trainer's own: with 'trl' fields of its GRPOConfig, over the run's [grpo]",
    )
    keep_optimizer: bool = Field(
        False, description="the built-in trainer's Adam goes on from what it remembered after the round before"
    )
    difficulty: Annotated[int, Field(ge=1, le=3)] = Field(1, description="level of a procedural task")


class Machine(Section):
    """What the owner computes with."""

    model: str | None = Field(
        None,
        description="folder of the base model here; default: what the run's configuration names; digests must agree",
    )
    device: str = Field("cpu", description="where torch computes: 'cpu', 'cuda', 'cuda:1', ...")
    threads: Count = Field(1, description="threads of torch; more only for larger models")
    gradient_checkpointing: bool = Field(
        False, description="training computes each layer twice and keeps less memory; for long completions"
    )


class Network(Section):
    """How the server is reached."""

    proxy: str | None = Field(None, description="http://HOST:PORT of the proxy that this machine needs; default: none")
    certificate: str | None = Field(
        None, description="a client certificate with its chain (PEM), where the server asks for one; with 'key'"
    )
    key: str | None = Field(None, description="the client certificate's secret key (PEM, not encrypted)")


class OwnFile(Section):
    """The whole file."""

    name: Annotated[str, Field(pattern=NAME)] = Field(description="the owner's name on rosters; enrolled, so leave it")
    data: Data = Data()
    machine: Machine = Machine()
    network: Network = Network()

    def client(self) -> Client:
        """The data and rewards as the rest of the code knows them. ValidationError if they are not complete."""
        return Client(name=self.name, **self.data.model_dump())

    def model(self, configured: Model) -> Model:
        """The run's base model, as it lies on this machine."""
        here = self.machine
        own = {"device": here.device, "gradient_checkpointing": here.gradient_checkpointing}
        return configured.model_copy(update={"path": here.model or configured.path, **own})


def load(path: Path) -> OwnFile:
    """The file at `path`, its relative paths made absolute. ConfigError naming file, key and what is allowed."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read: {problem.strerror}") from None
    except ValueError as problem:
        raise ConfigError(f"{path} is not valid TOML: {problem}") from None
    if isinstance(data := table.get("data"), dict):
        anchors.anchor_own(data, path)
    if isinstance(machine := table.get("machine"), dict):
        anchors.anchor(machine, path.resolve().parent, "model")
    found = files.parse_as(OwnFile, table, str(path))
    check(found, str(path))
    return found


def check(own: OwnFile, origin: str) -> None:
    """Returns if there is something to train on, and a reward for it; else ConfigError, naming `origin`."""
    try:
        own.client()
    except ValidationError as problem:
        said = str(problem.errors()[0]["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"{origin}: data: {said}") from None


def check_unit(own: OwnFile, unit: str, origin: str) -> None:
    """Returns if the owner can protect `unit` with what it trains by; else ConfigError, naming `origin`."""
    reason = unit_rules.whole_update(unit, own.client())
    if reason:
        raise ConfigError(f"{origin}: {reason}")


def dump(own: OwnFile) -> str:
    """The file with a comment for every key."""
    heading = (
        f"What {own.name} trains on, and with what. Its owner edits this file; it is read at every start.",
        "No server and no configuration of a run sees or changes it. Relative paths are meant from this folder.",
    )
    return files.dump_tables(own, *heading)
