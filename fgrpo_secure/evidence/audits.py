"""What audits of a run's claim found, and audit.json, the file in which a run keeps the latest one of each kind.

Audits are made by `threat_model`, before a run ends or afterwards, by whoever doubts it. They need the configuration
alone, so anybody can make them again: the file says what was found and proves nothing about who found it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import msgspec

from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError, write_durably


@dataclass(frozen=True, slots=True)
class Audit:
    """One audit. A value of `lower_bounds` above `claimed_epsilon` refutes the claim; `estimates` refute nothing.

    All are epsilons at `delta`. `alpha` is the chance that a bound is too high although its assumption holds, for all
    bounds together. `assumptions` has that of each figure under its name, `shared` those of all. `sensitivity` is the
    largest integer change that a unit was seen to make, `sensitivity_bound` what it may be.
    """

    audit: str
    unit: str
    view: str
    claimed_epsilon: float
    delta: float
    alpha: float
    trials: int
    lower_bounds: Mapping[str, float]
    estimates: Mapping[str, float]
    sensitivity: float
    sensitivity_bound: int
    assumptions: Mapping[str, str]
    shared: tuple[str, ...]
    interference: bool = False  # taking one unit away changed something about another

    @property
    def passed(self) -> bool:
        """Whether nothing that was measured contradicts the claim."""
        within = self.sensitivity <= self.sensitivity_bound and not self.interference
        return within and all(bound <= self.claimed_epsilon for bound in self.lower_bounds.values())

    def facts(self) -> dict[str, object]:
        """Everything by its public name, for JSON."""
        return {**asdict(self), "passed": self.passed}


def read(directory: RunDirectory) -> dict[str, Audit]:
    """The latest audit of each kind, by kind; none if there is no file. RunDirectoryError if it cannot be read."""
    try:
        return msgspec.json.decode(directory.audits.read_bytes(), type=dict[str, Audit])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as problem:
        raise RunDirectoryError(f"{directory.audits} cannot be read: {problem}; audit again without it") from None


def keep(directory: RunDirectory, audit: Audit) -> None:
    """Write `audit` into the file, in place of an earlier one of its kind."""
    kept = {**read(directory), audit.audit: audit}
    facts = {kind: kept[kind].facts() for kind in sorted(kept)}
    write_durably(directory.audits, (json.dumps(facts, indent=2, allow_nan=False) + "\n").encode())
