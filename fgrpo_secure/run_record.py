"""What a run has measured so far: sums that survive in its checkpoints, and the summary made from them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from fgrpo_secure import run_plan
from fgrpo_secure.checkpoint import Checkpoint
from fgrpo_secure.evaluation import Score
from fgrpo_secure.examination import Exam
from fgrpo_secure.federation import Federation, RoundResult
from fgrpo_secure.run_directory import RoundMetrics


@dataclass
class Sums:
    """Totals over the finished rounds. Times of owners are processor seconds; the others are wall-clock ones."""

    up: int = 0
    down: int = 0
    participations: int = 0
    dropouts: int = 0
    failed_sessions: int = 0
    seconds: float = 0.0
    seconds_rollouts: float = 0.0
    seconds_training: float = 0.0
    seconds_aggregation: float = 0.0
    slowest_training: float = 0.0
    slowest_privacy: float = 0.0
    server: float = 0.0


@dataclass
class RunRecord:
    """Grows with every round; `stopped` says why a run ended early."""

    rounds_done: int = 0
    initial: Exam | None = None
    final: Exam | None = None
    stopped: str | None = None
    sums: Sums = field(default_factory=Sums)

    def add(
        self, result: RoundResult, failed: int, exam: Exam | None, epsilon: float | None, seconds: float
    ) -> RoundMetrics:
        """Count one finished round; its line for metrics.jsonl."""
        survivors, cohort = len(result.recovered.survivors), result.cohort
        up, down = sum(result.traffic.up.values()), sum(result.traffic.down.values())
        costs, sums = result.costs, self.sums
        sums.up += up
        sums.down += down + cohort * result.adapter_bytes
        sums.participations += cohort
        sums.dropouts += cohort - survivors
        sums.failed_sessions += failed
        sums.seconds += seconds
        sums.seconds_rollouts += costs.rollouts_total
        sums.seconds_training += costs.training_total
        sums.seconds_aggregation += costs.privacy_total + result.seconds_server
        sums.slowest_training += costs.training_slowest
        sums.slowest_privacy += costs.privacy_slowest
        sums.server += result.seconds_server
        self.final = exam or self.final
        score = None if exam is None else exam.overall
        return RoundMetrics(
            round=self.rounds_done,
            session=result.session_number,
            survivors=survivors,
            dropped=cohort - survivors,
            failed_sessions=failed,
            mean_weight=result.conclusion.mean.mean_weight,
            mean_gain=result.conclusion.mean.mean_gain,
            clip_norm=result.clip_norm,
            share_within=result.conclusion.share_within,
            update_norm=float(np.linalg.norm(result.conclusion.mean.update)),
            epsilon_spent=epsilon,
            bytes_up_per_client=round(up / cohort),
            bytes_down_per_client=round(down / cohort) + result.adapter_bytes,
            seconds=seconds,
            seconds_training=costs.training_total,
            seconds_aggregation=costs.privacy_total + result.seconds_server,
            reward=None if score is None else score.reward,
            pass_rate=None if score is None else score.pass_rate,
            pass_rate_greedy=None if score is None else score.greedy,
        )

    def checkpoint(self, federation: Federation) -> Checkpoint:
        """Everything that a resumed run needs."""
        progress = {
            "rounds_done": self.rounds_done,
            "initial": self.initial and asdict(self.initial),
            "final": self.final and asdict(self.final),
            "sums": asdict(self.sums),
            "shares": list(federation.shares),
        }
        state = federation.optimizer.state() | federation.average.state()
        return Checkpoint(self.rounds_done, federation.policy.full_state(), state, progress)

    @staticmethod
    def load(progress: Mapping[str, Any]) -> "RunRecord":
        """The record that a checkpoint holds."""
        return RunRecord(
            rounds_done=progress["rounds_done"],
            initial=_exam(progress["initial"]),
            final=_exam(progress["final"]),
            sums=Sums(**progress["sums"]),
        )

    def summary(self, federation: Federation) -> dict[str, Any]:
        """The object of summary.json: keys are dotted names, values public or charged."""
        if self.initial is None or self.final is None:
            raise ValueError("a run without examinations has no summary")
        before, after = self.initial.overall, self.final.overall
        facts = federation.privacy.facts()
        config, sums = federation.config, self.sums
        return {
            "name": config.run.name,
            "rounds": self.rounds_done,
            "clients": config.clients_total,
            "stopped": self.stopped,
            "reproducible_entropy": config.run.entropy == "seeded",
            "secure_aggregation": _aggregation(federation),
            "warnings": facts["warnings"],
            "differential_privacy": config.privacy.unit if config.privacy.unit != "none" else "no differential privacy",
            "reward.initial": before.reward,
            "reward.final": after.reward,
            "pass_rate.initial": before.pass_rate,
            "pass_rate.final": after.pass_rate,
            "pass_rate.greedy_initial": before.greedy,
            "pass_rate.greedy_final": after.greedy,
            **{
                key: value for key, value in facts.items() if key.split(".")[0] in ("privacy", "aggregation", "adapter")
            },
            **run_plan.crosscheck(federation.privacy),
            "privacy.epsilon_spent": federation.epsilon_spent(),
            "weighting.rule": config.weighting.rule,
            "bytes.up_per_client_per_round": round(sums.up / max(1, sums.participations)),
            "bytes.down_per_client_per_round": round(sums.down / max(1, sums.participations)),
            "dropouts": sums.dropouts,
            "failed_sessions": sums.failed_sessions,
            "seconds.total": sums.seconds,
            "seconds.rollouts": sums.seconds_rollouts,
            "seconds.training": sums.seconds_training - sums.seconds_rollouts,
            "seconds.aggregation": sums.seconds_aggregation,
            "simulation_only": self._simulation_only(),
        }

    def _simulation_only(self) -> dict[str, Any]:
        """Figures that exist because everybody ran on one machine: outside every claim."""
        rounds = max(1, self.rounds_done)
        final = self.final.tasks if self.final else {}
        initial = self.initial.tasks if self.initial else {}
        return {
            "note": "simulation only, outside the claim",
            "seconds.slowest_client_training_per_round": self.sums.slowest_training / rounds,
            "seconds.slowest_client_privacy_per_round": self.sums.slowest_privacy / rounds,
            "seconds.server_per_round": self.sums.server / rounds,
            "pass_rate.initial_by_task": {task: asdict(score) for task, score in initial.items()},
            "pass_rate.final_by_task": {task: asdict(score) for task, score in final.items()},
        }


def _aggregation(federation: Federation) -> str:
    return "no secure aggregation" if federation.privacy.trusted_server else "secure aggregation"


def _exam(stored: Mapping[str, Any] | None) -> Exam | None:
    if stored is None:
        return None
    tasks = {task: Score(**score) for task, score in stored["tasks"].items()}
    return Exam(Score(**stored["overall"]), tasks)
