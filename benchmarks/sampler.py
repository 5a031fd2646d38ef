"""The exact sampler against OpenDP's, and what encoding and noise cost a client, on one core.

    OMP_NUM_THREADS=1 python benchmarks/sampler.py

Prints and writes JSON. Times are the best of several repetitions on the processor's clock; tables are built before
the clock starts and their time is stated by itself. Memory is the peak of what Python and numpy allocate from the
float64 update to the noised vector, both included, in a pass of its own.
"""

import argparse
import json
import os
import platform
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import opendp.prelude as dp  # type: ignore[import-untyped]  # it ships no types

from fgrpo_secure import __version__
from fgrpo_secure.entropy import SeededEntropy
from fgrpo_secure.privacy import clip, discrete_gaussian, encode, noise
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.privacy.encode import Lattice, Score
from fgrpo_secure.privacy.noise import NoisedVector, NoisePlan

DEVIATIONS = (8, 64, 1024, 16_384)
SAMPLES = 8_000_000
OPENDP_SAMPLES = 20_000
DIMENSIONS = (1_000_000, 10_000_000)
SCORES = (Score(0.7, 0.5, 1.0), Score(0.0, -2.0, 2.0))
FLOOR, COLLUDERS, MULTIPLIER = 90, 5, 6.0


def best(work: Callable[[], object], repetitions: int) -> float:
    """The least processor time of `work`, in seconds."""
    taken = []
    for _ in range(repetitions):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return min(taken)


def sampling(deviation: int, repetitions: int) -> dict[str, Any]:
    """Samples per second of ours and of OpenDP's discrete Gaussian, and the time of the table."""
    started = time.process_time()
    table = discrete_gaussian.table(deviation**2)
    built = time.process_time() - started
    ours = best(lambda: discrete_gaussian.sample(table, SAMPLES, b"k" * 32), repetitions)
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.l2_distance(T=float)
    theirs = space >> dp.m.then_gaussian(float(deviation))
    zeros = [0] * OPENDP_SAMPLES
    other = best(lambda: theirs(zeros), repetitions)
    return {
        "deviation": deviation,
        "samples_per_second": round(SAMPLES / ours),
        "opendp_samples_per_second": round(OPENDP_SAMPLES / other),
        "table_seconds": round(built, 3),
    }


def encoding(dimension: int, repetitions: int) -> dict[str, Any]:
    """Seconds and peak memory from a float64 update to the noised vector."""
    update = np.random.default_rng(0).normal(size=dimension)
    lattice = Lattice.build(dimension, 1.0, len(SCORES))
    plan = NoisePlan.build(lattice, MULTIPLIER, FLOOR, COLLUDERS)
    discrete_gaussian.table(plan.share_variance)
    entropy = SeededEntropy(b"benchmark")

    def work() -> NoisedVector:
        clipped = clip.to_norm(Update(update), 1.0).times(0.7)
        return noise.add_share(encode.to_ring(clipped, SCORES, lattice, entropy), plan.share_variance, entropy)

    seconds = best(work, repetitions)
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "dimension": dimension,
        "seconds": round(seconds, 4),
        "share_deviation": round(plan.share_variance**0.5),
        "peak_memory_over_update": round((peak + update.nbytes) / update.nbytes, 2),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "sampler.json")
    options = parser.parse_args()
    dp.enable_features("contrib")
    result = {
        "benchmark": "sampler",
        "version": __version__,
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "sampling": [sampling(deviation, options.repetitions) for deviation in DEVIATIONS],
        "encoding": [encoding(dimension, options.repetitions) for dimension in DIMENSIONS],
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
