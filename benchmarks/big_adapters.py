"""What a round with a big adapter takes of each party beside training: seconds, memory, files.

    python benchmarks/big_adapters.py --coordinates 10.5e6 50e6 --engine embedded https

Five clients with the shipped model, whose adapter has rank enough for that many coordinates, train one step and then
conduct a whole round. What counts begins when the last client has trained (over HTTPS: at the training deadline) and
ends when the round is published. Writes a line for each to `results/big_adapters.jsonl`:

    waited_s, cpu_s       of the round, by the clock, and processor time of all processes
    server, client        `before` and `peak` MiB of the process itself in that interval, of the largest client; and
                          `vectors`, what the peak lies above `before`, in vectors of 8 bytes a coordinate
    training              peak MiB of the largest client until then
    files                 MiB of what is on disk after the round, above one: of files of one name the largest

Lines with `code` "before" are of the code before vectors that nobody needed any more were given up earlier.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import network_round
import psutil

RESULT = Path(__file__).parent / "results" / "big_adapters.jsonl"
LINEAR = ("down_proj", "gate_proj", "up_proj", "q_proj", "k_proj", "v_proj", "o_proj")
BY_RANK = 5120  # coordinates of both factors in all linear layers of the shipped model, for each rank
MIB = 2**20
RESET_PEAK = "5"  # proc(5), /proc/PID/clear_refs


class Memory:
    """Resident memory of this process and of the clients' since `begin`."""

    def __init__(self) -> None:
        self._before: dict[int, float] = {}

    def begin(self) -> None:
        """From now on."""
        self._before = {}
        for each in _processes():
            Path(f"/proc/{each}/clear_refs").write_text(RESET_PEAK)
            self._before[each] = _status(each, "VmRSS")

    def peaks(self) -> dict[int, tuple[float, float]]:
        """Process -> (MiB at `begin`, most MiB since); this process is 0."""
        found = {each: _status(each, "VmHWM") for each in _processes()}
        return {each: (self._before.get(each, 0.0), peak) for each, peak in found.items()}


def _processes() -> list[int]:
    return [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]


def _status(process: int, name: str) -> float:
    """MiB of a line in /proc; 0 of a process that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)


def _files(folder: Path) -> dict[str, float]:
    """MiB by the name of a file, of those above one; of several the largest."""
    sizes: dict[str, float] = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > MIB:
            sizes[path.name] = round(max(sizes.get(path.name, 0.0), path.stat().st_size / MIB), 1)
    return sizes


def measure(engine: str, coordinates: int, training: int) -> dict[str, Any]:
    """One line. The first round counts, as it does for a client that has just started."""
    rank = max(1, round(coordinates / BY_RANK))
    adapter = (
        f"adapter.rank={rank}",
        f"adapter.targets={json.dumps(LINEAR)}",
        "adapter.factors=full",
        "privacy.epsilon=50",
    )
    kind = {"embedded": network_round.OnEmbedded, "https": network_round.OnHttps}[engine]
    memory, load = Memory(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        side = kind(Path(name), 1, training, adapter)
        try:
            begin, trained = side.measured.begin, {}

            def from_here() -> None:
                trained.update(memory.peaks())
                memory.begin()
                begin()

            side.measured.begin = from_here  # type: ignore[method-assign]
            memory.begin()
            survivors = side.round(0)
            peaks, files = memory.peaks(), _files(Path(name))
            dimension = side.federation.adapted.dimension(0)
        finally:
            side.close()
    vector = 8 * dimension / MIB
    own = peaks.pop(os.getpid())
    trained.pop(os.getpid())
    largest = max(peaks.values(), key=lambda each: each[1] - each[0])
    told = {
        party: {"before": round(before), "peak": round(peak), "vectors": round((peak - before) / vector, 2)}
        for party, (before, peak) in (("server", own), ("client", largest))
    }
    return {
        "engine": engine,
        "clients": len(network_round.TASKS),
        "survivors": survivors,
        "coordinates": dimension,
        "vector_mib": round(vector, 1),
        "waited_s": side.measured.seconds[0],
        "cpu_s": side.measured.worked[0],
        **told,
        "training": round(max(peak for _, peak in trained.values())),
        "files": files,
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
    }


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coordinates", type=float, nargs="+", default=[10.5e6, 50e6])
    parser.add_argument("--engine", nargs="+", choices=("embedded", "https"), default=["embedded", "https"])
    parser.add_argument("--training", type=int, default=60, help="seconds to the training deadline, over HTTPS")
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    for coordinates in asked.coordinates:
        for engine in asked.engine:
            line = json.dumps(measure(engine, int(coordinates), asked.training))
            with asked.out.open("a") as file:
                file.write(line + "\n")
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
