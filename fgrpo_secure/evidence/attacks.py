"""What attacks on the installed code came to, and attacks.json, the file in which a run keeps the latest campaign.

`threat_model` attacks the code, not the run: the file says what was found with which version, and proves nothing about
who found it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

import msgspec

from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError, write_durably


class Verdict(StrEnum):
    """What became of one run of an attack."""

    FAILED = "failed"
    SUCCEEDED = "succeeded"
    BROKE = "broke"


@dataclass(frozen=True, slots=True)
class Trial:
    """One attack: what it came to on ours and on a copy without the checks that should stop it.

    `evidence` is what ours answered; secrets in it are those of an invented world.
    """

    attack: str
    adversary: str
    ours: Verdict
    weakened: Verdict
    evidence: str

    @property
    def holds(self) -> bool:
        """Whether it failed on ours and showed on the weakened copy that it is an attack at all."""
        return (self.ours, self.weakened) == (Verdict.FAILED, Verdict.SUCCEEDED)


@dataclass(frozen=True, slots=True)
class Campaign:
    """All attacks that were run together, on one version."""

    version: str
    trials: tuple[Trial, ...]

    @property
    def held(self) -> int:
        """How many attacks hold."""
        return sum(trial.holds for trial in self.trials)


def read(directory: RunDirectory) -> Campaign | None:
    """The latest campaign; None if there is no file. RunDirectoryError if it cannot be read."""
    try:
        return msgspec.json.decode(directory.attacks.read_bytes(), type=Campaign)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as problem:
        raise RunDirectoryError(f"{directory.attacks} cannot be read: {problem}; attack again without it") from None


def keep(directory: RunDirectory, version: str, trials: Sequence[Trial]) -> None:
    """Write a campaign into the file, in place of an earlier one."""
    facts = asdict(Campaign(version, tuple(trials)))
    write_durably(directory.attacks, (json.dumps(facts, indent=2, allow_nan=False) + "\n").encode())
