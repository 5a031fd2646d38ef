"""What simulated owners cost, whole runs through `fgrpo run`: seconds of a round, processor time and disk of an owner.

`python -m benchmarks owners embedded 16 128 1024` runs what `results/owners.jsonl` lacks, and prints the tables: the
quickstart with so many owners for three rounds, without examinations. `--learn` runs all twelve at epsilon 2 with
examinations, and keeps what was gained. With `ray` in place of `embedded` it takes the cluster that RAY_ADDRESS names,
or this machine as one.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import record

from fgrpo_secure.config.files import load

RESULTS = record.RESULTS / "owners.jsonl"
HOSTS = 2
COST = ("federation.rounds=3", "evaluation.every=0", "evaluation.prompts=8", "privacy.epsilon=60")
LEARN = ("privacy.epsilon=2", "server.learning_rate=1.5")


def measured(engine: str, owners: int, learn: bool) -> dict[str, Any]:
    """The line of one run."""
    kinds = load("quickstart").client
    counts = [owners // len(kinds) + (each < owners % len(kinds)) for each in range(len(kinds))]
    sets = [f"client.{kind.name}.count={count}" for kind, count in zip(kinds, counts, strict=True)]
    sets += [f"engine.kind={engine}", f"engine.processes={HOSTS}", *(LEARN if learn else COST)]
    with tempfile.TemporaryDirectory() as place:
        run, began = Path(place) / "run", time.monotonic()
        command = [sys.executable, "-m", "fgrpo_secure", "run", "quickstart", "--out", str(run)]
        subprocess.run([*command, *(word for each in sets for word in ("--set", each))], check=True)
        wall = time.monotonic() - began
        rounds = json.loads(run.with_name("run.simulation.json").read_text())["rounds"]
        gained = subprocess.run(
            [sys.executable, "-m", "fgrpo_secure", "eval", str(run), "--json"], stdout=subprocess.PIPE, check=True
        )
        stores = [path.stat().st_size for path in run.with_name("run.owners").rglob("*") if path.is_file()]
        return {
            "engine": engine,
            "owners": owners,
            "hosts": HOSTS,
            "learn": learn,
            "settings": list(LEARN if learn else COST),
            "wall_s": round(wall, 1),
            "round_s": [round(each["seconds"], 2) for each in rounds],
            "training_s": [round(each["training_total"], 2) for each in rounds],
            "privacy_s": [round(each["privacy_total"], 2) for each in rounds],
            "stores_bytes": sum(stores),
            "gained": json.loads(gained.stdout) if learn else None,
            **record.facts(),
        }


def table(lines: Sequence[dict[str, Any]]) -> str:
    """What an owner costs, by how many there are."""
    head = ("owners", "engine", "seconds a round", "rounds an hour", "an owner's round: training, ms", "rest, ms", "kB")
    rows = []
    for line in sorted(
        (each for each in lines if not each["learn"]), key=lambda each: (each["owners"], each["engine"])
    ):
        owners, seconds = line["owners"], median(line["round_s"])
        each = [f"{1000 * median(line[what]) / owners:.0f}" for what in ("training_s", "privacy_s")]
        kept = f"{line['stores_bytes'] / owners / 1000:.0f}"
        rows.append([f"{owners:,}", line["engine"], f"{seconds:.1f}", f"{3600 / seconds:.0f}", *each, kept])
    return record.table(head, rows)


def beside(lines: Sequence[dict[str, Any]]) -> str:
    """The same twelve rounds on both engines."""
    head = ("owners", "engine", "whole run, s", "a round, s", "sampled", "greedy")
    rows = []
    for line in (each for each in lines if each["learn"]):
        gains = [
            record.text({name: 100 * value for name, value in line["gained"][kind]["gained"].items()})
            for kind in ("sampled", "greedy")
        ]
        rows.append(
            [f"{line['owners']:,}", line["engine"], f"{line['wall_s']:.0f}", f"{median(line['round_s']):.1f}", *gains]
        )
    return record.table(head, rows)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=("embedded", "ray"))
    parser.add_argument("owners", type=int, nargs="+")
    parser.add_argument("--learn", action="store_true", help="twelve rounds at epsilon 2, and what was gained")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    done = {(line["engine"], line["owners"], line["learn"]) for line in record.lines(asked.results)}
    for owners in asked.owners:
        if (asked.engine, owners, asked.learn) not in done:
            record.append(asked.results, measured(asked.engine, owners, asked.learn))
    lines = record.lines(asked.results)
    sys.stdout.write(f"{table(lines)}\n\n{beside(lines)}\n")


if __name__ == "__main__":
    main()
