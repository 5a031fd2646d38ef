"""What a run has measured so far: sums that survive in its checkpoints, and the summary made from them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from fgrpo_secure.learning.evaluation import Score
from fgrpo_secure.learning.pass_rates import Exam
from fgrpo_secure.server.federation import Federation, RoundResult
from fgrpo_secure.storage.checkpoint import Checkpoint
from fgrpo_secure.storage.run_directory import RoundMetrics


@dataclass
class Sums:
    """Totals over the finished rounds. Times are processor seconds of the server itself."""

    up: int = 0
    down: int = 0
    participations: int = 0
    dropouts: int = 0
    failed_sessions: int = 0
    server: float = 0.0
    examinations: float = 0.0


@dataclass
class RunRecord:
    """Grows with every round; `stopped` says why a run ended early, `examined` after how many rounds `final` is from,
    `last` is the newest round's line for metrics.jsonl."""

    rounds_done: int = 0
    initial: Exam | None = None
    final: Exam | None = None
    examined: int = 0
    stopped: str | None = None
    last: RoundMetrics | None = None
    sums: Sums = field(default_factory=Sums)

    def add(self, result: RoundResult, failed: int, epsilon: float | None) -> RoundMetrics:
        """Count one finished round; its line for metrics.jsonl, which nobody examined yet."""
        survivors, cohort = len(result.recovered.survivors), result.cohort
        up, down = sum(result.traffic.up.values()), sum(result.traffic.down.values())
        sums = self.sums
        sums.up += up
        sums.down += down + cohort * result.adapter_bytes
        sums.participations += cohort
        sums.dropouts += cohort - survivors
        sums.failed_sessions += failed
        sums.server += result.seconds_server
        self.last = RoundMetrics(
            round=self.rounds_done,
            session=result.session_number,
            survivors=survivors,
            dropped=cohort - survivors,
            failed_sessions=failed,
            mean_weight=result.conclusion.mean.mean_weight,
            mean_gain=result.conclusion.mean.mean_gain,
            clip_norm=result.clip_norm,
            fraction_within=result.conclusion.fraction_within,
            update_norm=float(np.linalg.norm(result.conclusion.mean.update)),
            epsilon_spent=epsilon,
            bytes_up_per_client=round(up / cohort),
            bytes_down_per_client=round(down / cohort) + result.adapter_bytes,
            seconds_server=result.seconds_server,
        )
        return self.last

    def examine(self, exam: Exam | None) -> None:
        """The figures of the adapter after the rounds so far; None if they could not be had."""
        self.final, self.examined = exam, self.rounds_done
        if self.last is not None and exam is not None:
            score = exam.overall
            self.last = replace(
                self.last, reward=score.reward, pass_rate=score.pass_rate, pass_rate_greedy=score.greedy
            )

    def checkpoint(self, federation: Federation) -> Checkpoint:
        """Everything that a resumed run needs."""
        progress = {
            "rounds_done": self.rounds_done,
            "initial": self.initial and asdict(self.initial),
            "final": self.final and asdict(self.final),
            "examined": self.examined,
            "last": self.last and asdict(self.last),
            "sums": asdict(self.sums),
            "shares": list(federation.shares),
        }
        state = federation.optimizer.state() | federation.average.state()
        return Checkpoint(self.rounds_done, federation.adapted.full_state(), state, progress)

    @staticmethod
    def load(progress: Mapping[str, Any]) -> "RunRecord":
        """The record that a checkpoint holds."""
        return RunRecord(
            rounds_done=progress["rounds_done"],
            initial=_exam(progress["initial"]),
            final=_exam(progress["final"]),
            examined=progress["examined"],
            last=progress["last"] and RoundMetrics(**progress["last"]),
            sums=Sums(**progress["sums"]),
        )

    def asserted(self) -> dict[str, Any]:
        """What only the server knows of a summary, by its public names: results, and what it measured of itself."""
        if self.initial is None:
            raise ValueError("a run without a first examination has no summary")
        before, after, sums = self.initial.overall, self.final and self.final.overall, self.sums
        return {
            "reward.initial": before.reward,
            "reward.final": after and after.reward,
            "pass_rate.initial": before.pass_rate,
            "pass_rate.final": after and after.pass_rate,
            "pass_rate.greedy_initial": before.greedy,
            "pass_rate.greedy_final": after and after.greedy,
            "bytes.up_per_client_per_round": round(sums.up / max(1, sums.participations)),
            "bytes.down_per_client_per_round": round(sums.down / max(1, sums.participations)),
            "seconds.total": sums.server + sums.examinations,
            "seconds.aggregation": sums.server,
        }

    def counts(self) -> dict[str, int]:
        """What a run without a ledger lost on the way, by the server's own count."""
        return {"dropouts": self.sums.dropouts, "failed_sessions": self.sums.failed_sessions}


def _exam(stored: Mapping[str, Any] | None) -> Exam | None:
    if stored is None:
        return None
    tasks = {task: Score(**score) for task, score in stored["tasks"].items()}
    return Exam(Score(**stored["overall"]), tasks)
