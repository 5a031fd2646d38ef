"""Feeds changed messages to every decoder and every state, and writes down what came of it.

    python tests/fuzz/fuzz_run.py --messages 1000000 --seed 1 --out benchmarks/results/fuzz.json

Each target gets its share; a message equal to a right one is not counted. Whatever breaks is written to
`--findings` as a file that names target and seed, and the exit status is 1. A larger `--seed` is another run.
"""

import argparse
import json
import platform
import resource
import signal
import sys
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from random import Random
from types import FrameType

import fuzz_targets
from fuzz_steps import run_session
from fuzz_world import WORLDS, Broken, Target

HANG_SECONDS = 5.0  # no message may take longer; the slowest one seen is in the result
MEASURED_EVERY = 50  # messages between two whose memory is measured


class Hang(Broken):
    """A message took longer than it may."""


def on_alarm(signum: int, frame: FrameType | None) -> None:
    raise Hang(f"longer than {HANG_SECONDS} s")


def fed(target: Target, data: bytes, measure: bool) -> tuple[str, float, int]:
    """(outcome, seconds, peak bytes or 0) of one message. Broken if it takes too long or too much."""
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    if measure:
        tracemalloc.start()
    started = time.perf_counter()
    try:
        outcome = target.feed(data)
        seconds = time.perf_counter() - started
        peak = tracemalloc.get_traced_memory()[1] if measure else 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if measure:
            tracemalloc.stop()
    if peak > target.room(len(data)):
        raise Broken(f"{peak} bytes allocated for a message of {len(data)}")
    return outcome, seconds, peak


def fuzz(target: Target, messages: int, seed: int, findings: Path | None) -> dict[str, object]:
    """Feeds one target; what was counted."""
    rng = Random(f"{seed} {target.name}")
    before = signal.signal(signal.SIGALRM, on_alarm), signal.setitimer(signal.ITIMER_REAL, 0)[0]
    right = set(target.corpus)
    counts: Counter[str] = Counter()
    slowest, largest, started = 0.0, 0, time.perf_counter()
    done = 0
    while done < messages:
        data = target.mutated(rng)
        if data in right:
            continue
        done += 1
        try:
            outcome, seconds, peak = fed(target, data, done % MEASURED_EVERY == 0)
        except Exception as error:  # noqa: BLE001  # whatever comes out is a finding, and the run goes on
            outcome, seconds, peak = "broken", 0.0, 0
            report(target, data, error, findings)
        counts[outcome] += 1
        slowest, largest = max(slowest, seconds), max(largest, peak)
    signal.signal(signal.SIGALRM, before[0])
    signal.setitimer(signal.ITIMER_REAL, before[1])
    return {
        "messages": messages,
        **{outcome: counts[outcome] for outcome in ("refused", "taken", "broken")},
        "seconds": round(time.perf_counter() - started, 2),
        "slowest_ms": round(1e3 * slowest, 1),
        "peak_kib": largest >> 10,
    }


def report(target: Target, data: bytes, error: Exception, findings: Path | None) -> None:
    """One line, and the bytes for whoever repairs it."""
    sys.stderr.write(f"BROKEN {target.name}: {type(error).__name__}: {error}\n")
    if findings:
        findings.mkdir(parents=True, exist_ok=True)
        name = f"{target.name.replace(' ', '-')}-{abs(hash(data)):x}"
        (findings / name).write_bytes(data)


def session_messages(runs: int, seed: int) -> dict[str, int]:
    """How many messages were changed in the whole sessions of a run, and how the sessions ended."""
    ends: Counter[str] = Counter()
    changed = 0
    for name in WORLDS:
        for number in range(runs):
            count, end = run_session(name, Random(f"{seed} {name} {number}"))
            changed += count
            ends[end] += 1
    return {"sessions": 2 * runs, "changed_messages": changed, **dict(sorted(ends.items()))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="targets whose name contains this")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    options = parser.parse_args()
    chosen = [t for t in fuzz_targets.targets() if options.only in t.name and not t.name.startswith("session (")]
    each = -(-options.messages // len(chosen))
    sys.stderr.write(f"seed {options.seed}: {each} messages for each of {len(chosen)} targets\n")
    started = time.perf_counter()
    results = {}
    for target in chosen:
        results[target.name] = fuzz(target, each, options.seed, options.findings)
        sys.stderr.write(f"{target.name}: {results[target.name]}\n")
    whole = session_messages(max(1, options.messages // 1000), options.seed)
    record = {
        "seed": options.seed,
        "messages": sum(r["messages"] for r in results.values()) + whole["changed_messages"],
        "broken": sum(r["broken"] for r in results.values()),
        "seconds": round(time.perf_counter() - started),
        "peak_process_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "python": platform.python_version(),
        "sessions": whole,
        "targets": results,
    }
    text = json.dumps(record, indent=1) + "\n"
    if options.out:
        options.out.write_text(text)
    sys.stdout.write(text)
    return 1 if record["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
