"""One form for what a benchmark of learning measures: a JSON Lines file, one finished run a line.

Every line says what was run (setting, seed), what came out, and on what: machine, load, versions. A file can be
continued: what it holds is not run again, and a line that a crash cut short counts as not run.
"""

import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from fgrpo_secure import __version__

RESULTS = Path(__file__).parent / "results"
CLOSE = 2.0  # points: a difference within them does not matter here


def facts() -> dict[str, Any]:
    """Machine, its load in the last minute, and versions: what a figure may depend on besides its setting."""
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 1),
        "versions": {
            "fgrpo_secure": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


def lines(path: Path) -> list[dict[str, Any]]:
    """The finished runs in a file."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a finished run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and 95 % t interval over seeds; no interval for one seed alone."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": mean, "low": float("nan"), "high": float("nan")}
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def paired(ours: dict[int, float], others: dict[int, float]) -> dict[str, Any]:
    """The difference seed by seed, and what its interval settles."""
    seeds = sorted(set(ours) & set(others))
    found: dict[str, Any] = interval([ours[seed] - others[seed] for seed in seeds])
    if found["low"] >= -CLOSE and found["high"] <= CLOSE:
        verdict = "within 2 points"
    elif found["low"] <= 0 <= found["high"]:
        verdict = "unresolved"
    else:
        verdict = "differs"
    return {**found, "verdict": verdict, "seeds": len(seeds)}


def text(found: dict[str, Any]) -> str:
    """An interval as a page shows it."""
    return f"{found['mean']:+.1f} [{found['low']:.1f}, {found['high']:.1f}]"


def machines(found: Iterable[dict[str, Any]]) -> str:
    """The machines, loads and versions of several runs, in one sentence."""
    runs = list(found)
    loads = sorted(run["load"] for run in runs)
    versions = sorted({f"torch {run['versions']['torch']}, numpy {run['versions']['numpy']}" for run in runs})
    return (
        f"{len(runs)} runs on {'; '.join(sorted({run['machine'] for run in runs}))}, at a load of {loads[0]:g} to "
        f"{loads[-1]:g}; {'; '.join(versions)}"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
