"""A federation from Python, for notebooks and sweeps: what `fgrpo run` does, with results as objects.

    from fgrpo_secure import Federation
    result = Federation.from_toml("hospitals", "privacy.epsilon=4").run("runs/mine")
    result.summary["pass_rate.final"], result.rounds[-1].epsilon_spent

Names in `__all__` change with a new minor version at the earliest, and warn for one such version before they go.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.schema import Config
from fgrpo_secure.plan import adapter_shape, forecast, run_plan
from fgrpo_secure.run import inputs
from fgrpo_secure.storage.run_directory import RoundMetrics, RunDirectory

__all__ = ["Callbacks", "Federation", "Result"]


def _nothing(*_: Any) -> None:
    return


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Called while a run goes on: with a line of text, a step and how many clients have done it, a finished round."""

    say: Callable[[str], None] = _nothing
    started: Callable[[str, int, int], None] = _nothing
    step: Callable[[str, int, int], None] = _nothing
    finished_round: Callable[[RoundMetrics], None] = _nothing


@dataclass(frozen=True, slots=True)
class Result:
    """A run that has ended, read from its directory."""

    directory: RunDirectory

    @property
    def summary(self) -> Mapping[str, Any]:
        """What summary.json says, by the names that docs and scripts use."""
        found: dict[str, Any] = json.loads(self.directory.summary.read_text())
        return found

    @property
    def rounds(self) -> list[RoundMetrics]:
        """One entry for each round."""
        return [RoundMetrics(**line) for line in self.directory.read_metrics()]

    @property
    def adapter(self) -> Path:
        """The folder that `peft.PeftModel.from_pretrained` takes."""
        return self.directory.adapter

    @property
    def report(self) -> Path:
        """One page with all plots."""
        return self.directory.report


@dataclass(frozen=True, slots=True)
class Federation:
    """A checked configuration."""

    config: Config

    @staticmethod
    def from_toml(source: str | Path, *overrides: str) -> "Federation":
        """A preset's name or a TOML file, with `section.key=value` overrides. Raises ConfigError."""
        return Federation(config_file.load(str(source), overrides))

    def plan(self) -> Mapping[str, object]:
        """What a run would cost, by the names of `fgrpo plan --json`. Raises UnusableInput as that does."""
        inputs.check(self.config)
        shape = adapter_shape.read(self.config.model.path, self.config.adapter)
        if shape is None:
            from fgrpo_secure.learning import adapters, models

            adapted = adapters.attach(models.load(self.config.model), self.config.adapter, self.config.run.seed)
            shape = adapter_shape.of(adapted)
        found = run_plan.plan(self.config, shape)
        return {**found.facts(), **forecast.of(self.config, found).facts()}

    def run(self, out: str | Path | None = None, callbacks: Callbacks | None = None) -> Result:
        """Train into the directory `out`, by default runs/<run.name>. Raises what `fgrpo run` says in one sentence:
        UnusableInput or CheckFailed."""
        from fgrpo_secure.run import training  # torch takes seconds, and a plan does without

        directory = RunDirectory(Path(out) if out is not None else Path("runs") / self.config.run.name)
        training.start(self.config, directory, callbacks or Callbacks())
        return Result(directory)
