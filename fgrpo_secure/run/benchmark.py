"""What a configuration learns at several budgets and weights: whole runs over several seeds, and a table of them.

Each run lies in a directory of its own, which verifies and is reported like any other. What is finished is not run
again, and what was interrupted goes on. Every run spends a budget of its own on the same data: figures made on private
rows are covered by all of them together, and by none alone.
"""

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scipy import stats  # type: ignore[import-untyped]

from fgrpo_secure import __version__
from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.config.schema import Config
from fgrpo_secure.config.unit_rules import SMALL_UNITS
from fgrpo_secure.plan import adapter_shape, forecast, run_plan
from fgrpo_secure.run import inputs, training
from fgrpo_secure.storage import digests
from fgrpo_secure.storage.run_directory import RunDirectory, write_durably

RESULT = "benchmark.json"
GAINS = {
    "sampled": ("pass_rate.initial", "pass_rate.final"),
    "greedy": ("pass_rate.greedy_initial", "pass_rate.greedy_final"),
}


NO_PRIVACY = "none"
LARGEST_RISE = 3.0  # of a step: one that was not chosen for its noise would be raised without end
Budget = float | Literal["none"]


def budget(text: str) -> Budget:
    """What a user types for a budget. Raises ConfigError."""
    try:
        return "none" if text == NO_PRIVACY else float(text)
    except ValueError:
        raise ConfigError(f"--epsilon is {text!r}; give a number above 0, or none for no privacy") from None


def shown(epsilon: Budget) -> str:
    """A budget to its last digit: two that differ are two lines and two directories."""
    return NO_PRIVACY if epsilon == NO_PRIVACY else repr(epsilon).removesuffix(".0")


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of the table. None: as the configuration says."""

    epsilon: Budget | None
    rule: str | None

    @property
    def name(self) -> str:
        """How its directories are called."""
        budget = [] if self.epsilon is None else [f"epsilon-{shown(self.epsilon)}"]
        return "-".join([*budget, *([self.rule] if self.rule else [])]) or "as-configured"

    def settings(self) -> list[str]:
        """Its overrides."""
        rule = [f'weighting.rule="{self.rule}"'] if self.rule else []
        if self.epsilon is None:
            return rule
        return ["privacy.unit=none" if self.epsilon == NO_PRIVACY else f"privacy.epsilon={self.epsilon!r}", *rule]


@dataclass(frozen=True, slots=True)
class Planned:
    """One run of the table."""

    cell: Cell
    seed: int
    config: Config
    directory: RunDirectory


def cells(epsilons: Sequence[Budget], rules: Sequence[str]) -> list[Cell]:
    """Every budget with every rule; what the configuration says where none is given."""
    budgets: list[Budget | None] = list(dict.fromkeys(epsilons)) or [None]
    weights: list[str | None] = list(dict.fromkeys(rules)) or [None]
    return [Cell(epsilon, rule) for epsilon in budgets for rule in weights]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The runs of one call, and the folder that holds them and those of earlier calls.

    `made_of` is a digest of the configuration and of the files that it names: what a folder's runs have in common.
    """

    out: Path
    made_of: str
    runs: tuple[Planned, ...]

    def run(self, observer: training.Observer) -> dict[str, Any]:
        """Run what is not finished, and keep the table after each. Raises as `training.start`; returns the table."""
        lines = self._earlier()
        self._keep(lines)
        for done, each in enumerate(self.runs):
            if not each.directory.summary.exists():
                observer.say(f"run {done + 1} of {len(self.runs)}: {each.directory.root}")
                if each.directory.config.exists():
                    training.resume(each.directory, observer)
                else:
                    training.start(each.config, each.directory, observer)
            lines[each.directory.root.name] = each.cell, line(each)
            self._keep(lines)
        return table(lines.values())

    def check(self) -> None:
        """Returns if what the folder holds may stand in one table with these runs; ConfigError otherwise."""
        self._earlier()
        for each in self.runs:
            found = each.directory.config
            if found.exists() and found.read_text("utf-8") != config_file.dump(each.config):
                raise ConfigError(f"{each.directory.root} holds a run of another configuration; choose another --out")

    def unfinished(self) -> int:
        """How many runs in the folder began and did not end: they spent, and are in no table."""
        begun = [RunDirectory(each.parent) for each in self.out.glob("*-seed-*/config.toml")]
        return sum(not each.summary.exists() for each in begun)

    def _earlier(self) -> dict[str, tuple[Cell, dict[str, Any]]]:
        """The finished runs of the folder, by their directories."""
        path = self.out / RESULT
        if not path.exists():
            return {}
        try:
            found = json.loads(path.read_text("utf-8"))
            made_of = found["made_of"]
            lines = {
                run["directory"]: (Cell(cell["epsilon"], cell["rule"]), run)
                for cell in found["cells"]
                for run in cell["runs"]
            }
        except (ValueError, LookupError, TypeError):
            raise ConfigError(f"{path} is no table of a benchmark; choose another --out") from None
        if made_of != self.made_of:
            raise ConfigError(f"{path} is of another configuration, or of other data or code; choose another --out")
        return lines

    def _keep(self, lines: Mapping[str, tuple[Cell, Mapping[str, Any]]]) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        made = {"made_of": self.made_of, **table(lines.values())}
        write_durably(self.out / RESULT, json.dumps(made, indent=2).encode() + b"\n")


def planned(
    source: str, overrides: Sequence[str], cells: Sequence[Cell], seeds: int, out: Path, same_step: bool = False
) -> Benchmark:
    """All runs, seed by seed, each checked before the first begins. Raises ConfigError, and UnusableInput as a plan.

    `same_step`: the server's step of every budget is the configured one.
    """
    stated, settings = config_file.load(source, [*overrides, "run.seed=0"]), {}
    for cell in cells:
        _check_budget(stated, cell)
        config = config_file.load(source, [*overrides, *cell.settings()])
        inputs.check(config)
        step = stated.server.learning_rate if cell.epsilon is None or same_step else step_for(config, stated)
        settings[cell] = [*overrides, *cell.settings(), f"server.learning_rate={step!r}"]
    runs = []
    for seed in range(1, seeds + 1):
        for cell, chosen in settings.items():
            config = config_file.load(source, [*chosen, f"run.seed={seed}"])
            runs.append(Planned(cell, seed, config, RunDirectory(out / f"{cell.name}-seed-{seed}")))
    found = Benchmark(out, _made_of(stated), tuple(runs))
    found.check()
    return found


def _check_budget(stated: Config, cell: Cell) -> None:
    if stated.privacy.unit == "none" and cell.epsilon is not None:
        raise ConfigError("privacy.unit is 'none', so that no epsilon changes anything; leave out --epsilon")
    if stated.privacy.unit in SMALL_UNITS and cell.epsilon == NO_PRIVACY:
        raise ConfigError(
            f"privacy.unit is {stated.privacy.unit!r}, and without it clients would clip and train in another way; "
            "give a budget with hardly any noise instead, such as --epsilon 100"
        )


def step_for(config: Config, stated: Config) -> float:
    """The server's step of `stated`, in proportion to what the noise of each leaves of the gain; to two digits, and at
    most `LARGEST_RISE` times as large.

    The same step where Adam sizes it, or where the model's files do not say how many coordinates are trained.
    """
    step, shape = stated.server.learning_rate, adapter_shape.read(config.model.path, config.adapter)
    if stated.server.optimizer != "sgd" or shape is None:
        return step
    left, usual = (forecast.of(each, run_plan.plan(each, shape)).kept for each in (config, stated))
    return step if left == usual else float(f"{step * min(LARGEST_RISE, left / usual):.2g}")


def _made_of(config: Config) -> str:
    named = [config.evaluation.data, config.evaluation.reward]
    for client in config.client:
        named += [client.data, client.trainer, *client.rewards]
    # A function in a file of the owner's is named "/folder/module.py:function".
    paths = {Path(each.rpartition(".py:")[0] + ".py" if ".py:" in each else each) for each in named if each}
    digests_of = {str(path): digests.of_file(path) for path in sorted(paths) if path.is_file()}
    return hashlib.sha256(json.dumps([config_file.dump(config), digests_of]).encode()).hexdigest()


def line(run: Planned) -> dict[str, Any]:
    """What a finished run came to, gains in points."""
    summary = json.loads(run.directory.summary.read_text("utf-8"))
    gains = {name: 100 * (summary[after] - summary[before]) for name, (before, after) in GAINS.items()}
    return {
        "seed": run.seed,
        **gains,
        "epsilon_spent": summary["privacy.epsilon_spent"],
        "delta": summary["privacy.delta"],
        "stopped": summary["stopped"],
        "step": run.config.server.learning_rate,
        "directory": run.directory.root.name,
    }


def table(lines: Collection[tuple[Cell, Mapping[str, Any]]]) -> dict[str, Any]:
    """One entry a cell: means with 95 % t intervals over seeds, runs that ended early among them."""
    entries = []
    for cell in dict.fromkeys(cell for cell, _ in lines):
        runs = [run for of, run in lines if of == cell]
        gains = {name: interval([run[name] for run in runs]) for name in GAINS}
        entries.append({"epsilon": cell.epsilon, "rule": cell.rule, **gains, "runs": runs})
    return {"version": __version__, "measured": "gain in points on the evaluation problems", "cells": entries}


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and 95 % t interval; no interval for one value alone."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def spent(found: Mapping[str, Any]) -> tuple[float, float] | None:
    """Epsilon and delta of all runs together on one unit's data, by adding up; None if one has no bound."""
    runs = [run for cell in found["cells"] for run in cell["runs"]]
    if any(run["epsilon_spent"] is None for run in runs):
        return None
    return math.fsum(run["epsilon_spent"] for run in runs), math.fsum(run["delta"] for run in runs)
