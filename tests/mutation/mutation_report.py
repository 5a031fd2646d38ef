"""Counts the finished mutants of `mutation_run.py` into benchmarks/results/mutation.json.

    python tests/mutation/mutation_report.py [--work build/mutation] [--out benchmarks/results/mutation.json]

The exit status is 1 if a survivor stands in no line of `justified.toml`, which says of each why no test can or need
notice it, or if a score's Wilson lower bound is below 85 %.
"""

import argparse
import json
import sys
import tomllib
from collections import Counter
from math import sqrt
from pathlib import Path

ROOT = Path(__file__).parents[2]
JUSTIFIED = Path(__file__).with_name("justified.toml")
PASS_LINE = 0.85


def wilson_lower(hits: int, tries: int, z: float = 1.96) -> float:
    """The lower end of Wilson's 95 % interval of a proportion."""
    if tries == 0:
        return 0.0
    share, square = hits / tries, z * z / tries
    return (share + square / 2 - sqrt(square * (share * (1 - share) + square / 4))) / (1 + square)


def figures(facts: dict, entries: list[dict]) -> dict:
    """What one package's mutants came to; of repeated ones the last run counts.

    A survivor whose lines were rewritten before it could be repeated is `gone`: it counts as missed.
    """
    last = {entry["number"]: entry for entry in entries}
    outcomes = Counter(entry["outcome"] for entry in last.values())
    missed = {"survived", "gone"}
    tried = len(last)
    noticed = tried - outcomes["survived"] - outcomes["gone"]
    first = sum(entry.get("first", entry["outcome"]) not in missed for entry in last.values())
    operators: dict[str, list[int]] = {}
    for entry in last.values():
        counts = operators.setdefault(entry["operator"], [0, 0])
        counts[0] += entry["outcome"] not in missed
        counts[1] += 1
    survivors = [entry for entry in last.values() if entry["outcome"] == "survived"]
    survivors.sort(key=lambda entry: (entry["path"], entry["line"], entry["diff"]))
    return {
        **facts,
        "tried": tried,
        "killed": outcomes["killed"],
        "timeouts": outcomes["timeout"],
        "survived": outcomes["survived"],
        "gone": outcomes["gone"],
        "score": round(noticed / max(tried, 1), 4),
        "wilson_lower_95": round(wilson_lower(noticed, tried), 4),
        "score_before_new_tests": round(first / max(tried, 1), 4),
        "wilson_lower_95_before_new_tests": round(wilson_lower(first, tried), 4),
        "noticed_of_tried_by_operator": dict(sorted(operators.items())),
        "survivors": [{key: entry[key] for key in ("path", "line", "operator", "diff")} for entry in survivors],
    }


def reasons() -> dict[tuple[str, str], str]:
    """Why a surviving change is none that a test ought to notice, by file and diff."""
    listed = tomllib.loads(JUSTIFIED.read_text("utf-8"))["mutant"]
    return {(entry["path"], entry["diff"].strip("\n")): entry["reason"] for entry in listed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "mutation")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "mutation.json")
    asked = parser.parse_args()
    known, result, complaints = reasons(), {}, []
    for results in sorted(asked.work.glob("*.jsonl")):
        facts = json.loads(results.with_suffix(".drawn.json").read_text("utf-8"))["facts"]
        entries = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
        result[results.stem] = found = figures(facts, entries)
        for survivor in found["survivors"]:
            survivor["reason"] = known.get((survivor["path"], survivor["diff"]), "")
            if not survivor["reason"]:
                complaints.append(f"not justified: {survivor['path']}:{survivor['line']}\n{survivor['diff']}")
        if found["wilson_lower_95"] < PASS_LINE:
            complaints.append(f"{results.stem}: the score may be as low as {found['wilson_lower_95']:.1%}")
    asked.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    sys.stdout.write("\n".join([*complaints, *(f"{name}: {one['score']:.1%}" for name, one in result.items())]) + "\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
