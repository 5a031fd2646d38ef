"""Tables of what was learned, from the result files of `claims` and `tried`: one function a block of a page."""

import json
from collections.abc import Sequence
from dataclasses import replace

import claims
import compact
import direction
import record
import tried
from claims import (
    CHANGING,
    EPSILONS,
    HOSPITALS,
    HOSPITALS_BEFORE,
    SECOND_FAMILY,
    SECOND_STRESS,
    SEEDS,
    SILOS,
    SILOS_BEFORE,
    STRESS,
    Lines,
    Row,
)

KEYS = ("shipped", "start")  # of what the second family's model knew
FEW = 5  # seeds; with fewer a table says how many


def _text(values: dict[int, float]) -> str:
    """A mean over seeds with its interval; how many seeds where they are fewer than a claim needs."""
    if not values:
        return "not measured"
    found = record.interval(list(values.values()))
    few = "" if len(values) >= FEW else f" ({len(values)} seed{'s'[: len(values) > 1]})"
    return (record.text(found) if len(values) > 1 else f"{found['mean']:+.1f}") + few


def _less(ours: dict[int, float], others: dict[int, float]) -> str:
    return _text({seed: ours[seed] - others[seed] for seed in sorted(set(ours) & set(others))})


def _settings(row: Row) -> str:
    chosen = dict(each.split("=", 1) for each in row.settings)
    prompts, step = chosen.get("grpo.prompts_per_step", "8"), chosen.get("server.learning_rate", "3")
    return f"{prompts} prompts x 4, step {step}"


def epsilon(lines: Lines) -> str:
    """What each budget leaves to learn, and what a trusted server would make of it."""
    rows = []
    for row in EPSILONS:
        ours, trusted = row.trials(), row.trials(server="plain")
        less = "the same integers" if row.name == "none" else None
        sampled, greedy = (claims.found(lines, ours, f"{figure}_gain") for figure in ("sampled", "greedy"))
        beside = [
            less or _less(gain, claims.found(lines, trusted, f"{figure}_gain"))
            for gain, figure in ((sampled, "sampled"), (greedy, "greedy"))
        ]
        rows.append([row.name, _settings(row), _text(sampled), _text(greedy), *beside])
    head = ("epsilon", "a client and round", "sampled", "greedy", "less a trusted server, sampled", "greedy")
    return record.table(head, rows)


def weights(lines: Lines) -> str:
    """The rule `history` less uniform weights, seed by seed."""
    return _weights(lines, (*STRESS, *EPSILONS))


def second_weights(lines: Lines) -> str:
    """The same on the second family."""
    return _weights(lines, (SECOND_STRESS, *SECOND_FAMILY))


def changing(lines: Lines) -> str:
    """The same where something changes for some clients when half of the rounds are over."""
    return _weights(lines, CHANGING)


def _weights(lines: Lines, chosen: Sequence[Row]) -> str:
    rows = []
    for row in chosen:
        ours, others = row.trials(), row.trials("uniform")
        name = f"all right, epsilon {row.name}" if row.broken == "none" else row.name
        columns = [
            _less(claims.found(lines, ours, figure), claims.found(lines, others, figure))
            for figure in ("sampled_gain", "greedy_gain")
        ]
        worst = [
            {trial.seed: tried.worst(dict(lines[trial])) for trial in each if trial in lines} for each in (ours, others)
        ]
        uniform = _text(claims.found(lines, others, "sampled_gain"))
        rows.append([name, uniform, *columns, _less(*worst), _kept(lines, row)])
    head = ("clients", "uniform, sampled", "history less uniform, sampled", "greedy", "worst task", "last weights")
    return record.table(head, rows)


def second_family(lines: Lines) -> str:
    """What each budget leaves to learn of problems and a model that nothing was chosen on."""
    rows = []
    for row in SECOND_FAMILY:
        gains = [claims.found(lines, row.trials(), figure) for figure in ("sampled_gain", "greedy_gain")]
        rows.append([row.name, _settings(row), *map(_text, gains)])
    return record.table(("epsilon", "a client and round", "sampled", "greedy"), rows)


def second_tasks(lines: Lines) -> str:
    """Where the second family starts, task by task, and where it ends without noise and at epsilon 8."""
    start, rows = json.loads(compact.START.read_text()), []
    ends = [[lines[trial]["tasks"] for trial in row.trials() if trial in lines] for row in SECOND_FAMILY[:2]]
    for task, marked in compact.held_out().items():
        example = f"`{marked[0]['prompt']}{marked[0]['answer']}`"
        after = [
            f"{sum(run[task][0] for run in runs) / len(runs):.0f} / {sum(run[task][1] for run in runs) / len(runs):.0f}"
            for runs in ends
        ]
        rows.append(
            [task, example, *(f"{start[key][task][0]:.0f} / {start[key][task][1]:.0f}" for key in KEYS), *after]
        )
    head = ("task", "a problem", "shipped model", "start", "after, no privacy", "after, epsilon 8")
    return record.table(head, rows)


def baselines(lines: Lines) -> str:
    """The federation at epsilon 8 beside what it is held against."""
    ours, rows = claims.FEDERATION.trials(), []
    for row in (replace(claims.FEDERATION, name="**the federation, epsilon 8**"), *claims.BASELINES.values()):
        gains = [claims.found(lines, row.trials(), figure) for figure in ("sampled_gain", "greedy_gain")]
        less = "-" if row.trials() == ours else _less(claims.found(lines, ours, "sampled_gain"), gains[0])
        rows.append([row.name, *map(_text, gains), less])
    return record.table(("training", "sampled", "greedy", "the federation less this, sampled"), rows)


def alone(lines: Lines) -> str:
    """What a client alone gains at its own kind of problems."""
    runs = [lines[trial]["own_gain"] for trial in claims.BASELINES["alone"].trials() if trial in lines]
    if not runs:
        return "Not measured."
    own = [sum(run.values()) / len(run) for run in runs]
    return f"At the problems of its own kind alone, one client gains {_text(dict(enumerate(own)))} points sampled."


def levers(lines: Lines) -> str:
    """What was tried beside the preset, less the preset: first looks, and fresh seeds where those looked better."""
    rows = []
    for each in tried.TRIED:
        first = tried.less(lines, each.trials(), tried.looks(each.beside))
        fresh = tried.less(lines, each.fresh(), each.beside.trials()) if each.settled else {"sampled": {}, "worst": {}}
        again = f"{_text(fresh['sampled'])}, worst task {_text(fresh['worst'])}" if fresh["sampled"] else "-"
        rows.append([each.name, *(_looks(first[figure]) for figure in ("sampled", "greedy", "worst")), again])
    return record.table(("what", "sampled", "greedy", "worst task", "fresh seeds, sampled"), rows)


def _looks(values: dict[int, float]) -> str:
    """Differences of a first look, one a seed: too few for an interval."""
    return ", ".join(f"{values[seed]:+.1f}" for seed in sorted(values)) or "not measured"


def lever_facts(lines: Lines) -> str:
    """On what first looks were taken."""
    looks = [line for line in lines.values() if line["problems"] == "public"]
    seeds = sorted({line["seed"] for line in looks})
    return f"Seeds: {', '.join(map(str, seeds))}; public problems, epsilon 8; {record.machines(looks)}."


def hospitals(lines: Lines) -> str:
    """Eight hospitals with a guarantee for each patient, beside what the preset trained once."""
    rows = []
    for row, before in zip(HOSPITALS, HOSPITALS_BEFORE, strict=True):
        step = dict(each.split("=", 1) for each in row.settings).get("server.learning_rate", "300")
        ours, others = (
            [claims.found(lines, each.trials(), figure) for figure in ("sampled_gain", "greedy_gain")]
            for each in (row, before)
        )
        rows.append([row.name, step, *map(_text, ours), *map(_text, others)])
    head = ("epsilon for each patient", "server step", "sampled", "greedy", "before: sampled", "greedy")
    return record.table(head, rows)


def silos(lines: Lines) -> str:
    """Eight organisations without noise, beside what the preset had once."""
    rows = []
    for row, name in ((SILOS, "now"), (SILOS_BEFORE, "before")):
        worst = {trial.seed: tried.worst(dict(lines[trial])) for trial in row.trials() if trial in lines}
        rows.append([name, *_reached(lines, row), _text(worst).lstrip("+")])
    return record.table(("settings", "sampled", "greedy", "worst task ends at, sampled"), rows)


def _kept(lines: Lines, row: Row) -> str:
    """Mean weights of the last round by kind of client, over seeds."""
    runs = [lines[trial]["weights"] for trial in row.trials() if trial in lines]
    if not runs:
        return "-"
    return ", ".join(f"{kind} {sum(run[kind][-1] for run in runs) / len(runs):.2f}" for kind in runs[0])


def exactness(_: Lines) -> str:
    """The planner's formula beside what was measured."""
    rows: dict[tuple[int, int], list[float]] = {}
    for line in record.lines(claims.FILES["direction"]):
        rows.setdefault((line["prompts"], line["completions"]), []).append(direction.seen(line))
    return record.table(
        ("prompts x completions", "measured", "formula"),
        (
            [
                f"{shape[0]} x {shape[1]}",
                f"{sum(found) / len(found):.2f}",
                f"{direction.forecast.exactness(*shape):.2f}",
            ]
            for shape, found in sorted(rows.items())
        ),
    )


def forecast(lines: Lines) -> str:
    """The planner's forecast of what noise leaves, beside the share of the gain without noise that was left."""
    whole = claims.found(lines, EPSILONS[0].trials(), "sampled_gain")
    rows = []
    for row in EPSILONS[1:]:
        gains = claims.found(lines, row.trials(), "sampled_gain")
        if not gains or not whole:
            continue
        kept = sum(gains.values()) / len(gains) / (sum(whole.values()) / len(whole))
        rows.append([row.name, _settings(row), f"{_forecast(row):.0%}", f"{kept:.0%}"])
    return record.table(("epsilon", "a client and round", "forecast", "measured"), rows)


def _forecast(row: Row) -> float:
    from fgrpo_secure.config import files as config_file
    from fgrpo_secure.plan import adapter_shape, run_plan

    config = config_file.load("quickstart", row.settings)
    shape = adapter_shape.read(config.model.path, config.adapter)
    if shape is None:
        raise ValueError("the shipped model's files do not say its shape")
    return direction.forecast.of(config, run_plan.plan(config, shape)).kept


def _reached(lines: Lines, row: Row) -> list[str]:
    cells = []
    for figure in ("sampled", "greedy"):
        after = list(claims.found(lines, row.trials(), figure).values())
        gain = _text(claims.found(lines, row.trials(), f"{figure}_gain"))
        cells.append(f"{gain}, to {sum(after) / max(1, len(after)):.1f} %")
    return cells


def readme(lines: Lines) -> str:
    """The rows of the README: a guarantee for each of 256 clients, and for each of 256 patients."""
    rows = (
        (EPSILONS[1], "`quickstart`: 256 clients, 12 rounds", "epsilon 8 at delta 1e-5 for each client"),
        (HOSPITALS[0], "`hospitals`: 8 clients with 32 patients each, 12 rounds", "the same for each patient"),
    )
    head = ("preset", "guarantee against the server, no amplification", "sampled, points", "greedy, points")
    return record.table(head, ([what, promised, *_reached(lines, row)] for row, what, promised in rows))


def facts(lines: Lines) -> str:
    """On what it was measured."""
    reported = [line for line in lines.values() if line["problems"] == "held out"]
    return f"Seeds {SEEDS[0]} to {SEEDS[-1]}; {record.machines(reported)}."
