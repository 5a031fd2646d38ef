"""How exact one client's direction is, by prompts and completions: what a clipped update is worth under noise.

Every update is longer than the clip, so that clipping leaves nothing but its direction. Clients of one kind share a
true direction; `exactness` is the mean square of the cosine to it, taken from pairs of clients. The planner's formula
(`fgrpo_secure.plan.forecast`) is fitted to it and held against it.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from numpy.typing import NDArray
from simulate import Simulation
from trials import Trial

from fgrpo_secure.plan import forecast, round_settings

SEEDS = (100, 101)
KINDS = ("addition", "subtraction", "products", "sorting", "reversal", "counting", "remainders", "extremes")
SHAPES = ((4, 4), (4, 8), (4, 16), (4, 32), (8, 4), (8, 8), (16, 2), (16, 4), (16, 8), (32, 4))
COUNT = 16  # clients of each kind


def settings(prompts: int, completions: int, count: int) -> tuple[str, ...]:
    """The quickstart without noise, with another shape of batches and fewer clients."""
    fewer = tuple(f"client.{kind}.count={count}" for kind in KINDS)
    shape = (f"grpo.prompts_per_step={prompts}", f"grpo.num_generations={completions}")
    return (*fewer, *shape, "privacy.unit=none", "weighting.rule=uniform")


def measure(prompts: int, completions: int, seed: int, count: int = COUNT) -> dict[str, Any]:
    """The exactness of a client's direction in the first round, which trains B, and in the second, which trains A."""
    torch.set_num_threads(1)
    trial = Trial(settings(prompts, completions, count), seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulation.open(trial.config(), Path(folder))
        found = []
        for number in range(2):
            trained = simulation.train(round_settings.for_round(simulation.config, number, 0))
            found.append(exactness(trained.updates, count))
            simulation.known = {number: trained}
            simulation.round(number)
    return {
        "prompts": prompts,
        "completions": completions,
        "seed": seed,
        "B": found[0],
        "A": found[1],
        **record.facts(),
    }


def exactness(updates: NDArray[np.float64], count: int) -> float:
    """The mean cosine between updates of two clients of one kind; `count` clients a kind lie beside each other.

    Two independent estimates of one direction, each at cosine c to it, have a cosine of c^2 on average.
    """
    norms = np.linalg.norm(updates, axis=1, keepdims=True)
    unit = updates / np.where(norms == 0, 1, norms)  # all groups paid alike: a client that has nothing to say
    kinds = unit.reshape(-1, count, unit.shape[1])
    squares = np.sum(kinds.sum(axis=1) ** 2, axis=1)
    return float(np.mean((squares - count) / (count * (count - 1))))


def run_missing(path: Path) -> None:
    """Measure the shapes that a file lacks."""
    done = {(row["prompts"], row["completions"], row["seed"]) for row in record.lines(path)}
    for seed in SEEDS:
        for shape in SHAPES:
            if (*shape, seed) not in done:
                record.append(path, measure(*shape, seed))


def seen(row: dict[str, Any]) -> float:
    """What was measured: the mean over both factors."""
    return float(row["A"] + row["B"]) / 2


def expected(row: dict[str, Any]) -> float:
    """What the planner's formula says."""
    return forecast.exactness(row["prompts"], row["completions"])


def fit(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """(K_b, K_w) of exactness = P / (P + K_b + K_w / G), by least squares on its logarithm."""
    from scipy.optimize import least_squares

    prompts = np.array([row["prompts"] for row in rows], float)
    completions = np.array([row["completions"] for row in rows], float)
    seen = np.log([(row["A"] + row["B"]) / 2 for row in rows])

    def off(k: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.log(prompts / (prompts + np.exp(k[0]) + np.exp(k[1]) / completions)) - seen)

    found = least_squares(off, [3.0, 5.0]).x
    return float(np.exp(found[0])), float(np.exp(found[1]))
