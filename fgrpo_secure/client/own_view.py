"""What an owner sees of its own rounds: a line of JSON for each, in a file beside its log that nobody else reads.

All of it depends on its data and is paid for by nothing, so none of it may leave: `fgrpo client watch` shows it.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fgrpo_secure.learning.grpo.local_update import PromptGroups, Tally
from fgrpo_secure.plan.round_settings import RoundSettings

SUFFIX = ".rounds.jsonl"
FAR = 10.0  # times the clip norm, from which on the clip leaves little of a step's length


class RoundView(msgspec.Struct, frozen=True):
    """One round at one owner. `differing` of `prompts` had completions with different rewards: only those teach.

    `entropy` and `kl` are means over tokens, in nats; `kl` is None without a KL term, `clip_ratio` without a second
    iteration, where no ratio can leave its range.
    """

    round: int
    reward: float
    reward_low: float
    reward_high: float
    prompts: int
    differing: int
    length: float
    cut_off: float
    entropy: float
    kl: float | None
    clip_ratio: float | None
    norm: float
    clip_norm: float

    def warning(self) -> str:
        """What the owner should know of a round that taught little; empty of any other."""
        if self.differing == 0:
            return "no prompt had two different rewards: nothing was learnt from this data"
        if self.norm == 0:
            return "the update was zero: noise was sent and nothing else"
        if self.norm > FAR * self.clip_norm:
            return f"the update was {self.norm / self.clip_norm:.0f} times as long as the clip lets through"
        return ""


def of(groups: Sequence[PromptGroups], tally: Tally, update: NDArray[np.float64], settings: RoundSettings) -> RoundView:
    """The view of a round that the built-in loop trained on `groups`, a step each."""
    paid = np.concatenate([each.rewards for each in groups])
    # A row with one reward that is no number taught nothing: the objective left it out as well.
    whole = paid[np.isfinite(paid).all(axis=1)]
    lengths = np.concatenate([each.rollouts.mask.sum(1).double().cpu().numpy() for each in groups])
    cut = np.concatenate([each.rollouts.truncated.double().cpu().numpy() for each in groups])
    tokens = max(1.0, tally.tokens)
    return RoundView(
        round=settings.training_round + 1,
        reward=float(whole.mean()),
        reward_low=float(whole.min()),
        reward_high=float(whole.max()),
        prompts=len(paid),
        differing=int((whole.max(axis=1) > whole.min(axis=1)).sum()),
        length=float(lengths.mean()),
        cut_off=float(cut.mean()),
        entropy=tally.surprise / tokens,
        kl=tally.divergence / tokens if settings.grpo.beta > 0 else None,
        clip_ratio=tally.clipped / tally.ratios if tally.ratios else None,
        norm=float(np.linalg.norm(update)),
        clip_norm=settings.clip_norm,
    )


def path_beside(log: Path) -> Path:
    """Where the rounds of the owner with this log are kept."""
    return log.with_suffix(SUFFIX)


def append(log: Path, view: RoundView) -> None:
    """Keep a round. What cannot be written is left out: a full disk must not end a run."""
    with contextlib.suppress(OSError):
        path = path_beside(log)
        # Before the first byte is in it: rewards are the owner's alone, on a machine that others may use.
        path.touch(mode=0o600)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(msgspec.structs.asdict(view)) + "\n")


def read(log: Path) -> Iterator[RoundView]:
    """The rounds that were kept, oldest first; lines that a crash cut short are left out."""
    path = path_beside(log)
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        with contextlib.suppress(msgspec.DecodeError):
            yield msgspec.json.decode(line, type=RoundView)
