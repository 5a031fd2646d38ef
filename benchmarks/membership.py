"""Membership inference on the quickstart: how well members can be told from others, without privacy and with it.

    python benchmarks/membership.py run --seeds 0 1 2     # a line of results/membership.jsonl per run: about a minute
    python benchmarks/membership.py report                # the table of docs/explanation/membership.md

Runs are simulated (`simulate`). Members are the clients of the run; as many others have the same tasks, rewards and
scales, other prompts and never take part. Three adversaries, each of whom has the prompts of everybody in question:
one who reads the released adapter alone and scores the gain in expected reward on a client's prompts (DIBA, arXiv
2511.14045); the server, which repeats everybody's training in every round and scores how far the sum points along
it; and the server who knows the prompts of *all* clients and solves for who is in the sum, by least squares.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from simulate import Simulation

from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.schema import Config
from fgrpo_secure.learning.tasks.files import Row
from fgrpo_secure.plan import round_settings, run_plan
from fgrpo_secure.privacy.encode import Lattice
from threat_model import membership

PRESETS = {"no privacy": "quickstart-no-dp", "shipped budget": "quickstart"}
ADVERSARIES = {
    "reader": "a reader of the released adapter: gain in expected reward",
    "server": "the server alone: sums along each client's own update",
    "server_knowing_all": "the server alone, knowing everybody's prompts: least squares",
}
OTHER_SEED = 1_000  # added to the run's seed: other prompts of the same tasks
RESULTS = Path(__file__).parent / "results" / "membership.jsonl"
DOCS = Path(__file__).parents[1] / "docs" / "explanation" / "membership.md"
BEGIN, END = "<!-- quickstart -->", "<!-- end -->"
FloatArray = NDArray[np.float64]


def run(setting: str, seed: int) -> dict[str, Any]:
    """One simulated run and the three areas."""
    torch.set_num_threads(1)
    started = time.process_time()
    config = config_file.load(PRESETS[setting], [f"run.seed={seed}", "run.entropy=seeded"])
    with tempfile.TemporaryDirectory() as folder:
        inside = Simulation.open(config, Path(folder) / "members")
        outside = strangers(config, inside, Path(folder) / "others")
        owners = [*inside.owners, *outside.owners]
        rows = [prompts(config, each) for each in owners]
        before = rewards(inside, rows)
        along, sums, tables = np.zeros(len(owners)), [], []
        for number in range(config.federation.rounds):
            seen, table = one_round(config, inside, outside, number)
            along += table @ seen / (np.linalg.norm(table, axis=1) + 1e-30)
            sums.append(seen)
            tables.append(table)
        gains = rewards(inside, rows) - before
    claim, count = inside.privacy.claim, len(inside.owners)
    scores = {"reader": gains, "server": along, "server_knowing_all": solved(sums, tables)}
    areas = {name: membership.area(found[:count], found[count:]) for name, found in scores.items()}
    return {
        "setting": setting,
        "seed": seed,
        "epsilon": claim and claim.epsilon,
        "allowed": 1.0 if claim is None else membership.allowed(claim.mu),
        "members": count,
        **{name: [round(found.value, 4), round(found.upper, 4)] for name, found in areas.items()},
        "seconds": round(time.process_time() - started, 1),
    }


def strangers(config: Config, inside: Simulation, folder: Path) -> Simulation:
    """As many owners of the same kinds with other prompts, and the adapter of the run."""
    other = config.model_copy(update={"run": config.run.model_copy(update={"seed": config.run.seed + OTHER_SEED})})
    made = Simulation.open(other, folder)
    return replace(made, adapted=inside.adapted)


def prompts(config: Config, owner: Any) -> list[Row]:
    """Everything that an owner trains on, or would."""
    count = config.grpo.prompts_per_step
    return [row for number in range(config.federation.rounds) for row in owner.source.batch(number, 0, count)]


def rewards(simulation: Simulation, rows: Sequence[Sequence[Row]]) -> FloatArray:
    """Each owner's expected reward under the model as it is, shape (owners,)."""
    return np.array([membership.expected_rewards(simulation.adapted, own).mean() for own in rows])


def one_round(config: Config, inside: Simulation, outside: Simulation, number: int) -> tuple[FloatArray, FloatArray]:
    """A round of the run. What the server sees of it, shape (d,), and everybody's clipped update, (owners, d)."""
    adapted = inside.adapted
    lattice = Lattice.build(adapted.dimension(number), config.privacy.clip_norm, round_settings.SCORES)
    settings = round_settings.for_round(config, number, run_plan.share_variance(inside.privacy, lattice))
    trained, guessed = inside.train(settings), outside.train(settings)
    table = np.concatenate([trained.updates, guessed.updates])
    norms = np.linalg.norm(table, axis=1, keepdims=True)
    table = table * np.minimum(1, config.privacy.clip_norm / np.maximum(norms, 1e-30))
    vectors = inside.contributions(trained, settings, lattice)
    inside.conclude(vectors, settings, lattice)
    total: FloatArray = np.sum(vectors, axis=0)[: lattice.dimension] / lattice.scale
    return total, table


def solved(sums: Sequence[FloatArray], tables: Sequence[FloatArray]) -> FloatArray:
    """How much of each owner's update is in the sums of all rounds together, by least squares; shape (owners,)."""
    owners = tables[0].shape[0]
    square, right = 1e-9 * np.eye(owners), np.zeros(owners)
    for seen, table in zip(sums, tables, strict=True):
        square += table @ table.T
        right += table @ seen
    result: FloatArray = np.linalg.solve(square, right)
    return result


def report(lines: Sequence[dict[str, Any]]) -> str:
    """The table: areas with the upper ends of their intervals, averaged over seeds."""
    settings = [name for name in PRESETS if any(line["setting"] == name for line in lines)]
    of = {name: [line for line in lines if line["setting"] == name] for name in settings}
    heads = [
        f"{name} (epsilon {of[name][0]['epsilon']:.1f}), seeds: {len(of[name])}"
        if of[name][0]["epsilon"]
        else f"{name}, seeds: {len(of[name])}"
        for name in settings
    ]
    rows = [["adversary", *heads], ["---"] * (len(heads) + 1)]
    for key, words in ADVERSARIES.items():
        rows.append([words, *(cell([line[key] for line in of[name]]) for name in settings)])
    rows.append(
        [
            "largest area that is allowed",
            *("-" if of[name][0]["epsilon"] is None else f"{of[name][0]['allowed']:.3f}" for name in settings),
        ]
    )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def cell(areas: Sequence[Sequence[float]]) -> str:
    """The mean area, and the largest upper end of any run's interval."""
    return f"{np.mean([value for value, _ in areas]):.3f} (at most {max(upper for _, upper in areas):.3f})"


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of finished runs."""
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--settings", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    asked = parser.parse_args()
    if asked.what == "run":
        done = {(line["setting"], line["seed"]) for line in read(RESULTS)}
        for seed in asked.seeds:
            for setting in asked.settings:
                if (setting, seed) not in done:
                    with RESULTS.open("a") as file:
                        file.write(json.dumps(run(setting, seed)) + "\n")
    before, _, rest = DOCS.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    DOCS.write_text(f"{before}{BEGIN}\n\n{report(list(read(RESULTS)))}\n\n{END}{after}")


if __name__ == "__main__":
    main()
