"""The claims about learning that anyone can check: the trials that each rests on, and whether they bear it out.

Settings were chosen on public problems with other seeds (100 to 199); seeds 1001 to 1005 report, and did nothing else.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import direction
import record
import trials
from trials import Trial

SEEDS = (1001, 1002, 1003, 1004, 1005)
UNIFORM = "weighting.rule=uniform"
MORE_PROMPTS = "grpo.prompts_per_step=16"
KINDS = direction.KINDS
FEWER = tuple(f"client.{kind}.count=8" for kind in KINDS)  # without noise it does not matter how many share it
ONE_FACTOR = ("adapter.factors=ffa", "server.learning_rate=400")
LONG = (MORE_PROMPTS, "federation.rounds=24")  # a history needs prompts and rounds before it says anything
OF_TRIALS = ("epsilon", "weights", "hospitals", "silos", "second_family", "baselines")
FILES = {name: record.RESULTS / f"{name}.jsonl" for name in (*OF_TRIALS, "direction")}
QUICK = ("federation.rounds=2", *(f"client.{kind}.count=1" for kind in KINDS), "privacy.epsilon=100")


@dataclass(frozen=True)
class Row:
    """One line of a table: a setting by its name, and the gains (sampled, greedy) that it must reach, if any."""

    name: str
    settings: tuple[str, ...]
    broken: str = "none"
    least: tuple[float, float] | None = None
    preset: str = "quickstart"
    server: str = "secure"
    lever: str = ""

    def trials(self, rule: str = "history", server: str | None = None) -> list[Trial]:
        """Its runs, one a seed."""
        settings = self.settings if rule == "history" else (*self.settings, f"weighting.rule={rule}")
        chosen = {"preset": self.preset, "lever": self.lever}
        return [Trial(settings, self.broken, server or self.server, seed, **chosen) for seed in SEEDS]


@dataclass(frozen=True)
class Claim:
    """A sentence with its figures; `holds` is None where too few runs are finished to say."""

    says: str
    holds: bool | None


def _budget(epsilon: str, step: str) -> tuple[str, ...]:
    return (f"privacy.epsilon={epsilon}", f"server.learning_rate={step}", MORE_PROMPTS)


EPSILONS = (
    Row("none", ("privacy.unit=none",)),
    Row("8", (), least=(22.0, 50.0)),
    Row("4", _budget("4", "2"), least=(16.0, 0.0)),
    Row("2", _budget("2", "1.5"), least=(10.0, 0.0)),
    Row("1", _budget("1", "0.8")),
)
STRESS = (
    Row("a quarter with the wrong sign", (*LONG, *FEWER, "privacy.unit=none"), "flip"),
    Row("half broken", (*LONG, *FEWER, "privacy.unit=none"), "mixed"),
    Row("half broken, epsilon 8", (*LONG, "server.learning_rate=1.6"), "mixed"),
)
# 64 clients at epsilon 50 meet as much noise for each as 256 at 8 (its deviation over their number: 0.3 % apart),
# in a quarter of the time; the denominator is the one that 256 have
NOISE_OF_8 = ("privacy.epsilon=50", "server.learning_rate=1.6", "weighting.denominator=noisy_ratio")
CHANGES = (
    ("two kinds join half-way", "joining"),
    ("half change their task half-way", "drifting"),
    ("a quarter turns wrong half-way", "late"),
)
CHANGING = (
    *(Row(name, (*LONG, *FEWER, "privacy.unit=none"), broken) for name, broken in CHANGES),
    *(Row(f"{name}, noise of epsilon 8", (*LONG, *FEWER, *NOISE_OF_8), broken) for name, broken in CHANGES),
)
HOSPITALS = tuple(
    Row(epsilon, settings, preset="hospitals")
    for epsilon, settings in (
        ("8", ()),
        ("4", ("privacy.epsilon=4", "server.learning_rate=200")),
        ("2", ("privacy.epsilon=2", "server.learning_rate=120")),
        ("1", ("privacy.epsilon=1", "server.learning_rate=60")),
    )
)
# the same units as the preset trained them once: one factor of the adapter, a step for epsilon 8 at every budget
HOSPITALS_BEFORE = tuple(
    Row(row.name, (f"privacy.epsilon={row.name}", *ONE_FACTOR), preset="hospitals") for row in HOSPITALS
)
# eight organisations without noise, as the preset has them and as it had them: one factor, fewer prompts in a step
SILOS = Row("none", (), preset="silos")
SILOS_BEFORE = Row("none", ("adapter.factors=ffa", "grpo.prompts_per_step=4", "grpo.num_generations=8"), preset="silos")

# what a federation of this kind is held against; steps chosen on public problems with seed 100
AVERAGED = (
    *FEWER, UNIFORM, "privacy.unit=none", "privacy.clip_norm=64", "server.learning_rate=1", "federation.local_steps=4",
    "grpo.optimizer=adam", "grpo.learning_rate=0.06",
)  # fmt: skip
ALONE = ("privacy.unit=none", UNIFORM, *(f"client.{kind}.count=1" for kind in KINDS), "server.learning_rate=0.3")
FEDERATION = EPSILONS[1]
BASELINES = {
    "trusted": replace(FEDERATION, name="a trusted server, epsilon 8", server="plain"),
    "none": replace(EPSILONS[0], name="the federation without privacy"),
    "fedavg": Row("FedAvg, no privacy", AVERAGED),
    "fedprox": Row("FedProx, no privacy", AVERAGED, lever="proximal"),
    "alone": Row("one client alone, no privacy", ALONE, server="alone"),
    "local": Row("noise of each client alone, epsilon 8", (UNIFORM, "server.learning_rate=0.1"), lever="local noise"),
}
# the same settings on problems and with a model that nothing was chosen on
SECOND_FAMILY = tuple(replace(row, least=None, preset="compact") for row in EPSILONS if row.name in ("none", "8", "2"))
SECOND_STRESS = replace(STRESS[0], preset="compact")

Lines = Mapping[Trial, Mapping[str, Any]]


def wanted(name: str) -> list[Trial]:
    """All trials of a claim, a seed at a time, so that what is finished early has as many seeds everywhere."""
    rows: list[list[Trial]] = []
    if name == "epsilon":
        rows = [row.trials(server=server) for server in ("secure", "plain") for row in EPSILONS]
        rows.remove(EPSILONS[0].trials(server="plain"))  # without noise it is the same integers
    elif name == "hospitals":
        rows = [row.trials() for row in (*HOSPITALS, *HOSPITALS_BEFORE)]
    elif name == "silos":
        rows = [row.trials() for row in (SILOS, SILOS_BEFORE)]
    elif name == "second_family":
        rows = [row.trials(rule) for row in (*SECOND_FAMILY, SECOND_STRESS) for rule in ("history", "uniform")]
    elif name == "baselines":
        rows = [row.trials() for row in (FEDERATION, *BASELINES.values())]
    elif name == "weights":
        rows = [row.trials(rule) for row in (*STRESS, *EPSILONS, *CHANGING) for rule in ("history", "uniform")]
    return [trial for seed in zip(*rows, strict=True) for trial in seed]


def finished() -> Lines:
    """Every finished run of the learning benchmarks, by its trial: claims share runs."""
    lines = [line for name in OF_TRIALS for line in record.lines(FILES[name])]
    return {trials.named(line): line for line in lines}


def found(lines: Lines, chosen: Sequence[Trial], figure: str) -> dict[int, float]:
    """A figure by seed, of those that are finished."""
    return {trial.seed: lines[trial][figure] for trial in chosen if trial in lines}


def check(name: str, quick: bool, processes: int, minutes: float) -> list[Claim]:
    """Run what is missing, or the smallest part with `quick`, and say what holds."""
    if quick:
        return [_quick_direction() if name == "direction" else _quick_run(name == "second_family")]
    if name == "direction":
        direction.run_missing(FILES[name])
        return _direction_claims()
    done = finished()
    missing = [trial for trial in wanted(name) if trial not in done]
    trials.run_missing(FILES[name], missing, processes, minutes)
    return judged(name, finished())


def judged(name: str, lines: Lines) -> list[Claim]:
    """What finished runs say about a claim."""
    say = {
        "epsilon": _epsilon_claims,
        "weights": _weights_claims,
        "hospitals": lambda found: _more_than_before("hospitals", zip(HOSPITALS, HOSPITALS_BEFORE, strict=True), found),
        "silos": lambda found: _more_than_before("silos", [(SILOS, SILOS_BEFORE)], found),
        "second_family": _second_claims,
        "baselines": _baselines_claims,
    }
    return say[name](lines)


def _epsilon_claims(lines: Lines) -> list[Claim]:
    said = []
    for row in EPSILONS:
        ours = {figure: found(lines, row.trials(), f"{figure}_gain") for figure in ("sampled", "greedy")}
        if len(ours["sampled"]) < 2:
            said.append(Claim(f"epsilon {row.name}: not measured yet", None))
            continue
        sampled, greedy = (record.interval(list(ours[figure].values())) for figure in ("sampled", "greedy"))
        enough = sampled["low"] > 0 and greedy["low"] > 0
        if row.least is not None:
            enough = sampled["mean"] >= row.least[0] and greedy["mean"] >= row.least[1]
        text = f"{record.text(sampled)} sampled, {record.text(greedy)} greedy, {len(ours['sampled'])} seeds"
        said.append(Claim(f"epsilon {row.name}: {text}", enough))
        trusted = found(lines, row.trials(server="plain"), "sampled_gain")
        if row.name != "none" and len(trusted) >= 2:
            less = record.paired(ours["sampled"], trusted)
            close = abs(less["mean"]) <= record.CLOSE
            said.append(Claim(f"epsilon {row.name}, less a trusted server: {record.text(less)}", close))
    return said


def _more_than_before(preset: str, pairs: Iterable[tuple[Row, Row]], lines: Lines) -> list[Claim]:
    said = []
    for row, before in pairs:
        ours, others = (found(lines, each.trials(), "sampled_gain") for each in (row, before))
        if len(set(ours) & set(others)) < 2:
            said.append(Claim(f"{preset}, epsilon {row.name}: not measured yet", None))
            continue
        gain, less = record.interval(list(ours.values())), record.paired(ours, others)
        text = f"{record.text(gain)} sampled, {record.text(less)} more than before, {less['seeds']} seeds"
        said.append(Claim(f"{preset}, epsilon {row.name}: {text}", gain["low"] > 0 and less["mean"] >= -1))
    return said


def _weights_claims(lines: Lines) -> list[Claim]:
    helped = (*STRESS, CHANGING[-1])  # under noise there is time to act on a sign that turns
    return [_less_uniform(lines, row, row in helped) for row in (*STRESS, *EPSILONS, *CHANGING)]


def _less_uniform(lines: Lines, row: Row, stress: bool) -> Claim:
    """The rule `history` gains under stress, and costs nothing where all rewards are right."""
    name = f"all clients right, epsilon {row.name}" if row.broken == "none" else row.name
    ours, others = (found(lines, row.trials(rule), "sampled_gain") for rule in ("history", "uniform"))
    if len(set(ours) & set(others)) < 2:
        return Claim(f"{name}: not measured yet", None)
    less = record.paired(ours, others)
    text = f"{name}: history less uniform {record.text(less)}, {less['seeds']} seeds"
    if row.broken == "drifting":  # what the rule costs, said in docs/explanation/weights.md
        return Claim(text, less["mean"] < 0)
    return Claim(text, less["low"] > 0 if stress else less["mean"] >= -1)


def _second_claims(lines: Lines) -> list[Claim]:
    """The same signs as on the first family: both gains above 0 at each budget, and of `history` what it says there."""
    said = []
    for row in SECOND_FAMILY:
        gains = [found(lines, row.trials(), f"{figure}_gain") for figure in ("sampled", "greedy")]
        if len(gains[0]) < 2:
            said.append(Claim(f"second family, epsilon {row.name}: not measured yet", None))
            continue
        sampled, greedy = (record.interval(list(gain.values())) for gain in gains)
        text = f"{record.text(sampled)} sampled, {record.text(greedy)} greedy, {len(gains[0])} seeds"
        said.append(Claim(f"second family, epsilon {row.name}: {text}", sampled["low"] > 0 and greedy["low"] > 0))
    beside = [_less_uniform(lines, row, row is SECOND_STRESS) for row in (*SECOND_FAMILY, SECOND_STRESS)]
    return [*said, *(Claim(f"second family, {claim.says}", claim.holds) for claim in beside)]


def _baselines_claims(lines: Lines) -> list[Claim]:
    """The federation at epsilon 8 gains more than each client alone, and than with all noise at the clients.

    FedAvg and FedProx have no privacy and four times the data: a table shows them, no claim matches them.
    """
    said, ours = [], found(lines, FEDERATION.trials(), "sampled_gain")
    for row in (BASELINES["alone"], BASELINES["local"]):
        others = found(lines, row.trials(), "sampled_gain")
        if len(set(ours) & set(others)) < 2:
            said.append(Claim(f"beside {row.name}: not measured yet", None))
            continue
        less = record.paired(ours, others)
        text = f"epsilon 8, less {row.name}: {record.text(less)}, {less['seeds']} seeds"
        said.append(Claim(text, less["low"] > 0))
    return said


def _direction_claims() -> list[Claim]:
    rows = record.lines(FILES["direction"])
    off = max(abs(direction.expected(row) / direction.seen(row) - 1) for row in rows)
    return [Claim(f"the formula for exactness is within {off:.0%} of {len(rows)} measurements", off <= 0.2)]


def _quick_direction() -> Claim:
    few, many = (direction.measure(prompts, 4, 0, count=4) for prompts in (2, 8))
    return Claim("more prompts make a direction more exact", direction.seen(many) > direction.seen(few))


def _quick_run(second: bool) -> Claim:
    """Two rounds of eight clients, with hardly any noise, in a file that is thrown away."""
    trial = Trial(QUICK, seed=0, preset="compact") if second else Trial(QUICK, seed=0, problems="public")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quick.jsonl"
        trials.run_missing(path, [trial], 1, 1e6)
        (line,) = record.lines(path)
    within = -100 <= line["sampled_gain"] <= 100 and all(
        0.5 <= weight <= 1 for each in line["weights"].values() for weight in each
    )
    return Claim(f"a small run is simulated and marked: {line['sampled_gain']:+.1f} points in two rounds", within)
