"""How fast a long ledger is: appending, synchronous commits, verifying, proving. One core; processor seconds.

python benchmarks/ledger.py [--entries 100000] [--out benchmarks/results/ledger.json]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from fgrpo_secure.ledger.store import Ledger, Ledgers
from protocols import merkle

BATCH = 1000  # sessions in one commit, when commits are counted apart
COMMITS = 200


def main() -> None:
    """Measure and write the figures."""
    options = argparse.ArgumentParser()
    options.add_argument("--entries", type=int, default=100_000)
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/ledger.json"))
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Ledgers(Path(folder) / "ledger.sqlite")
        figures = measure(store, chosen.entries)
        figures["bytes_per_entry"] = round((Path(folder) / "ledger.sqlite").stat().st_size / figures["entries"])
    chosen.out.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))  # noqa: T201  # a benchmark's output


def measure(store: Ledgers, entries: int) -> dict[str, float]:
    """Fill a ledger with that many entries and take its times."""
    ledger = store.open("server", Fraction(10**9))
    started = time.process_time()
    for start in range(0, entries // 2, BATCH):
        with store.transaction():
            for place in range(start, min(start + BATCH, entries // 2)):
                settle(ledger, place)
        print(f"{ledger.size()} entries", flush=True)  # noqa: T201  # progress
    appended = (time.process_time() - started) / (ledger.size() - 1)
    commits = [
        seconds(lambda place=entries + each: settle(ledger, place), time.perf_counter) / 2 for each in range(COMMITS)
    ]
    proofs = [seconds(lambda place=each: ledger.prove(place)) for each in range(0, ledger.size(), ledger.size() // 50)]
    growths = [
        seconds(lambda size=each: ledger.prove_growth(size)) for each in range(1, ledger.size(), ledger.size() // 50)
    ]
    content, path = ledger.prove(ledger.size() // 3)
    root = merkle.root_from_path(merkle.leaf_hash(content), ledger.size() // 3, ledger.size(), path)
    if root != ledger.root():
        raise SystemExit("a proof does not lead to the root")
    return {
        "entries": ledger.size(),
        "append_ms": 1000 * appended,
        "synchronous_commit_ms_wall": 1000 * statistics.median(commits),
        "verify_s": seconds(ledger.verify),
        "prove_ms": 1000 * statistics.median(proofs),
        "prove_growth_ms": 1000 * statistics.median(growths),
        "proof_hashes": len(path),
    }


def settle(ledger: Ledger, place: int) -> None:
    """Two entries, with charges like those of a quickstart whose survivors vary."""
    session, survivors = place.to_bytes(32, "big"), 231 + place % 25
    ledger.intent(session, place, Fraction(163**2, 218 * 527), {"integer_bound": 163, "share_variance": 527})
    ledger.settle(session, survivors, Fraction(163**2, (survivors - 13) * 527))


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """How long `work` takes."""
    started = clock()
    work()
    return clock() - started


if __name__ == "__main__":
    main()
