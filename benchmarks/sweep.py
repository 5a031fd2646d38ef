"""Privacy against utility: the quickstart at several epsilons, weights and units, with a trusted server beside it.

    python benchmarks/sweep.py run --processes 2      # resumable: each finished run is a line of a JSON Lines file
    python benchmarks/sweep.py factors --processes 2  # the same for the ways to aggregate LoRA factors
    python benchmarks/sweep.py report                 # results/sweep.json and results/sweep.svg from those lines

Runs are simulated (`simulate`): the product's stages, all clients in one batch, integers added up without masks.
Each cell has paired seeds: the same prompts and rollout draws with secure aggregation and with the baseline, central
differential privacy at the same noise multiplier. Without noise the two are the same integers, so one stands for both.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import sweep_report
import torch
import utility
from simulate import Simulation, Trained

from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.schema import Config
from fgrpo_secure.learning.evaluation import Score, evaluate, overall
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.tasks.rewards import exact
from fgrpo_secure.plan import round_settings

PRESET = "quickstart"
EPSILONS = (None, 16.0, 8.0, 4.0, 2.0, 1.0)
WEIGHTS = ("adaptive", "uniform")
UNITS = ("client", "prompt_group", "subject")
SERVERS = ("secure", "plain")
SEEDS = (0, 1, 2, 3, 4)
# what the quickstart was when this sweep was run: the present one is measured by `python -m benchmarks epsilon`
FIRST_QUICKSTART = ("grpo.num_generations=8", "grpo.prompts_per_step=4", "server.learning_rate=4")
UNIT_CLIP = 0.01  # of a unit's raw gradient: nearly all are longer
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Cell:
    """One run. `epsilon` None is a run without differential privacy, whose `server` is always "secure"."""

    unit: str
    weights: str
    epsilon: float | None
    server: str
    seed: int
    factors: str = "ffa"

    def config(self) -> Config:
        """The quickstart with this cell's settings."""
        settings = [f"run.seed={self.seed}", "run.entropy=seeded", f"adapter.factors={self.factors}"]
        settings += [*FIRST_QUICKSTART, "weighting.rule=softmax"]
        settings += ["privacy.unit=none"] if self.epsilon is None else [f"privacy.unit={self.unit}"]
        settings += [] if self.epsilon is None else [f"privacy.epsilon={self.epsilon}"]
        settings += ["weighting.rule=uniform"] if self.weights == "uniform" else []
        if self.unit == "client":
            return config_file.load(PRESET, settings)
        settings[2:] = [*FIRST_QUICKSTART, f"adapter.factors={self.factors}", "weighting.rule=uniform"]
        settings += [f"privacy.epsilon={self.epsilon}"]
        return inside_clients(config_file.load(PRESET, settings), self.unit)


def inside_clients(config: Config, unit: str) -> Config:
    """The quickstart with units inside its clients: as many prompts of a client, and as many a round, but fixed ones.

    A client's 48 prompts are units of one, or 12 subjects with four each; every unit takes part in one of the 12
    rounds. Gradients are clipped to where nearly all are; the server's rate makes up for it, and for directions of
    one prompt, which agree half as much as those of four.
    """
    table = config.model_dump()
    subject = {"subject": "who", "rows_per_subject": 4} if unit == "subject" else {}
    rows = config.federation.rounds * config.grpo.prompts_per_step
    table["client"] = [{**client, "rows": rows, **subject} for client in table["client"]]
    table["privacy"] |= {"unit": unit, "clip_norm": UNIT_CLIP, "max_rounds_per_unit": 1}
    table["grpo"] |= {"max_grad_norm": None, "prompts_per_step": 4 if subject else 1}
    table["server"]["learning_rate"] *= (1 if subject else 2) / UNIT_CLIP
    return Config.model_validate(table)


def cells(
    units: Sequence[str], weights: Sequence[str], seeds: Sequence[int], servers: Sequence[str] = SERVERS
) -> Iterator[Cell]:
    """All runs, in the order in which they are worth having: a unit and a rule of weights at a time."""
    for unit in units:
        for rule in weights if unit == "client" else ("uniform",):  # no range of rewards holds for all these clients
            for seed in seeds:
                for epsilon in EPSILONS:
                    if epsilon is None and unit != "client":
                        continue  # without privacy there are no units
                    for server in SERVERS[:1] if epsilon is None else servers:
                        yield Cell(unit, rule, epsilon, server, seed)


def factor_cells(seeds: Sequence[int]) -> Iterator[Cell]:
    """Ways to aggregate LoRA factors, with and without noise; a seed at a time."""
    for seed in seeds:
        for factors in ("ffa", "alternate", "full"):
            for epsilon in (None, 8.0):
                yield Cell("client", "adaptive", epsilon, "secure", seed, factors)


def run(cell: Cell) -> dict[str, Any]:
    """The cell with its four figures, in points, its noise, and the processor seconds it took."""
    torch.set_num_threads(1)
    started = time.process_time()
    config = cell.config()
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulation.open(config, Path(folder), plain=cell.server == "plain")
        simulation.known = first_round(cell.seed, cell.factors) if cell.unit == "client" else {}
        for number in range(config.federation.rounds):
            simulation.round(number)
    after = score(simulation, cell.seed)
    claim = simulation.privacy.claim
    return {
        **asdict(cell),
        **utility.figures(before(cell.seed), after),
        "noise_multiplier": claim and claim.noise_multiplier,
        "rounds": config.federation.rounds,
        "seconds": round(time.process_time() - started, 2),
    }


@lru_cache(maxsize=3)
def first_round(seed: int, factors: str) -> dict[int, Trained]:
    """What everybody learns in the first round, whatever the noise will be."""
    config = Cell("client", "adaptive", None, "secure", seed, factors).config()
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulation.open(config, Path(folder))
        return {0: simulation.train(round_settings.for_round(config, 0, 0))}


def score(simulation: Simulation, seed: int) -> Score:
    """How the model does on problems that neither training nor tuning met, tasks counted equally."""
    streams = Streams(seed)
    grpo = simulation.config.grpo
    tasks = [rows for rows in held_out().values() if rows]
    return overall(evaluate(simulation.adapted, rows, exact, grpo, utility.SAMPLES, streams) for rows in tasks)


@lru_cache
def before(seed: int) -> Score:
    """The model as it is shipped, marked with this seed's draws."""
    return utility.score(PRESET, None, seed)


@lru_cache
def held_out() -> dict[str, list[Any]]:
    """Rows of the problems that results are measured on, by task."""
    return utility.held_out(PRESET)


def finished(path: Path) -> dict[Cell, dict[str, Any]]:
    """The runs that a file holds. A line that a crash cut short counts as not run."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[Cell(**{name: record[name] for name in Cell.__dataclass_fields__ if name in record})] = record
    return found


def run_missing(options: argparse.Namespace) -> None:
    """Run the cells that are not in the file, and append each when it is done."""
    done = finished(options.cells)
    if options.action == "factors":
        wanted = list(factor_cells(options.seeds))
    else:
        wanted = list(cells(options.units, options.weights, options.seeds, options.servers))
    missing = [cell for cell in wanted if cell not in done]
    limit = time.monotonic() + options.minutes * 60
    with ProcessPoolExecutor(options.processes) as pool:
        waiting = iter(missing)
        running = {pool.submit(run, cell) for _, cell in zip(range(options.processes), waiting, strict=False)}
        while running:
            future = next(as_completed(running))
            running.discard(future)
            record = {**future.result(), "machine": machine()}
            with options.cells.open("a") as file:
                file.write(json.dumps(record) + "\n")
            cell = next(waiting, None) if time.monotonic() < limit else None
            if cell is not None:
                running.add(pool.submit(run, cell))


def machine() -> str:
    """The processor and its cores."""
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "factors", "report"))
    parser.add_argument("--units", nargs="+", default=list(UNITS), choices=UNITS)
    parser.add_argument("--weights", nargs="+", default=list(WEIGHTS), choices=WEIGHTS)
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=SERVERS)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=1e6, help="start no run after this long")
    parser.add_argument("--cells", type=Path, default=RESULTS / "sweep_cells.jsonl")
    options = parser.parse_args()
    if options.action != "report":
        run_missing(options)
    else:
        everything = list(cells(UNITS, WEIGHTS, SEEDS))
        records = list(finished(options.cells).values())
        result = sweep_report.write(RESULTS, records, len(everything))
        sys.stdout.write(sweep_report.table(result) + "\n")


if __name__ == "__main__":
    main()
