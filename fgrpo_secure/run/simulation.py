"""simulation.json: what can be known only because all clients of a run shared one machine. Beside the run, not in it.

Clients' times and why they refused depend on their data and on their other runs: no charge pays for them. So they
never lie in what a run hands over, and exist for the embedded engine alone. Nobody needs the file.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from fgrpo_secure.engines.embedded import Embedded
from fgrpo_secure.learning.pass_rates import Exam
from fgrpo_secure.storage.run_directory import write_durably

NOTE = "simulation only: clients shared one machine. Depends on their data, paid for by nothing: not for publication"


@dataclass
class Simulation:
    """Grows with every round; on disk after each."""

    path: Path
    engine: Embedded
    rounds: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def open(path: Path, rounds_done: int, engine: Embedded) -> "Simulation":
        """What was kept of the first `rounds_done` rounds; empty if nothing can be read: it is nobody's record."""
        try:
            kept = json.loads(path.read_bytes())
            rounds = [line for line in kept["rounds"] if line["round"] <= rounds_done]
            return Simulation(path, engine, rounds, list(kept["refusals"]), dict(kept["tasks"]))
        except (OSError, ValueError, KeyError, TypeError):
            return Simulation(path, engine)

    def add(self, training_round: int, seconds: float) -> None:
        """A finished round: `seconds` of wall-clock time, the clients' of processor time."""
        self.rounds.append({"round": training_round, "seconds": seconds, **msgspec.structs.asdict(self.engine.costs())})
        self.write()

    def refused(self, training_round: int) -> None:
        """Who took no part in the session that just ended, and why."""
        named = sorted(self.engine.refusals.items())
        self.refusals += [{"round": training_round, "client": client, "reason": reason} for client, reason in named]
        if named:
            self.write()

    def examined(self, when: str, exam: Exam | None) -> None:
        """Pass rates by task, `when` "initial" or "final"."""
        self.tasks[when] = {} if exam is None else {task: asdict(score) for task, score in exam.tasks.items()}
        self.write()

    def write(self) -> None:
        """Replace the file."""
        kept = {"note": NOTE, "rounds": self.rounds, "refusals": self.refusals, "tasks": self.tasks}
        write_durably(self.path, (json.dumps(kept, indent=1) + "\n").encode(), mode=0o600)
