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

from record import interval

from fgrpo_secure import __version__
from fgrpo_secure.config import files as config_file
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.evaluation import Score, evaluate, overall
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.tasks.evaluation import evaluation_set
from fgrpo_secure.learning.tasks.files import Row
from fgrpo_secure.learning.tasks.procedural import problems
from fgrpo_secure.learning.tasks.rewards import exact
from fgrpo_secure.learning.tasks.sources import row_of

FIGURES = ("sampled", "greedy", "sampled_gain", "greedy_gain")
TUNED_ON = 100  # problems per task that presets are looked at with while they are made: left out here
HELD_OUT = 100
ENOUGH = 1000  # more than most tasks have: what is left after the shown ones is held out
SAMPLES = 4
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}


def held_out(preset: str) -> dict[str, list[Row]]:
    """Evaluation problems of the preset's tasks beyond those that the presets show, by task and difficulty."""
    levels = sorted({(client.task, client.difficulty) for client in config_file.load(preset).client if client.task})
    rows = {}
    for task, level in levels:
        shown = {row["prompt"] for row in evaluation_set(task, level, TUNED_ON)}
        fresh = (row_of(problem) for problem in problems(task, level, "evaluation", 1, ENOUGH))
        rows[f"{task}-{level}"] = [row for row in fresh if row["prompt"] not in shown][:HELD_OUT]
    return rows


def score(preset: str, adapter: Path | None, seed: int) -> Score:
    """How a preset's model does on its held-out problems, tasks counted equally; with an adapter, or as it is."""
    config = config_file.load(preset)
    settings = config.adapter.model_copy(update={"init_from": None if adapter is None else str(adapter)})
    adapted = adapters.attach(models.load(config.model), settings, seed)
    streams = Streams(seed)
    tasks = held_out(preset).values()
    return overall(evaluate(adapted, rows, exact, config.grpo, SAMPLES, streams) for rows in tasks if rows)


def run(preset: str, seed: int, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """The summary of one run, made now or before."""
    out = folder / f"{Path(preset).stem}-seed{seed}"
    if not (out / "summary.json").exists():
        settings = [f"run.seed={seed}", "engine.processes=1", *overrides]
        for leftover in (out, out.with_name(out.name + ".owners")):
            shutil.rmtree(leftover, ignore_errors=True)
        command = [sys.executable, "-m", "fgrpo_secure", "run", preset, "--out", str(out)]
        for setting in settings:
            command += ["--set", setting]
        with (folder / f"{out.name}.log").open("w") as log:
            subprocess.run(command, check=True, stderr=log, stdout=log, env=os.environ | ENVIRONMENT)
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def figures(before: Score, after: Score) -> dict[str, float]:
    """The four figures of a run, in points."""
    return {
        "sampled": 100 * after.pass_rate,
        "greedy": 100 * after.greedy,
        "sampled_gain": 100 * (after.pass_rate - before.pass_rate),
        "greedy_gain": 100 * (after.greedy - before.greedy),
    }


def report(
    preset: str, runs: list[dict[str, Any]], table: list[dict[str, float]], base: list[dict[str, float]] | None
) -> dict[str, Any]:
    """A preset's intervals; against `base`, the table of another one, paired differences too."""
    entry: dict[str, Any] = {name: interval([row[name] for row in table]) for name in FIGURES}
    entry["problems"] = {task: len(rows) for task, rows in held_out(preset).items()}
    entry["runs"] = table
    entry["epsilon_spent"] = max((run["privacy.epsilon_spent"] or 0.0 for run in runs), default=0.0)
    entry["epsilon_server"] = runs[0]["privacy.epsilon_server"]
    entry["seconds"] = interval([run["seconds.total"] for run in runs])
    if base is not None and base is not table:
        pairs = list(zip(table, base, strict=True))
        entry["difference"] = {name: interval([one[name] - other[name] for one, other in pairs]) for name in FIGURES}
    return entry


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
    jobs = [(preset, seed) for seed in options.seeds for preset in options.presets]
    with ThreadPoolExecutor(2) as pool:
        done = dict(zip(jobs, pool.map(lambda job: run(*job, options.work, options.overrides), jobs), strict=True))
    tables = {}
    for preset in options.presets:
        outs = {seed: options.work / f"{Path(preset).stem}-seed{seed}" / "adapter" for seed in options.seeds}
        tables[preset] = [figures(score(preset, None, seed), score(preset, out, seed)) for seed, out in outs.items()]
    presets = {
        preset: report(preset, [done[preset, seed] for seed in options.seeds], table, tables.get(options.against))
        for preset, table in tables.items()
    }
    result = {
        "benchmark": "utility",
        "version": __version__,
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "measured_on": "problems that no preset shows and nobody trains on, tasks counted equally",
        "seeds": options.seeds,
        "wall_seconds": time.time() - started,
        "against": options.against,
        "presets": presets,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(json.dumps({k: {f: v[f] for f in FIGURES} for k, v in result["presets"].items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
