"""What an owner sees of its own rounds: a line of JSON for each, in a file beside its log that nobody else reads.

All of it depends on its data and is paid for by nothing, so none of it may leave: `fgrpo client watch` shows it.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from transformers import PreTrainedTokenizerBase

from fgrpo_secure.client.foreign_training import Taught
from fgrpo_secure.config.schema import Client
from fgrpo_secure.errors import printable
from fgrpo_secure.learning.grpo.local_update import PromptGroups, Tally
from fgrpo_secure.plan.round_settings import RoundSettings

SUFFIX = ".rounds.jsonl"
LONGEST_TEXT = 300  # characters of a prompt or of a completion
FAR = 10.0  # times the clip norm, from which on the clip leaves little of a step's length


class Completion(msgspec.Struct, frozen=True):
    """What the model made of one of the owner's prompts: on one line each, cut where they are long."""

    prompt: str
    text: str
    reward: float
    cut_off: bool

    def __repr__(self) -> str:
        return "Completion(...)"  # secret


class RoundView(msgspec.Struct, frozen=True):
    """One round at one owner. `differing` of `prompts` had completions with different rewards: only those teach.

    `entropy` and `kl` are means over tokens, in nats; `kl` is None without a KL term, `clip_ratio` without a second
    iteration, where no ratio can leave its range. `norm` is the length of what the clip norm cuts, on average: of the
    update, or of one unit's gradient. `completions` are those with the most and the least reward of one prompt.

    `trainer` is the name of one of the owner's own. What that does not say is None: TRL's says most, as means over the
    round's steps, a function what it returned. `reward_spread` is the deviation of a batch's rewards, `seconds` are the
    trainer's.
    """

    round: int
    reward: float | None
    reward_low: float | None
    reward_high: float | None
    prompts: int
    differing: int | None
    length: float | None
    cut_off: float | None
    entropy: float | None
    kl: float | None
    clip_ratio: float | None
    norm: float
    clip_norm: float
    completions: tuple[Completion, ...] = ()
    reward_spread: float | None = None
    seconds: float | None = None
    trainer: str = ""

    def __repr__(self) -> str:
        return f"RoundView(round={self.round}, ...)"  # secret but for its number

    def warning(self) -> str:
        """What the owner should know of a round that taught little; empty of any other."""
        if self.differing == 0:
            return "no prompt had two different rewards: nothing was learnt from this data"
        if self.norm == 0:
            return "the update was zero: noise was sent and nothing else"
        if self.norm > FAR * self.clip_norm:
            return f"the update was {self.norm / self.clip_norm:.0f} times as long as the clip lets through"
        return ""


def of(
    groups: Sequence[PromptGroups], tally: Tally, tokenizer: PreTrainedTokenizerBase, settings: RoundSettings
) -> RoundView:
    """The view of a round that the built-in loop trained on `groups`: those of a step, or of a unit, in each."""
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
        norm=float(np.mean(tally.lengths or [0.0])),
        clip_norm=settings.clip_norm,
        completions=_most_apart(groups, tokenizer),
    )


def of_trainer(client: Client, taught: Taught, settings: RoundSettings, seconds: float) -> RoundView:
    """The view of a round that the owner's own trainer taught."""
    log, prompts = taught.log, settings.local_steps * settings.grpo.prompts_per_step
    return RoundView(
        round=settings.training_round + 1,
        reward=log.get("reward"),
        reward_low=log.get("reward_low"),
        reward_high=log.get("reward_high"),
        prompts=prompts,
        differing=round(prompts * (1 - log["alike"])) if "alike" in log else None,
        length=log.get("length"),
        cut_off=log.get("cut_off"),
        entropy=log.get("entropy"),
        kl=log.get("kl"),
        clip_ratio=log.get("clip_ratio"),
        norm=float(np.linalg.norm(taught.update)),
        clip_norm=settings.clip_norm,
        reward_spread=log.get("reward_spread"),
        seconds=seconds,
        trainer=printable((client.trainer or "").rpartition("/")[2]),
    )


def _most_apart(groups: Sequence[PromptGroups], tokenizer: PreTrainedTokenizerBase) -> tuple[Completion, ...]:
    """Best and worst completion of the prompt whose rewards differ most: what the round could learn from."""
    spreads = [
        (float(paid.max() - paid.min()), at, prompt)
        for at, each in enumerate(groups)
        for prompt, paid in enumerate(each.rewards)
        if np.isfinite(paid).all()
    ]
    _, at, prompt = max(spreads)
    rollouts, paid = groups[at].rollouts, groups[at].rewards[prompt]
    kept = rollouts.prompt_ids[prompt][rollouts.prompt_mask[prompt].bool()].tolist()
    (asked,) = tokenizer.batch_decode([kept], skip_special_tokens=True)
    chosen = dict.fromkeys((int(paid.argmax()), int(paid.argmin())))
    return tuple(
        Completion(
            _short(asked), _short(rollouts.completions[place]), float(paid[number]), bool(rollouts.truncated[place])
        )
        for number in chosen
        for place in [prompt * len(paid) + number]
    )


def _short(text: str) -> str:
    return printable(text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}...")


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
            file.write(msgspec.json.encode(view).decode() + "\n")


def read(log: Path) -> Iterator[RoundView]:
    """The rounds that were kept, oldest first; lines that a crash cut short are left out."""
    path = path_beside(log)
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        with contextlib.suppress(msgspec.DecodeError):
            yield msgspec.json.decode(line, type=RoundView)
