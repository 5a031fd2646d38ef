"""What the finished runs of a sweep say: intervals, paired differences to the baseline, verdicts, and the plot.

Nothing here runs anything. Intervals are 95 % t intervals over seeds; a difference is taken seed by seed.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utility import interval

FIGURES = ("sampled", "greedy", "sampled_gain", "greedy_gain")
CLOSE = 2.0  # points: a difference within them does not matter here
ENOUGH_SEEDS = 2
WHAT = (
    "the quickstart problem, simulated: the product's stages with all clients in one batch, integers added up "
    "without masks; measured on problems that neither training nor tuning met, tasks counted equally"
)
BASELINE = (
    "central differential privacy: a trusted server sees every client's vector in the clear and adds noise of the "
    "same noise multiplier; clients add more together, as much as dropouts and colluders may take away"
)

Record = Mapping[str, Any]
Key = tuple[str, str, float | None]


def write(folder: Path, records: Sequence[Record], wanted: int) -> dict[str, Any]:
    """The report of `records`, out of `wanted` runs, as sweep.json and sweep.svg in `folder`."""
    result = report([record for record in records if _factors(record) == "ffa"], wanted)
    result["factors"] = factors(records)
    (folder / "sweep.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(result, folder / "sweep.svg")
    return result


def _factors(record: Record) -> str:
    return str(record.get("factors", "ffa"))


def factors(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Ways to aggregate LoRA factors, with and without noise; differences to ffa are paired by seed."""
    chosen: dict[tuple[str, float | None], dict[int, Record]] = {}
    for record in records:
        if (record["unit"], record["weights"], record["server"]) == ("client", "adaptive", "secure"):
            chosen.setdefault((_factors(record), record["epsilon"]), {})[record["seed"]] = record
    rows = []
    for (name, epsilon), runs in sorted(chosen.items(), key=str):
        base = chosen.get(("ffa", epsilon), {})
        pairs = sorted(set(runs) & set(base))
        if epsilon not in (None, 8.0) or len(pairs) < ENOUGH_SEEDS:
            continue
        made: dict[str, Any] = {"factors": name, "epsilon": epsilon, "seeds": pairs}
        made |= {figure: interval([runs[seed][figure] for seed in pairs]) for figure in FIGURES}
        made["noise_multiplier"] = runs[pairs[0]]["noise_multiplier"]
        if name != "ffa":
            made["less_ffa"] = {
                figure: _judged([runs[seed][figure] - base[seed][figure] for seed in pairs])
                for figure in ("sampled", "greedy")
            }
        rows.append(made)
    return rows


def report(records: Sequence[Record], wanted: int) -> dict[str, Any]:
    """One object: a row for each unit, rule of weights and epsilon that has at least two seeds."""
    groups: dict[Key, dict[str, dict[int, Record]]] = {}
    for record in records:
        key = (record["unit"], record["weights"], record["epsilon"])
        groups.setdefault(key, {}).setdefault(record["server"], {})[record["seed"]] = record
    rows = [row(key, servers) for key, servers in groups.items() if len(servers.get("secure", {})) >= ENOUGH_SEEDS]
    rows.sort(key=lambda made: (made["unit"], made["weights"], -(made["epsilon"] or 1e9)))
    return {
        "benchmark": "sweep",
        "what": WHAT,
        "baseline": BASELINE,
        "runs": len(records),
        "runs_wanted": wanted,
        "machine": sorted({record["machine"] for record in records}),
        "processor_seconds": round(sum(record["seconds"] for record in records)),
        "rows": rows,
        "adaptive_minus_uniform": list(_rules(groups)),
    }


def row(key: Key, servers: Mapping[str, Mapping[int, Record]]) -> dict[str, Any]:
    """The figures of one cell, and how they differ from the baseline's."""
    secure, plain = servers["secure"], servers.get("plain", {})
    unit, weights, epsilon = key
    made: dict[str, Any] = {"unit": unit, "weights": weights, "epsilon": epsilon, "seeds": sorted(secure)}
    made |= {name: interval([run[name] for run in secure.values()]) for name in FIGURES}
    made["noise_multiplier"] = next(iter(secure.values()))["noise_multiplier"]
    made["seconds"] = interval([run["seconds"] for run in secure.values()])["mean"]
    made["learns"] = made["sampled_gain"]["low"] > 0
    if epsilon is None:
        made["baseline"] = "the same integers: without noise nothing differs"
    elif len(pairs := sorted(set(secure) & set(plain))) >= ENOUGH_SEEDS:
        made["baseline"] = {name: interval([plain[seed][name] for seed in pairs]) for name in FIGURES}
        made["difference"] = {
            name: _judged([secure[seed][name] - plain[seed][name] for seed in pairs]) for name in ("sampled", "greedy")
        }
    return made


def _judged(values: list[float]) -> dict[str, Any]:
    """An interval and what it settles."""
    found = interval(values)
    low, high = found["low"], found["high"]
    if low >= -CLOSE and high <= CLOSE:
        verdict = "within 2 points"
    elif low <= 0 <= high:
        verdict = "unresolved: contains 0, reaches beyond 2 points"
    else:
        verdict = "differs"
    return {**found, "verdict": verdict}


def _rules(groups: Mapping[Key, Mapping[str, Mapping[int, Record]]]) -> Iterable[dict[str, Any]]:
    """Adaptive less uniform weights, seed by seed, wherever both were run."""
    for (unit, weights, epsilon), servers in groups.items():
        other = groups.get((unit, "uniform", epsilon), {}).get("secure", {})
        pairs = sorted(set(servers.get("secure", {})) & set(other))
        if weights == "adaptive" and len(pairs) >= ENOUGH_SEEDS:
            differences = {
                name: _judged([servers["secure"][seed][name] - other[seed][name] for seed in pairs])
                for name in ("sampled", "greedy")
            }
            yield {"unit": unit, "epsilon": epsilon, "seeds": len(pairs), **differences}


def table(result: Mapping[str, Any]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| unit | weights | epsilon | noise | sampled, points | greedy, points | less baseline, sampled | greedy | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for made in result["rows"]:
        noise = "-" if made["noise_multiplier"] is None else f"{made['noise_multiplier']:.2f}"
        differences = [
            _cell(made["difference"][name]) if "difference" in made else "-" for name in ("sampled", "greedy")
        ]
        epsilon = "none" if made["epsilon"] is None else f"{made['epsilon']:g}"
        cells = [made["unit"], made["weights"], epsilon, noise, _cell(made["sampled_gain"]), _cell(made["greedy_gain"])]
        lines.append("| " + " | ".join([*cells, *differences, f"{made['seconds']:.0f}"]) + " |")
    return "\n".join([*lines, "", *factors_table(result["factors"])])


def factors_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The comparison of factors as lines of a Markdown table."""
    lines = [
        "| factors | epsilon | seeds | sampled | greedy | less ffa, sampled | greedy |",
        "|---|---|---|---|---|---|---|",
    ]
    for made in rows:
        found = made.get("less_ffa", {})
        differences = [_cell(found[name]) if found else "-" for name in ("sampled", "greedy")]
        epsilon = "none" if made["epsilon"] is None else f"{made['epsilon']:g}"
        cells = [made["factors"], epsilon, str(len(made["seeds"])), _cell(made["sampled_gain"])]
        lines.append("| " + " | ".join([*cells, _cell(made["greedy_gain"]), *differences]) + " |")
    return lines


def _cell(found: Mapping[str, Any]) -> str:
    mark = " ?" if str(found.get("verdict", "")).startswith("unresolved") else ""
    return f"{found['mean']:+.1f} [{found['low']:.1f}, {found['high']:.1f}]{mark}"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Gains over epsilon, one panel for each figure, one line for each unit and rule of weights."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "fgrpo_secure"  # the same bytes for the same figures
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), sharex=True)
    series = sorted({(made["unit"], made["weights"]) for made in result["rows"]})
    places = {epsilon: place for place, epsilon in enumerate((1.0, 2.0, 4.0, 8.0, 16.0, None))}
    for panel, name, title in zip(panels, ("sampled_gain", "greedy_gain"), ("sampled", "greedy"), strict=True):
        for index, (unit, weights) in enumerate(series):
            rows = [made for made in result["rows"] if (made["unit"], made["weights"]) == (unit, weights)]
            rows.sort(key=lambda made: places[made["epsilon"]])
            middle = [made[name]["mean"] for made in rows]
            reach = [made[name]["high"] - made[name]["mean"] for made in rows]
            shift = 0.06 * (index - (len(series) - 1) / 2)
            where = [places[made["epsilon"]] + shift for made in rows]
            panel.errorbar(where, middle, yerr=reach, marker="o", ms=3, lw=1, capsize=2, label=f"{unit}, {weights}")
        panel.axhline(0, color="grey", lw=0.8)
        panel.set_title(f"gain in pass rate, {title} (points)", fontsize=9)
        panel.set_xticks(range(6), ["1", "2", "4", "8", "16", "none"])
        panel.set_xlabel("epsilon against the server, delta 1e-5", fontsize=8)
        panel.tick_params(labelsize=8)
    panels[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
