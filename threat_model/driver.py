"""Runs one attack in a process of its own: `python -m threat_model.driver`, with a request on standard input.

The request names the attack and lists the weakenings, none against ours. They come from outside because they must be in
place before the attack, which imports what they weaken, is found. The answer is one line of JSON.
"""

import importlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from threat_model.attack import Attack, Outcome, Weakening
from threat_model.weakened import Finder

LIMIT_SECONDS = 300
ROOT = Path(__file__).parents[1]


class AttackBroke(Exception):
    """An attack ended without an outcome, which is neither failure nor success."""


@dataclass(frozen=True, slots=True)
class Request:
    """Which attack of which module to run, and what to weaken first."""

    family: str
    attack: str
    weakenings: tuple[Weakening, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """An outcome, as it travels between the processes."""

    succeeded: bool
    evidence: str
    seconds: float
    figures: Mapping[str, float] = field(default_factory=dict)


def run_apart(attack: Attack, family: str, weakenings: Sequence[Weakening]) -> Answer:
    """Runs the attack in a fresh interpreter on a copy weakened so. Raises AttackBroke."""
    request = msgspec.json.encode(Request(family, attack.name, tuple(weakenings)))
    path = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "threat_model.driver"]
    try:
        done = subprocess.run(
            command, input=request, capture_output=True, env=environment, timeout=LIMIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise AttackBroke(f"{attack.name} did not end within {LIMIT_SECONDS} seconds") from None
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise AttackBroke(f"{attack.name} ended without an outcome: {last[0] if last else 'it said nothing'}")
    return msgspec.json.decode(lines[-1], type=Answer)


def answer(request: Request) -> Answer:
    """Runs the requested attack in this process, after weakening it."""
    finder = Finder(request.weakenings)
    finder.install()
    family = importlib.import_module(request.family)  # only now: it imports what was weakened
    stopwatch = importlib.import_module("fgrpo_secure.entropy").stopwatch
    (attack,) = (known for known in family.ATTACKS if known.name == request.attack)
    start = stopwatch()
    outcome: Outcome = attack.run()
    seconds = stopwatch() - start
    finder.check_used()
    return Answer(outcome.succeeded, outcome.evidence, seconds, outcome.figures)


if __name__ == "__main__":
    sys.stdout.write(
        msgspec.json.encode(answer(msgspec.json.decode(sys.stdin.buffer.read(), type=Request))).decode() + "\n"
    )
