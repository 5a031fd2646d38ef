"""Runs of the quickstart's problem that differ in a few settings: simulated, marked, and written down.

A trial is simulated (`simulate`): the product's stages, all clients in one batch, integers added up without masks. It
is marked on problems that neither training nor tuning met (`utility.held_out`), tasks counted equally. Trials of one
seed have the same prompts and, in the first round, the same draws: differences are taken seed by seed.
"""

import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import compact
import levers
import record
import torch
import utility
from simulate import Simulation, Trained

from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.schema import Client, Config
from fgrpo_secure.learning.evaluation import Score, evaluate, overall
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.tasks.evaluation import evaluation_set
from fgrpo_secure.learning.tasks.rewards import exact
from fgrpo_secure.plan import round_settings

PRESET = "quickstart"  # whose problems all trials but those of `compact` are marked on: hospitals have the same
NOISE = "pure_noise:reward"
# shares of a kind's clients that are not as the others: the sign of their rewards is wrong ("late": from half of the
# rounds on), rewards have nothing to do with the task, or from half of the rounds on they have the next kind's task
BROKEN: dict[str, dict[str, float]] = {
    "none": {},
    "flip": {"flipped": 0.25},
    "late": {"flipped": 0.25},
    "noise": {"noise": 0.5},
    "mixed": {"flipped": 0.25, "noise": 0.25},
    "drifting": {"drifting": 0.5},
    "joining": {},  # every fourth kind has no data before half of the rounds are over
}
JOINING = 4
FROM_HALF = ("late", "drifting", "joining")
NOT_TRAINING = ("privacy.", "weighting.", "server.", "federation.rounds")  # what the first round's training ignores


@dataclass(frozen=True)
class Trial:
    """One run: what differs from the preset, how many clients are broken, who adds the noise, and the seed.

    `server`: "secure", the clients together; "plain", a server that is trusted; "alone", nobody, and the first client
    of each kind trains by itself.
    """

    settings: tuple[str, ...] = ()
    broken: str = "none"
    server: str = "secure"
    seed: int = 0
    problems: str = "held out"  # or "public": those that presets show, for tuning
    preset: str = "quickstart"
    lever: str = ""  # what the product does not have: see `levers`

    def config(self) -> Config:
        """The preset with this trial's settings."""
        preset = PRESET if self.preset == compact.NAME else self.preset
        chosen = config_file.load(preset, [f"run.seed={self.seed}", "run.entropy=seeded", *self.settings])
        table, kinds = chosen.model_dump(exclude_unset=True), [split(client, self.broken) for client in chosen.client]
        if self.preset == compact.NAME:
            other = {"model": {"path": str(compact.FOLDER / "model")}, "client": compact.clients(kinds)}
            return Config.model_validate(table | other)
        return Config.model_validate(table | {"client": [part for parts in kinds for part in parts]})

    def later(self) -> Config:
        """The same once those clients that drift have the next kind's task."""
        chosen = self.config()
        kinds = [client for client in chosen.client if "-drifting" not in client.name]
        clients = [client.model_dump(exclude_unset=True) for client in chosen.client]
        for place, table in enumerate(clients):
            if "-drifting" in table["name"]:
                own = [kind.name for kind in kinds].index(table["name"].removesuffix("-drifting"))
                following = kinds[(own + 1) % len(kinds)].model_dump(exclude_unset=True)
                clients[place] = following | {"name": table["name"], "count": table["count"]}
        return Config.model_validate(chosen.model_dump(exclude_unset=True) | {"client": clients})

    def key(self) -> dict[str, Any]:
        """How a line of a result file names it."""
        return {
            "settings": list(self.settings),
            "broken": self.broken,
            "server": self.server,
            "seed": self.seed,
            "problems": self.problems,
            "preset": self.preset,
            **({"lever": self.lever} if self.lever else {}),
        }


def named(line: dict[str, Any]) -> Trial:
    """The trial whose outcome a line is."""
    preset = line.get("preset", "quickstart")
    what, lever = (line["broken"], line["server"], line["seed"], line["problems"]), line.get("lever", "")
    return Trial(tuple(line["settings"]), *what, preset, lever)


def split(client: Client, broken: str) -> list[dict[str, Any]]:
    """A kind of clients as tables: those whose rewards are right, and those of each fault."""
    table = client.model_dump(exclude_unset=True)
    counts = {fault: round(client.count * share) for fault, share in BROKEN[broken].items()}
    differs: dict[str, dict[str, Any]] = {
        "flipped": {"reward_scale": -client.reward_scale},
        "noise": {"reward": NOISE},
        "drifting": {},
    }
    parts = [
        table | {"count": client.count - sum(counts.values())},
        *(table | {"name": f"{client.name}-{fault}", "count": counts[fault], **differs[fault]} for fault in counts),
    ]
    return [part for part in parts if part["count"]]


def run(trial: Trial) -> dict[str, Any]:
    """The trial's line: figures in points, weights by kind of client and round, processor seconds."""
    torch.set_num_threads(1)
    started = time.process_time()
    found = _alone(trial) if trial.server == "alone" else _together(trial)
    return {**trial.key(), **found, "seconds": round(time.process_time() - started, 1), **record.facts()}


def _together(trial: Trial) -> dict[str, Any]:
    config = trial.config()
    with tempfile.TemporaryDirectory() as folder:
        simulation = opened(trial, config, Path(folder))
        weights = []
        for number in range(config.federation.rounds):
            _turn(simulation, trial, number, Path(folder))
            simulation.round(number)
            weights.append(_by_kind(simulation, trial))
    with simulation.average.shown(simulation.adapted):
        marks = mark(simulation.adapted, config, trial)
    claim = simulation.privacy.claim
    return {
        **_marked(trial, [marks]),
        "weights": {kind: [round(each[kind], 4) for each in weights] for kind in weights[0]},
        "noise_multiplier": claim and claim.noise_multiplier,
    }


def _alone(trial: Trial) -> dict[str, Any]:
    """The first client of each kind, trained by the same rounds without the others: means over their models.

    `own_gain` is the sampled gain of each at its own kind's problems, in points.
    """
    config, marks = trial.config(), []
    with tempfile.TemporaryDirectory() as folder:
        for own in Simulation.open(config, Path(folder)).owners:
            simulation = Simulation.open(config, Path(folder))
            simulation.owners = [replace(own, id=0)]
            for number in range(config.federation.rounds):
                simulation.round(number)
            marks.append(mark(simulation.adapted, config, trial))
    earlier = marks_before(trial.seed, trial.problems, trial.preset == compact.NAME)
    tasks = [f"{client.task}-{client.difficulty}" for client in config.client]
    gains = [found[task].pass_rate - earlier[task].pass_rate for task, found in zip(tasks, marks, strict=True)]
    own_gain = {task: round(100 * gain, 2) for task, gain in zip(tasks, gains, strict=True)}
    return {**_marked(trial, marks), "weights": {"right": [1.0]}, "noise_multiplier": None, "own_gain": own_gain}


def _marked(trial: Trial, marks: Sequence[dict[str, Score]]) -> dict[str, Any]:
    """Figures of one model, or the means over several, by task too."""
    every = [score for found in marks for score in found.values()]
    tasks = {task: overall(found[task] for found in marks) for task in marks[0]}
    return {
        **utility.figures(before(trial.seed, trial.problems, trial.preset == compact.NAME), overall(every)),
        "tasks": {
            task: [round(100 * score.pass_rate, 2), round(100 * score.greedy, 2)] for task, score in tasks.items()
        },
    }


def opened(trial: Trial, config: Config, folder: Path) -> Simulation:
    """The trial's simulation before its first round."""
    kind = levers.KINDS.get(trial.lever, levers.Lever)
    simulation = kind.open(config, folder, plain=trial.server == "plain")
    simulation.prepare()
    # a round in which some have another sign, no data, or a lever of its own is not the one that others share
    if trial.broken not in FROM_HALF and trial.preset in (PRESET, compact.NAME) and not trial.lever:
        simulation.known = first_round(trial.broken, _training(trial), trial.seed, trial.preset)
    return simulation


def _turn(simulation: Simulation, trial: Trial, number: int, folder: Path) -> None:
    """What changes for some clients when half of the rounds are over."""
    half = number == simulation.config.federation.rounds // 2
    if trial.broken == "late" and (half or number == 0):  # the right sign until then
        simulation.owners = [
            replace(own, reward_scale=-own.reward_scale) if "-flipped" in own.name else own for own in simulation.owners
        ]
    if trial.broken == "drifting" and half:
        simulation.owners = Simulation.open(trial.later(), folder / "later").owners
    if trial.broken == "joining":
        kinds = [place for place, kind in enumerate(simulation.config.client) for _ in range(kind.count)]
        late = {place for place, kind in enumerate(kinds) if kind % JOINING == JOINING - 1}
        simulation.silent = late if number < simulation.config.federation.rounds // 2 else set()


def _training(trial: Trial) -> tuple[str, ...]:
    return tuple(each for each in trial.settings if not each.startswith(NOT_TRAINING))


@lru_cache(maxsize=2)
def first_round(broken: str, settings: tuple[str, ...], seed: int, preset: str) -> dict[int, Trained]:
    """What everybody learns in the first round, whatever noise and weights will be."""
    config = Trial(settings, broken, seed=seed, preset=preset).config()
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulation.open(config, Path(folder))
        return {0: simulation.train(round_settings.for_round(config, 0, 0))}


def _by_kind(simulation: Simulation, trial: Trial) -> dict[str, float]:
    """Mean weights of the last round, of clients whose rewards are right and of each kind of the others."""
    found: dict[str, list[float]] = {}
    for own, weight in zip(simulation.owners, simulation.weights, strict=True):
        kind = next((fault for fault in BROKEN[trial.broken] if f"-{fault}" in own.name), "right")
        found.setdefault(kind, []).append(weight)
    return {kind: sum(values) / len(values) for kind, values in found.items()}


def mark(adapted: Any, config: Config, trial: Trial) -> dict[str, Score]:
    """How a model does on the trial's problems, by task."""
    streams = Streams(trial.seed)
    return {
        task: evaluate(adapted, rows, exact, config.grpo, utility.SAMPLES, streams)
        for task, rows in rows_of(trial.problems, trial.preset == compact.NAME).items()
        if rows
    }


@lru_cache
def rows_of(problems: str, second: bool) -> dict[str, list[Any]]:
    """The problems that results are measured on, or the public ones that settings may be chosen by; by task.

    The `second` family has none to choose by.
    """
    if second and problems != "held out":
        raise ValueError("no setting is chosen on the second family")
    if second:
        return compact.held_out()
    if problems == "held out":
        return utility.held_out(PRESET)
    levels = {(client.task, client.difficulty) for client in config_file.load(PRESET).client if client.task}
    return {f"{task}-{level}": evaluation_set(task, level, utility.TUNED_ON) for task, level in sorted(levels)}


def before(seed: int, problems: str, second: bool) -> Score:
    """The model as it is before training, marked with this seed's draws."""
    return overall(marks_before(seed, problems, second).values())


@lru_cache
def marks_before(seed: int, problems: str, second: bool) -> dict[str, Score]:
    """The same by task."""
    trial = Trial(seed=seed, problems=problems, preset=compact.NAME if second else PRESET)
    with tempfile.TemporaryDirectory() as folder:
        config = trial.config()
        adapted = Simulation.open(config, Path(folder)).adapted
    return mark(adapted, config, trial)


def missing(path: Path, wanted: Iterable[Trial]) -> list[Trial]:
    """Those of `wanted` that a result file does not hold."""
    done = {named(line) for line in record.lines(path)}
    return [trial for trial in dict.fromkeys(wanted) if trial not in done]


def run_missing(path: Path, wanted: Iterable[Trial], processes: int, minutes: float) -> None:
    """Run what the file lacks and append each when it is done; start none after `minutes`."""
    limit, trials = time.monotonic() + minutes * 60, missing(path, wanted)
    with ProcessPoolExecutor(processes) as pool:
        waiting = iter(trials)
        running = {pool.submit(run, trial) for _, trial in zip(range(processes), waiting, strict=False)}
        while running:
            future = next(as_completed(running))
            running.discard(future)
            record.append(path, future.result())
            trial = next(waiting, None) if time.monotonic() < limit else None
            if trial is not None:
                running.add(pool.submit(run, trial))


def gains(found: Sequence[dict[str, Any]], figure: str = "sampled_gain") -> dict[int, float]:
    """A figure by seed."""
    return {line["seed"]: line[figure] for line in found}
