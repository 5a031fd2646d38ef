"""This protocol against Flower's SecAgg+: same clients, coordinates, graph, threshold and dropouts, on one core.

    python -m venv peer && peer/bin/pip install -r benchmarks/peers/requirements.txt
    python benchmarks/aggregation.py --peer peer/bin/python            # the whole grid
    python benchmarks/aggregation.py --peer peer/bin/python --quick    # two configurations, a minute

Every measurement is a process of its own, pinned to one core, ours and the peer's in turn; the figures are medians of
the repetitions, in seconds of the processor. Memory is measured in two more processes, because tracing it is slow. A
measurement that is done is in `--work` and is not repeated, so the command can be stopped and started again.

What is compared, and by which figure (`TARGETS`):

    client        share + mask steps; the peer's without weighting and rounding, which happen before ours
    server        what happens after the last upload: the peer's unmask stage, our unmask step
    upload        bytes of all steps of one client, for integers of the same size: 22 bits each, so a ring of
                  22 + log2(n) bits of ours and 64 of theirs
    memory        tracemalloc peaks: of one client's masking step; of the process while the server's code runs
    masking       share of the speed of the raw keystream plus its addition (session.py, `limit_s`)
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import ceil, log2
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
QUANTISED_BITS = 22
SPARSE = {10: 4, 50: 12, 100: 14}  # neighbours, about 2 log2(n), as the peer's users would set them
TARGETS = {
    "client": 1 / 5,
    "server, complete": 1 / 20,
    "server, sparse": 1 / 3,
    "upload": 0.45,
    "client memory": 1 / 3,
    "server memory": 1 / 3,
}
LEAST_MASKING = 0.6
SLOW = 60.0  # seconds: what takes longer is not repeated


@dataclass(frozen=True)
class Setting:
    """One configuration of both systems."""

    n: int
    d: int
    neighbours: int
    drop: float

    @property
    def graph(self) -> str:
        """The word for it."""
        return "complete" if self.neighbours == self.n - 1 else "sparse"

    @property
    def name(self) -> str:
        """Unique, and good in a file's name."""
        return f"n{self.n}-d{self.d}-{self.graph}-drop{round(100 * self.drop)}"

    @property
    def bits(self) -> int:
        """Holds the sum of all clients' quantised values."""
        return QUANTISED_BITS + ceil(log2(self.n))

    def ours(self) -> list[str]:
        """The command that measures this protocol."""
        settings = {"n": self.n, "d": self.d, "neighbours": self.neighbours, "bits": self.bits, "drop": self.drop}
        return [sys.executable, str(HERE / "session.py"), *flags(settings)]

    def peers(self, python: str) -> list[str]:
        """The command that measures the peer. It counts a client among its own neighbours."""
        shares = "full" if self.graph == "complete" else self.neighbours + 1
        settings = {"n": self.n, "d": self.d, "shares": shares, "drop": self.drop}
        return [python, str(HERE / "peers" / "flower.py"), *flags(settings)]


def flags(settings: dict[str, Any]) -> list[str]:
    """Options of a command line."""
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def grid(quick: bool) -> list[Setting]:
    """All settings, those that take long last."""
    if quick:
        return [Setting(10, 1_000_000, 9, 0.0), Setting(50, 100_000, 12, 0.2)]
    settings = [
        Setting(n, d, neighbours, drop)
        for n, d, sparse, drop in itertools.product(SPARSE, (100_000, 1_000_000), (True, False), (0.0, 0.2))
        for neighbours in [SPARSE[n] if sparse else n - 1]
    ]
    return sorted(settings, key=lambda s: s.n * (s.neighbours + 1) ** 2 + s.n * s.neighbours * s.d / 1e6)


class Bench:
    """Runs measurements that are not done yet, and says how far it is."""

    def __init__(self, peer: str, work: Path, core: int) -> None:
        self._peer, self._work, self._core = peer, work, core
        work.mkdir(parents=True, exist_ok=True)

    def setting(self, setting: Setting, repetitions: int) -> dict[str, list[dict[str, Any]]]:
        """Every measurement of a setting: ours, the peer's, and each one's memory."""
        runs: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": [], "ours memory": [], "peer memory": []}
        commands = {"ours": setting.ours(), "peer": setting.peers(self._peer)}
        while all((self._work / f"{setting.name}-{system}-{repetitions}.json").exists() for system in commands):
            repetitions += 1  # done earlier: they count
        for repetition, (system, command) in itertools.product(range(repetitions), commands.items()):
            if system == "peer" and repetition and max(run["wall_s"] for run in runs["peer"]) > SLOW:
                continue
            runs[system].append(self._run(command, f"{setting.name}-{system}-{repetition}"))
        for system, command in commands.items():
            if setting.drop == 0:
                run = self._run([*command, "--trace"], f"{setting.name}-{system}-memory")
                runs[f"{system} memory"].append(run)
        return runs

    def is_done(self, setting: Setting, repetitions: int) -> bool:
        """Whether nothing of a setting is left to measure."""
        last = [f"ours-{repetitions - 1}", "peer-0", *(["ours-memory", "peer-memory"] if setting.drop == 0 else [])]
        return all((self._work / f"{setting.name}-{name}.json").exists() for name in last)

    def _run(self, command: list[str], name: str) -> dict[str, Any]:
        done = self._work / f"{name}.json"
        if not done.exists():
            started = time.monotonic()
            environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
            pinned = ["taskset", "-c", str(self._core), *command]
            result = subprocess.run(pinned, capture_output=True, text=True, env=environment, check=False)
            if result.returncode:
                raise SystemExit(f"{name} failed: {result.stderr[-2000:]}")
            done.write_text(result.stdout.strip().splitlines()[-1])
            sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S}  {name}  {time.monotonic() - started:.1f} s\n")
        run: dict[str, Any] = json.loads(done.read_text())
        if not run["ok"]:
            raise SystemExit(f"{name} ended without the right sum")
        return run


def row(setting: Setting, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of both systems, and our share of the peer's."""
    ours, peer = (medians(runs[system]) for system in ("ours", "peer"))
    client = ours["client_share_s"] + ours["client_mask_s"]
    rounding = peer["client_quantise_s"]
    peers_client = peer["client_share_s"] + peer["client_mask_s"]
    ratios = {
        "client": client / (peers_client - rounding),
        "client, with the peer's rounding": client / peers_client,
        "server": ours["server_unmask_s"] / peer["server_unmask_s"],
        "server, all steps": total(ours, "server_") / total(peer, "server_"),
        "upload": ours["up_bytes_total"] / peer["up_bytes_total"],
        "masking": median_ratio(runs["ours"], "limit_s", "client_masking_s"),
        "mask step": median_ratio(runs["ours"], "limit_s", "client_mask_s"),
    }
    if runs["ours memory"] and runs["peer memory"]:
        small, large = runs["ours memory"][0], runs["peer memory"][0]
        ratios["client memory"] = small["client_mask_peak_mb"] / large["client_mask_peak_mb"]
        ratios["server memory"] = small["server_peak_mb"] / large["server_peak_mb"]
        ours |= {name: small[name] for name in ("client_mask_peak_mb", "server_peak_mb")}
        peer |= {name: large[name] for name in ("client_mask_peak_mb", "server_peak_mb")}
    facts = {"graph": setting.graph, "ring_bits": setting.bits, "repetitions": [len(runs["ours"]), len(runs["peer"])]}
    return asdict(setting) | facts | {"ratios": ratios, "ours": ours, "peer": peer}


def medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    """The median of every number."""
    names = [name for name, value in runs[0].items() if isinstance(value, float) or name.startswith(("up_", "down_"))]
    return {name: statistics.median(run[name] for run in runs) for name in names}


def total(figures: dict[str, float], prefix: str) -> float:
    """All seconds of one side."""
    return sum(value for name, value in figures.items() if name.startswith(prefix) and name.endswith("_s"))


def median_ratio(runs: list[dict[str, Any]], above: str, below: str) -> float:
    """Both figures of one run were taken under the same load."""
    return statistics.median(run[above] / run[below] for run in runs)


def verdicts(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each target, how many settings meet it, and the worst one."""
    result = {}
    for name, most in TARGETS.items():
        figure, _, graph = name.partition(", ")
        shares = [
            (entry["ratios"][figure], f"n={entry['n']} d={entry['d']} {entry['graph']} drop={entry['drop']:g}")
            for entry in rows
            if figure in entry["ratios"] and graph in ("", entry["graph"])
        ]
        if shares:
            met = sum(share <= most for share, _ in shares)
            result[name] = {"target": most, "met": met, "of": len(shares), "worst": max(shares)}
    speeds = [(entry["ratios"]["masking"], f"n={entry['n']} d={entry['d']} {entry['graph']}") for entry in rows]
    met = sum(speed >= LEAST_MASKING for speed, _ in speeds)
    result["masking"] = {"target": LEAST_MASKING, "met": met, "of": len(speeds), "worst": min(speeds)}
    return result


def table(rows: list[dict[str, Any]]) -> str:
    """The ratios as text."""
    columns = ("client", "server", "upload", "client memory", "server memory", "masking")
    lines = [f"{'n':>4} {'d':>8} {'graph':9} {'drop':>5} " + " ".join(f"{column:>13}" for column in columns)]
    for entry in rows:
        shares = [f"{entry['ratios'][c]:13.3f}" if c in entry["ratios"] else f"{'-':>13}" for c in columns]
        lines.append(f"{entry['n']:4} {entry['d']:8} {entry['graph']:9} {entry['drop']:5.0%} " + " ".join(shares))
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {"processor": names[0] if names else platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}


def main() -> None:
    """Measure what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default="peer/bin/python", help="an interpreter that has flwr")
    parser.add_argument("--quick", action="store_true", help="two settings, once")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=25.0, help="start no further setting after so long")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark/aggregation"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "aggregation.json")
    options = parser.parse_args()
    bench, started = Bench(options.peer, options.work, options.core), time.monotonic()
    settings, repetitions = grid(options.quick), 1 if options.quick else options.repetitions
    rows = [
        row(setting, bench.setting(setting, repetitions))
        for setting in settings
        if bench.is_done(setting, repetitions) or time.monotonic() - started <= 60 * options.minutes
    ]
    if len(rows) < len(settings):
        sys.stderr.write(f"out of time: {len(rows)} of {len(settings)} settings; run again to continue\n")
    if not rows:
        return
    result = {
        "benchmark": "aggregation",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "settings": [len(rows), len(settings)],
        "targets": verdicts(rows),
        "rows": rows,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(table(rows) + "\n" + json.dumps(result["targets"], indent=1) + "\n")


if __name__ == "__main__":
    main()
