"""What a report shows of one run: documents that were verified, and what they were computed from.

Nothing is read from the directory here but `audit.json` and `attacks.json`, which are nobody's word: everything else
comes from whoever has just verified it, or has just written it from what it signed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fgrpo_secure.evidence import attacks, audits
from fgrpo_secure.evidence import statement_form as form
from fgrpo_secure.evidence.attacks import Campaign
from fgrpo_secure.evidence.audits import Audit
from fgrpo_secure.evidence.statement import Basis
from fgrpo_secure.evidence.verify import Evidence, need
from fgrpo_secure.plan import round_settings
from fgrpo_secure.privacy.encode import SCORE_SCALE
from fgrpo_secure.server.optimizer import denominator_kind, denominator_of
from fgrpo_secure.storage import digests
from fgrpo_secure.storage.run_directory import RunDirectory


@dataclass(frozen=True)
class Verified:
    """That the run was verified before this was drawn. Which keys were known from elsewhere, and what was measured."""

    authority_known: bool
    server_known: bool
    measured: str | None = None


@dataclass(frozen=True)
class RunFacts:
    """One run. `rounds` are the lines of metrics.jsonl, `digests` those of its files.

    `verified` is None where the server draws the report of the run that it has just ended.
    """

    basis: Basis
    stated: form.Statement
    summary: Mapping[str, Any]
    rounds: tuple[Mapping[str, Any], ...]
    digests: Mapping[str, str]
    verified: Verified | None = None
    audits: Mapping[str, Audit] = field(default_factory=dict)
    attacks: Campaign | None = None

    @property
    def name(self) -> str:
        """The run's name."""
        return self.stated.run.name

    @property
    def private(self) -> bool:
        """Whether the run has differential privacy."""
        return self.stated.claims is not None

    @property
    def unit(self) -> str:
        """Whom the guarantee is for, in words."""
        return self.stated.unit.replace("_", " ")

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """(rounds, values) of one metric, where it was measured."""
        points = [(int(line["round"]), float(line[key])) for line in self.rounds if line.get(key) is not None]
        return [round_number for round_number, _ in points], [value for _, value in points]

    def noise_multipliers(self) -> list[float | None]:
        """The noise really present in the session of each finished round.

        None without privacy, and where a round's charge is not that of one sum: with secret sampling, and where
        clients add noise at each of their steps.
        """
        mechanism = self.stated.mechanism
        if mechanism is None or mechanism.mode == "local" or mechanism.sampling is not None:
            return [None for _ in self.rounds]
        by_session = {
            each.session_number: each.noise_multiplier for each in self.stated.rounds if each.outcome == "settled"
        }
        return [by_session.get(line["session"]) for line in self.rounds]

    def noise_norms(self) -> list[float | None]:
        """The expected norm of the noise in each round's mean update; None where its noise is not one sum's."""
        config = self.basis.config
        found = []
        for z, line in zip(self.noise_multipliers(), self.rounds, strict=True):
            kind = denominator_kind(config.weighting, self.private, line["survivors"])
            weights = line["survivors"] * line["mean_weight"]
            divisor = denominator_of(kind, config.weighting, line["survivors"], weights)
            dimension = self.basis.planner.shape.dimension(line["round"] - 1)
            found.append(None if z is None else noise_norm(z, line["clip_norm"], dimension, self.scores, divisor))
        return found

    @property
    def scores(self) -> int:
        """How many hidden scalars stand beside an update."""
        return round_settings.score_count(self.basis.config.privacy.adaptive_clip)

    def score_deviations(self, half_range: float) -> list[float | None]:
        """The noise's standard deviation in a mean score of that half range: z sqrt(1 + m s^2) half / (s survivors)."""
        factor = joint(self.scores) * half_range / SCORE_SCALE
        return [
            None if z is None else z * factor / line["survivors"]
            for z, line in zip(self.noise_multipliers(), self.rounds, strict=True)
        ]


def joint(scores: int) -> float:
    """The joint bound over the clip norm: of the update and `scores` coordinates of score_scale each."""
    return math.sqrt(1 + scores * SCORE_SCALE**2)


def noise_norm(multiplier: float, clip_norm: float, dimension: int, scores: int, divisor: float) -> float:
    """z C sqrt(1 + m s^2) sqrt(d) / divisor: of noise in a mean update of `dimension` coordinates."""
    return multiplier * clip_norm * joint(scores) * math.sqrt(dimension) / divisor


def of_verified(evidence: Evidence, measured: str | None = None) -> RunFacts:
    """The facts of a run of which every check held. `measured`: what `--evaluate` found, where it was asked for."""
    trust, directory = evidence.trust, evidence.directory
    return RunFacts(
        basis=need(evidence.basis),
        stated=need(evidence.stated),
        summary=need(evidence.summary),
        rounds=evidence.metrics,
        digests=evidence.digests | unsigned(directory),
        verified=Verified(trust.authority is not None, trust.server is not None, measured),
        audits=audits.read(directory),
        attacks=attacks.read(directory),
    )


def unsigned(directory: RunDirectory) -> dict[str, str]:
    """Digests of the files that no manifest names, because they are made after a run, too."""
    present = [path for path in (directory.audits, directory.attacks) if path.is_file()]
    return {path.name: digests.of_file(path) for path in present}
