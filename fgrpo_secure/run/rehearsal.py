"""One step of an owner's round on its own machine, before it joins: what the model writes, what rewards pay, the cost.

Everything here is for the owner of the data: prompts and completions stand in the lines. Nothing is sent, charged or
kept. A round does the same with other draws, `federation.local_steps` times.
"""

import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgrpo_secure import entropy
from fgrpo_secure.client.boundary import UnusableRound, contained
from fgrpo_secure.config.schema import Client, Config
from fgrpo_secure.config.unit_rules import SMALL_UNITS
from fgrpo_secure.errors import printable
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.grpo import local_update, rewards, rollouts
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.grpo.local_update import PromptGroups
from fgrpo_secure.learning.grpo.rewards import RewardError, RewardFunction
from fgrpo_secure.learning.tasks import Row
from fgrpo_secure.plan.cost import PrivacyPlan
from fgrpo_secure.run import inputs

SHOWN_PROMPTS, SHOWN_COMPLETIONS, SHOWN_CHARACTERS = 3, 2, 300
MOSTLY = 0.5


@dataclass(frozen=True)
class Rehearsal:
    """What one step came to. `paid` has shape (functions, completions), `total` (prompts, completions). Secret."""

    prompts: Sequence[Any] = field(repr=False)
    drawn: rollouts.Rollouts = field(repr=False)
    names: Sequence[str]
    paid: NDArray[np.float64] = field(repr=False)
    total: NDArray[np.float64] = field(repr=False)
    norm: float = field(repr=False)
    seconds: dict[str, float] = field(repr=False)
    rows: int  # that the client has
    trainer: str | None = None  # what trains in a round in place of the built-in loop, which trained here

    @property
    def groups_that_differ(self) -> int:
        """Prompts whose completions were not all paid the same: only those teach anything."""
        whole = self.total[np.isfinite(self.total).all(axis=1)]
        return int((whole.max(axis=1) > whole.min(axis=1)).sum()) if whole.size else 0


def rehearse(config: Config, adapted: AdaptedModel, client: Client) -> Rehearsal:
    """One step on the first rows of `client`. The adapter is as before then. Raises UnusableData or RewardError."""
    everything = inputs.rows(config, client)
    rows = everything[: config.grpo.prompts_per_step]
    functions = inputs.check_rewards(client, rows)
    try:
        return contained(partial(_step, config, adapted, client, rows, functions, len(everything)))
    except UnusableRound as problem:
        raise RewardError(f"client {client.name!r}: {problem}") from None


def _step(
    config: Config,
    adapted: AdaptedModel,
    client: Client,
    rows: Sequence[Row],
    functions: Sequence[RewardFunction],
    held: int,
) -> Rehearsal:
    asked = [row["prompt"] for row in rows]
    columns = {key: [row.get(key) for row in rows] for row in rows for key in row if key != "prompt"}
    times = [entropy.stopwatch()]
    drawn = rollouts.sample(adapted, asked, config.grpo, Streams(config.run.seed))
    times.append(entropy.stopwatch())
    said = asked, drawn.completions, drawn.completion_ids, columns, {"global_step": 0}
    paid = rewards.table(functions, *said)
    total = client.reward_scale * rewards.weighted(paid, client.reward_weights).reshape(len(asked), -1)
    rewards.marked(total)
    times.append(entropy.stopwatch())
    groups = PromptGroups(drawn, total)
    update = local_update.run(adapted, lambda _: groups, config.grpo, 0, 1)
    times.append(entropy.stopwatch())
    seconds = dict(zip(("sampling", "rewards", "training"), np.diff(times).tolist(), strict=True))
    names = [str(spec) for spec in client.rewards]
    return Rehearsal(asked, drawn, names, paid, total, float(np.linalg.norm(update)), seconds, held, client.trainer)


def lines(found: Rehearsal, config: Config, privacy: PrivacyPlan | None) -> Iterator[str]:
    """The rehearsal in words, for its owner; `privacy` is what the plan came to, if there is one."""
    yield from _samples(found)
    yield ""
    group = found.total.shape[1]
    for name, paid in zip(found.names, found.paid, strict=True):
        marked = paid[np.isfinite(paid)]
        said = f"mean {marked.mean():.3g}, {marked.min():.3g} to {marked.max():.3g}" if marked.size else "nothing"
        yield f"reward {_reward_name(name)}: {said}; {paid.size - marked.size} of {paid.size} not marked"
    yield f"spread: {found.groups_that_differ} of {len(found.total)} prompts have completions with different rewards"
    if not found.groups_that_differ:
        yield "  no group has two different rewards: nothing to learn from; pay for a part, or take easier prompts"
    if found.rows < config.grpo.prompts_per_step and config.privacy.unit not in SMALL_UNITS:
        yield (
            f"  rows: {found.rows}, fewer than the {config.grpo.prompts_per_step} prompts of a step: they repeat "
            "within it; add rows, or lower grpo.prompts_per_step"
        )
    yield from _lengths(found)
    if found.trainer is not None:
        trainer = found.trainer.rsplit("/", 1)[-1]
        yield f"trained here by the built-in loop; in a round by {trainer}, whose cost is its own"
    steps = config.federation.local_steps
    spent = ", ".join(f"{name} {seconds:.2f}" for name, seconds in found.seconds.items())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    yield f"a step of {len(found.total)} x {group}: {sum(found.seconds.values()):.2f} s ({spent}); {memory:.2f} GiB"
    yield f"a round here: about {steps * sum(found.seconds.values()):.1f} s for {steps} local steps"
    yield from _signal(found, config, privacy)


def _samples(found: Rehearsal) -> Iterator[str]:
    group = found.total.shape[1]
    for number, prompt in enumerate(found.prompts[:SHOWN_PROMPTS]):
        yield f"prompt {number + 1}: {_shown(prompt)}"
        for place in range(number * group, number * group + min(group, SHOWN_COMPLETIONS)):
            pay = ", ".join(f"{paid:.3g}" for paid in found.paid[:, place])
            cut = " (cut off)" if bool(found.drawn.truncated[place]) else ""
            yield f"    [{pay}] {_shown(found.drawn.completions[place])}{cut}"


def _lengths(found: Rehearsal) -> Iterator[str]:
    lengths, cut = [len(ids) for ids in found.drawn.completion_ids], int(found.drawn.truncated.sum())
    yield f"completions: {min(lengths)} to {max(lengths)} tokens, {cut} of {len(lengths)} cut off"
    empty = sum(not text.strip() for text in found.drawn.completions)
    if empty > MOSTLY * len(lengths):
        yield (
            f"  {empty} of them have no text, of which a reward sees nothing: write prompts in the form that the model "
            "was trained on (grpo.prompts)"
        )
    if cut > MOSTLY * len(lengths):
        yield "  most are cut off: raise grpo.max_completion_length, or set grpo.stop to what ends an answer"


def _signal(found: Rehearsal, config: Config, privacy: PrivacyPlan | None) -> Iterator[str]:
    clip = config.privacy.clip_norm
    clipped = f"clipped to {clip:g}" if found.norm > clip else f"within the clip of {clip:g}"
    yield f"update: norm {found.norm:.3g}, {clipped}"
    if found.norm == 0:
        yield "  it is zero: this client would send noise and nothing else"
    if privacy is not None and privacy.useful_dimension is not None:
        yield (
            f"privacy: the adapter trains {privacy.trained:,} coordinates, the noise leaves room for "
            f"{privacy.useful_dimension:,.0f}: {privacy.verdict}"
        )


def _reward_name(name: str) -> str:
    return "of the task" if name == "None" else name.rsplit("/", 1)[-1]


def _shown(said: Any) -> str:
    """On one line, what cannot be printed escaped, not too long."""
    text = said if isinstance(said, str) else " | ".join(f"{each['role']}: {each['content']}" for each in said)
    safe = printable(text)
    return safe if len(safe) <= SHOWN_CHARACTERS else f"{safe[:SHOWN_CHARACTERS]}..."
