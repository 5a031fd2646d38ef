"""What a report shows, read from a run directory. Everything is charged or public; what is not says so."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fgrpo_secure import config_file, round_settings
from fgrpo_secure.apply import denominator_kind
from fgrpo_secure.config import Config
from fgrpo_secure.evidence import attacks, audits, signed_file
from fgrpo_secure.evidence.attacks import Campaign
from fgrpo_secure.evidence.audits import Audit
from fgrpo_secure.evidence.signed_file import BadFile
from fgrpo_secure.gain import reference_weight
from fgrpo_secure.privacy.encode import SCORE_SCALE
from fgrpo_secure.run_directory import RunDirectory, RunDirectoryError


@dataclass(frozen=True)
class RunFacts:
    """One run. `rounds` are the lines of metrics.jsonl."""

    summary: Mapping[str, Any]
    rounds: tuple[Mapping[str, Any], ...]
    statement: Mapping[str, Any]
    config: Config
    audits: Mapping[str, Audit] = field(default_factory=dict)
    attacks: Campaign | None = None

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.summary["name"])

    @property
    def private(self) -> bool:
        """Whether the run has differential privacy."""
        return self.statement["claims"] is not None

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """(rounds, values) of one metric, where it was measured."""
        points = [(int(line["round"]), float(line[key])) for line in self.rounds if line.get(key) is not None]
        return [round_number for round_number, _ in points], [value for _, value in points]

    def noise_multipliers(self) -> list[float | None]:
        """The noise really present in the session of each finished round.

        None without privacy, and where a round's charge is not that of one sum: with secret sampling, and where
        clients add noise at each of their steps.
        """
        mechanism = self.statement["mechanism"]
        if mechanism is None or mechanism["mode"] == "local" or mechanism["sampling"] is not None:
            return [None for _ in self.rounds]
        settled = [each for each in self.statement["rounds"] if each["outcome"] == "settled"]
        by_round = {each["round"]: each["noise_multiplier"] for each in settled}
        return [by_round.get(line["session"]) for line in self.rounds]

    def noise_norms(self) -> list[float | None]:
        """The expected norm of the noise in each round's mean update: z C sqrt(1 + m s^2) sqrt(d) / denominator."""
        if not self.private:
            return [None for _ in self.rounds]
        whole = self._joint * math.sqrt(self.summary["adapter.dimension"])
        return [
            None if z is None else z * line["clip_norm"] * whole / self._denominator(line)
            for z, line in zip(self.noise_multipliers(), self.rounds, strict=True)
        ]

    @property
    def _joint(self) -> float:
        """The joint bound over the clip norm: of the update and m coordinates of score_scale s each."""
        return math.sqrt(1 + round_settings.score_count(self.config.privacy.adaptive_clip) * SCORE_SCALE**2)

    def _denominator(self, line: Mapping[str, Any]) -> float:
        """What the server divided the noisy sum by: the noisy sum of weights, or its public expectation."""
        kind = denominator_kind(self.config.weighting, self.private, line["survivors"])
        public = kind == "public"
        weight = reference_weight(self.config.weighting) if public else line["mean_weight"]
        return float(line["survivors"] * weight)

    def score_deviations(self, half_range: float) -> list[float | None]:
        """The noise's standard deviation in a mean score of that half range: z sqrt(1 + m s^2) half / (s survivors)."""
        factor = self._joint * half_range / SCORE_SCALE
        return [
            None if z is None else z * factor / line["survivors"]
            for z, line in zip(self.noise_multipliers(), self.rounds, strict=True)
        ]


def read(directory: RunDirectory) -> RunFacts:
    """The facts of a finished run; RunDirectoryError naming what is missing or unreadable."""
    directory.require()
    try:
        summary = json.loads(directory.summary.read_text())
        statement = signed_file.read(directory.statement)
        rounds = tuple(directory.read_metrics()) if directory.metrics.exists() else ()
        config = config_file.load(str(directory.config))
        _ = summary["name"], summary["rounds"], statement["claims"]
    except FileNotFoundError as problem:
        raise RunDirectoryError(
            f"{directory.root} has no finished run: {problem.filename} is missing; continue it with --resume"
        ) from None
    except BadFile as problem:
        raise RunDirectoryError(f"{directory.root} cannot be reported: {problem}") from None
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise RunDirectoryError(f"{directory.root} cannot be reported: {problem}; is it of another version?") from None
    return RunFacts(summary, rounds, statement, config, audits.read(directory), attacks.read(directory))
