"""Compare the built-in loop with TRL's trainer: with the same settings they learn the same task equally well.

A client with eight sums trains the shipped model for one round of 24 steps, by the one and by the other, from the same
start; the pass rate on these sums is taken before and after, 64 sampled completions of each. Finished runs are lines of
`results/trainers.jsonl`; what is missing is run. Says the gains, and their difference seed by seed with its 95 %
interval: equal if the interval contains 0 and lies within `MARGIN` points, which was fixed before the first run.

`--quick` is one seed of each, which must gain 30 points, beside the file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record
import torch

from fgrpo_secure.client.owner import make_owners
from fgrpo_secure.config.files import load
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.evaluation import evaluate
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.tasks import reward_of
from fgrpo_secure.plan import round_settings

RESULT = Path(__file__).parent / "results" / "trainers.jsonl"
SEEDS = (1, 2, 3, 4, 5)
TRAINERS = ("built-in", "trl")
MARGIN = 15.0  # points
LEAST = 30.0  # points that one seed must gain
SAMPLES = 64
SUMS = ("12+3=15", "40-7=33", "25+6=31", "61-9=52", "33+8=41", "70-4=66", "18+5=23", "52-3=49")
ROWS = [{"prompt": f"{asked}=", "answer": said} for asked, said in (each.split("=") for each in SUMS)]
CONFIG = """
[run]
entropy = "seeded"
[adapter]
rank = 4
targets = ["o_proj", "down_proj"]
[federation]
local_steps = 24
[grpo]
num_generations = 8
prompts_per_step = 4
learning_rate = 1e-2
max_completion_length = 4
[privacy]
unit = "none"
[[client]]
name = "mine"
data = "rows.jsonl"
reward = "exact"
"""


def trial(trainer: str, seed: int) -> dict[str, Any]:
    """One finished run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        named = "" if trainer == "built-in" else f'trainer = "{trainer}"\n'
        (folder / "run.toml").write_text(CONFIG + named)
        config = load(str(folder / "run.toml"), [f"run.seed={seed}"])
        adapted = adapters.attach(models.load(config.model), config.adapter, seed)
        (owner,) = make_owners(config.client, seed, {0}, folder / "owners").values()
        before, received = _right(adapted, config, seed), adapted.get_vector(0)
        # Times of processes that ended count: TRL's trainer runs in one of its own.
        worked, started = sum(os.times()[:4]), time.perf_counter()
        update = owner.train(adapted, round_settings.for_round(config, 0, 0)).update
        worked, waited = sum(os.times()[:4]) - worked, time.perf_counter() - started
        adapted.set_vector(0, received + update)
        after = _right(adapted, config, seed)
    measured = {
        "before": round(100 * before, 1),
        "after": round(100 * after, 1),
        "gain": round(100 * (after - before), 1),
    }
    spent = {"cpu_s": round(worked, 1), "waited_s": round(waited, 1)}
    return {"trainer": trainer, "seed": seed, **measured, **spent, **record.facts()}


def _right(adapted: Any, config: Any, seed: int) -> float:
    drawn = Streams(seed)
    return evaluate(adapted, ROWS, reward_of(config.client[0], "exact"), config.grpo, SAMPLES, drawn).pass_rate


def said(found: list[dict[str, Any]]) -> tuple[str, bool]:
    """What the runs show, and whether the two are equal."""
    gains = {name: {each["seed"]: each["gain"] for each in found if each["trainer"] == name} for name in TRAINERS}
    difference = record.interval([gains["built-in"][seed] - gains["trl"][seed] for seed in sorted(gains["built-in"])])
    lines = [f"{name}: {record.text(record.interval(list(gained.values())))} points" for name, gained in gains.items()]
    equal = difference["low"] <= 0 <= difference["high"] and max(-difference["low"], difference["high"]) <= MARGIN
    verdict = "equal" if equal else f"not shown to be equal within {MARGIN:g} points"
    return "\n".join([*lines, f"built-in less trl: {record.text(difference)}: {verdict}"]), equal


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, beside the file")
    torch.set_num_threads(1)
    if parser.parse_args().quick:
        gains = {trainer: trial(trainer, SEEDS[0])["gain"] for trainer in TRAINERS}
        sys.stdout.write(json.dumps(gains) + "\n")
        return int(min(gains.values()) < LEAST)
    there = {(line["trainer"], line["seed"]) for line in record.lines(RESULT)}
    for seed in SEEDS:
        for trainer in TRAINERS:
            if (trainer, seed) not in there:
                record.append(RESULT, trial(trainer, seed))
    text, equal = said(record.lines(RESULT))
    sys.stdout.write(text + "\n")
    return int(not equal)


if __name__ == "__main__":
    raise SystemExit(main())
