"""What the presets learn and cost: several seeds each, on problems that no one trained or tuned on.

    python benchmarks/utility.py --presets silos quickstart quickstart-no-dp --seeds 0 1 2 3 4

Two runs at a time, one process each. A run that is finished is not repeated, so the command can be interrupted and
continued. Prints and writes means with 95 % t intervals over seeds, and paired differences to the first preset that
is named after `--against`.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from fgrpo_secure import __version__, config_file
from fgrpo_secure.tasks.evaluation import evaluation_set
from fgrpo_secure.tasks.procedural import problems
from fgrpo_secure.tasks.sources import row_of

FIGURES = ("sampled", "greedy", "sampled_gain", "greedy_gain")
TUNED_ON = 100  # problems per task that presets are looked at with while they are made: left out here
HELD_OUT = 100
HERE = Path(__file__).parent  # where settings find `pure_noise`
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}


def held_out(preset: str, path: Path) -> None:
    """Evaluation problems of the preset's tasks beyond those that the presets show, tasks in equal numbers."""
    rows = []
    levels = sorted({(client.task, client.difficulty) for client in config_file.load(preset).client if client.task})
    for task, level in levels:
        shown = {row["prompt"] for row in evaluation_set(task, level, TUNED_ON)}
        fresh = [row_of(problem) for problem in problems(task, level, "evaluation", 1, TUNED_ON + HELD_OUT)]
        rows += [row for row in fresh if row["prompt"] not in shown][:HELD_OUT]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(preset: str, seed: int, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """The summary of one run, made now or before."""
    out = folder / f"{Path(preset).stem}-seed{seed}"
    if not (out / "summary.json").exists():
        problems_file = folder / f"{Path(preset).stem}-held-out.jsonl"
        settings = [f"run.seed={seed}", f"evaluation.data={problems_file}", "engine.processes=1", *overrides]
        for leftover in (out, out.with_name(out.name + ".owners")):
            shutil.rmtree(leftover, ignore_errors=True)
        command = [sys.executable, "-m", "fgrpo_secure", "run", preset, "--out", str(out)]
        for setting in settings:
            command += ["--set", setting]
        with (folder / f"{out.name}.log").open("w") as log:
            subprocess.run(command, check=True, stderr=log, stdout=log, env=os.environ | ENVIRONMENT)
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def figures(summary: dict[str, Any]) -> dict[str, float]:
    """The four figures of a run, in points."""
    sampled, greedy = summary["pass_rate.final"], summary["pass_rate.greedy_final"]
    return {
        "sampled": 100 * sampled,
        "greedy": 100 * greedy,
        "sampled_gain": 100 * (sampled - summary["pass_rate.initial"]),
        "greedy_gain": 100 * (greedy - summary["pass_rate.greedy_initial"]),
    }


def interval(values: list[float]) -> dict[str, float]:
    """Mean and 95 % t interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": mean, "low": float("nan"), "high": float("nan")}
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def report(summaries: dict[str, list[dict[str, Any]]], against: str | None, seeds: list[int]) -> dict[str, Any]:
    """Every preset's intervals, and paired differences where asked for."""
    results: dict[str, Any] = {}
    for preset, runs in summaries.items():
        table = [figures(summary) for summary in runs]
        entry: dict[str, Any] = {name: interval([row[name] for row in table]) for name in FIGURES}
        entry["runs"] = [{"seed": seed, **row} for seed, row in zip(seeds, table, strict=True)]
        entry["epsilon_spent"] = max((s["privacy.epsilon_spent"] or 0.0 for s in runs), default=0.0)
        entry["epsilon_server"] = runs[0]["privacy.epsilon_server"]
        entry["seconds"] = interval([summary["seconds.total"] for summary in runs])
        if against is not None and preset != against:
            base = [figures(summary) for summary in summaries[against]]
            entry[f"difference_to_{Path(against).stem}"] = {
                name: interval([row[name] - other[name] for row, other in zip(table, base, strict=True)])
                for name in FIGURES
            }
        results[preset] = entry
    return results


def main() -> None:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["silos", "quickstart", "quickstart-no-dp"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--against", help="report paired differences to this preset")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/utility.json"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    started = time.time()
    for preset in options.presets:
        held_out(preset, options.work / f"{Path(preset).stem}-held-out.jsonl")
    jobs = [(preset, seed) for seed in options.seeds for preset in options.presets]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda job: run(*job, options.work, options.overrides), jobs))
    summaries: dict[str, list[dict[str, Any]]] = {preset: [] for preset in options.presets}
    for (preset, _), summary in zip(jobs, done, strict=True):
        summaries[preset].append(summary)
    result = {
        "benchmark": "utility",
        "version": __version__,
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "problems": f"{HELD_OUT} per task, none of them shown by the presets or met in training",
        "seeds": options.seeds,
        "wall_seconds": time.time() - started,
        "presets": report(summaries, options.against, options.seeds),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(json.dumps({k: {f: v[f] for f in FIGURES} for k, v in result["presets"].items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
