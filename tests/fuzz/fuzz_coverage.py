"""Coverage-guided fuzzing of the same targets, with atheris (the extra `fuzz`): libFuzzer keeps what reaches new code.

    python tests/fuzz/fuzz_coverage.py CORPUS -max_total_time=300 -seed=1

The first two bytes of an input choose the target; the rest is the message. CORPUS is a folder that a later run
goes on from; it is filled with real messages first, and it is not committed. Counts per target are
written to CORPUS.json. Anything but a refusal or a right answer ends the run with a crash file.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["protocols"]):
    import fuzz_messages
    import fuzz_targets

TARGETS = [target for target in fuzz_targets.targets() if not target.name.startswith("session (")]
COUNTS: Counter[str] = Counter()
WRITTEN_EVERY = 5000
MAX_LENGTH = 4096


def one_input(data: bytes) -> None:
    """What libFuzzer calls."""
    if len(data) < 2:
        return
    target = TARGETS[int.from_bytes(data[:2], "big") % len(TARGETS)]
    COUNTS[f"{target.name}: {target.feed(data[2:])}"] += 1
    if COUNTS.total() % WRITTEN_EVERY == 0:
        write_counts()


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Half of the changes keep the structure of a message, the others are libFuzzer's own."""
    rng = Random(seed)
    if len(data) < 3 or rng.randrange(2):
        return atheris.Mutate(data, max_size)
    target = TARGETS[int.from_bytes(data[:2], "big") % len(TARGETS)]
    return (data[:2] + fuzz_messages.changed(data[2:], target.pool, rng))[:max_size]


def seeds(folder: Path) -> None:
    """Right messages of every target, to start from."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, target in enumerate(TARGETS):
        for number, data in enumerate(target.corpus[:3]):
            (folder / f"right-{place}-{number}").write_bytes(place.to_bytes(2, "big") + data)


def write_counts() -> None:
    """Rewritten as the run goes on: libFuzzer ends the process without asking."""
    by_target: dict[str, dict[str, int]] = {}
    for name, count in COUNTS.items():
        target, _, outcome = name.rpartition(": ")
        by_target.setdefault(target, {})[outcome] = count
    record = {"messages": COUNTS.total(), "targets": dict(sorted(by_target.items()))}
    Path(f"{CORPUS}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    CORPUS = sys.argv[1].rstrip("/")
    seeds(Path(CORPUS))
    atheris.Setup([*sys.argv, f"-max_len={MAX_LENGTH}", "-timeout=10"], one_input, custom_mutator=mutate)
    atheris.Fuzz()
