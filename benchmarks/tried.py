"""What was tried beside the presets' settings, and what it gained: less than it should, or nothing.

First looks are paired with the preset on public problems, seeds 100 and above: two or three runs, enough to drop what
does not help. What looks better by more than a point is measured again on the seeds that report, on held-out problems.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import claims
import levers
import record
import trials
from claims import EPSILONS, MORE_PROMPTS, Claim, Lines, Row
from trials import Trial

FILE = record.RESULTS / "levers.jsonl"
FIRST_LOOK = (100, 101)
BETTER = 1.0  # points on a first look: worth fresh seeds
TWO_STEPS, FEWER_PROMPTS = ("federation.local_steps=2",), "grpo.prompts_per_step=4"
# the clip is below every update, as in the preset, and the server's step makes up for it
SHORT = ("grpo.learning_rate=3", "privacy.clip_norm=0.1", "server.learning_rate=30")
LONGER = ("grpo.learning_rate=20", "privacy.clip_norm=0.5", "server.learning_rate=6")
QUANTILE = "privacy.adaptive_clip.quantile=0.5"


@dataclass(frozen=True)
class Tried:
    """A setting beside a row of the table over epsilon; `kind` is one of `levers`, for what the product does not have.

    `rival` changes that row to what is as much work; `twice` marks what has twice the prompts, of which no claim is
    made beside a row that has not. `settled` says that the fresh seeds have it, too.
    """

    name: str
    settings: tuple[str, ...] = ()
    kind: str = ""
    epsilon: str = "8"
    settled: bool = False
    rival: tuple[str, ...] = ()
    twice: bool = False

    @property
    def preset(self) -> Row:
        """The row that it is tried beside."""
        return next(row for row in EPSILONS if row.name == self.epsilon)

    @property
    def beside(self) -> Row:
        """The row that it is compared with."""
        return replace(self.preset, settings=(*self.preset.settings, *self.rival))

    def trials(self) -> list[Trial]:
        """The runs of the first look."""
        return [
            replace(each, settings=(*each.settings, *self.settings), lever=self.kind) for each in looks(self.preset)
        ]

    def fresh(self) -> list[Trial]:
        """The runs on fresh seeds."""
        row = replace(self.preset, settings=(*self.preset.settings, *self.settings))
        return [replace(trial, lever=self.kind) for trial in row.trials()]


def looks(row: Row) -> list[Trial]:
    """A row's own runs on the seeds and problems of first looks."""
    return [Trial(row.settings, seed=seed, problems="public") for seed in FIRST_LOOK]


TRIED = (
    Tried("server momentum 0.5, the same path (step 1.5)", ("server.momentum=0.5", "server.learning_rate=1.5")),
    Tried("server momentum 0.5, a longer path (step 2.2)", ("server.momentum=0.5", "server.learning_rate=2.2")),
    Tried("server momentum 0.9 (step 0.8)", ("server.momentum=0.9", "server.learning_rate=0.8")),
    Tried("Adam at the server, 0.02", ("server.optimizer=adam", "server.learning_rate=0.02")),
    Tried("Adam at the server, 0.04", ("server.optimizer=adam", "server.learning_rate=0.04")),
    Tried("Adam at the server, 0.08", ("server.optimizer=adam", "server.learning_rate=0.08")),
    Tried("average of the adapters, decay 0.5", ("server.averaging=0.5",)),
    Tried("average, decay 0.8, step 4.5", ("server.averaging=0.8", "server.learning_rate=4.5")),
    Tried("clip norm by quantile, step 1.6 (the path of the preset)", (QUANTILE, "server.learning_rate=1.6")),
    Tried("clip norm by quantile, step 3", (QUANTILE,)),
    Tried("fixed clip norm, step 5.5 (the path of the line above)", ("server.learning_rate=5.5",)),
    Tried("A within a third of its directions, by public prompts", (), "subspace"),
    Tried("A starts with the main directions of public prompts", (), "public start", settled=True),
    Tried("two local steps of 4 prompts, short", (*TWO_STEPS, FEWER_PROMPTS, *SHORT)),
    Tried("two local steps of 4 prompts, long", (*TWO_STEPS, FEWER_PROMPTS, *LONGER)),
    Tried("one step of 16 prompts", (MORE_PROMPTS,), settled=True, twice=True),
    Tried("two local steps of 8 prompts, short", (*TWO_STEPS, *SHORT), settled=True, twice=True),
    Tried("two local steps of 8 prompts less one of 16", (*TWO_STEPS, *SHORT), settled=True, rival=(MORE_PROMPTS,)),
    Tried("two sessions in reserve that nothing needed", ("privacy.reserved_sessions=2",)),
    Tried("who rises counts less (w = 1 - g / 6)", levers.WHOLE_WEIGHT, "laggards"),
    Tried("`history` on the gain less the cohort's released mean gain", (), "against the mean"),
)


def wanted() -> list[Trial]:
    """All runs, a seed at a time: the first look's, then those on fresh seeds."""
    first = [looks(row) for row in EPSILONS if any(tried.epsilon == row.name for tried in TRIED)]
    first += [tried.trials() for tried in TRIED]
    fresh = [tried.fresh() for tried in TRIED if tried.settled]
    return [trial for rows in (first, fresh) for seed in zip(*rows, strict=True) for trial in seed]


def finished() -> Lines:
    """Runs of the levers, and those of the rows that they are compared with."""
    return {**claims.finished(), **{trials.named(line): line for line in record.lines(FILE)}}


def worst(line: dict[str, Any]) -> float:
    """The sampled pass rate of the task that ends lowest."""
    return float(min(task[0] for task in line["tasks"].values()))


def less(lines: Lines, ours: list[Trial], others: list[Trial]) -> dict[str, dict[int, float]]:
    """Differences seed by seed: sampled, greedy and the worst task."""
    pairs = [
        (lines[own], lines[other]) for own, other in zip(ours, others, strict=True) if own in lines and other in lines
    ]
    return {
        "sampled": {own["seed"]: own["sampled"] - other["sampled"] for own, other in pairs},
        "greedy": {own["seed"]: own["greedy"] - other["greedy"] for own, other in pairs},
        "worst": {own["seed"]: worst(dict(own)) - worst(dict(other)) for own, other in pairs},
    }


def check(quick: bool, processes: int, minutes: float) -> list[Claim]:
    """Run what is missing, or the smallest part with `quick`, and say what holds."""
    if quick:
        return [_quick()]
    done = finished()
    trials.run_missing(FILE, [trial for trial in wanted() if trial not in done], processes, minutes)
    return judged(finished())


def judged(lines: Lines) -> list[Claim]:
    """Nothing that was tried is better than the preset: by a point on a first look, or beyond chance on fresh seeds."""
    said = []
    for tried in (each for each in TRIED if not each.twice):
        first = less(lines, tried.trials(), looks(tried.beside))["sampled"]
        if not first:
            said.append(Claim(f"{tried.name}: not measured yet", None))
            continue
        text = f"{tried.name}, epsilon {tried.epsilon}: {mean(first.values()):+.1f} on {len(first)} first looks"
        holds = None if tried.settled else mean(first.values()) <= BETTER
        fresh = less(lines, tried.fresh(), tried.beside.trials())["sampled"] if tried.settled else {}
        if len(fresh) >= 2:
            found = record.interval(list(fresh.values()))
            text, holds = f"{text}, {record.text(found)} on {len(fresh)} fresh seeds", found["low"] <= 0
        than = "one step of as many prompts" if tried.rival else "the preset"
        said.append(Claim(f"{text}: no better than {than}", holds))
    return said


def _quick() -> Claim:
    """Two rounds of eight clients within a subspace, in a file that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quick.jsonl"
        trials.run_missing(path, [Trial(claims.QUICK, seed=0, problems="public", lever="subspace")], 1, 1e6)
        (line,) = record.lines(path)
    says = f"a small run within a subspace is simulated and marked: {line['sampled_gain']:+.1f} points in two rounds"
    return Claim(says, -100 <= line["sampled_gain"] <= 100 and trials.named(line).lever == "subspace")
