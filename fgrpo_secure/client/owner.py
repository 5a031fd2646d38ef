"""One data owner's private side: its prompts, rewards, reward history and what it trains for.

Nothing here is shown to anybody else. A failure that depends on the owner's data (a reward that returns NaN, a bad
row, a prompt that does not fit, training that diverges) is an `UnusableRound`: the owner writes the reason into its
own log and contributes nothing but noise, so that nobody can tell.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fgrpo_secure import entropy, gain
from fgrpo_secure.client import foreign_training, own_view
from fgrpo_secure.client.boundary import UnusableRound, contained, silence
from fgrpo_secure.config.own_file import OwnFile
from fgrpo_secure.config.schema import Client
from fgrpo_secure.config.unit_rules import SMALL_UNITS
from fgrpo_secure.errors import printable
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.grpo import local_update, rewards, rollouts, unit_gradients
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.grpo.isolated_reward import IsolatedReward, Limits
from fgrpo_secure.learning.grpo.local_update import PromptGroups, Tally
from fgrpo_secure.learning.grpo.moments import Moments
from fgrpo_secure.learning.grpo.rewards import RewardError, RewardFunction
from fgrpo_secure.learning.tasks import Row, Source, UnitTable, UnusableData, open_source, open_units, reward_of
from fgrpo_secure.plan.round_settings import RoundSettings
from fgrpo_secure.privacy.clip import Update

Made = TypeVar("Made")
LEFT_OUT_SHOWN = 100  # lines of a data file, each by its number and reason


@dataclass(frozen=True)
class Trained:
    """What local training gives: the update and the first rollouts' rewards. Secret."""

    update: NDArray[np.float64] = field(repr=False)
    observation: gain.Observation = field(repr=False)
    seconds_rollouts: float = field(default=0.0, repr=False)
    moments: bytes = field(default=b"", repr=False)  # what the optimiser remembers, where the owner keeps it


@dataclass(frozen=True)
class Owner:
    """A data owner. `units` is its data by unit where the unit lies inside a client, else None."""

    id: int
    name: str
    source: Source = field(repr=False)
    reward_functions: tuple[RewardFunction, ...] = field(repr=False)
    reward_scale: float
    log: Path
    reward_weights: tuple[float, ...] | None = None  # one for each function; None: each counts once
    units: UnitTable | None = field(default=None, repr=False)
    subject: str | None = None  # the column that names whose a row is, where its own file has one
    own_trainer: Client | None = None  # its table, where a trainer of its own takes the built-in loop's place
    keeps_optimizer: bool = False
    moments: bytes = field(default=b"", repr=False)  # what its optimiser remembers of the rounds before
    repeats: int = 0  # how often a vector without noise left for the adapter that is trained from: see `rollout_seed`
    opening: Callable[[], "Owner"] | None = field(default=None, repr=False)  # see `opened`

    @property
    def dealt_by(self) -> str:
        """What deals its units into blocks besides the run's seed and their own lines: see `tasks.units`."""
        return json.dumps([self.name, self.subject])

    def opened(self) -> "Owner":
        """The owner with its data and rewards. One on its own machine opens them here, in each round anew.

        **Why** Within training, which ends for everybody else at its deadline: how long a file takes to be read, or a
        reward's module to be loaded, would show in whatever the process answered next.
        """
        return self if self.opening is None else replace(self.opening(), repeats=self.repeats, moments=self.moments)

    def train(self, adapted: AdaptedModel, settings: RoundSettings) -> Trained:
        """From the model as received, by the built-in loop or the owner's own trainer. Raises UnusableRound."""
        client = self.own_trainer
        with silence():
            if client is None:
                trained = self._train_by_the_loop(adapted, settings)
            else:
                trained = self._train_by_its_own(client, adapted, settings)
        observation = trained.observation
        if not (
            np.isfinite(trained.update).all() and np.isfinite([observation.mean, observation.standard_error]).all()
        ):
            raise UnusableRound("local training diverged: the update or the mean reward is not finite")
        return trained

    def _train_by_the_loop(self, adapted: AdaptedModel, settings: RoundSettings) -> Trained:
        first: list[NDArray[np.float64]] = []
        seconds: list[float] = []
        steps, tally = list[PromptGroups](), Tally()
        moments = Moments(self.moments) if self.keeps_optimizer else None

        def next_groups(step: int) -> PromptGroups:
            started = entropy.processor_time()
            groups = self._groups(adapted, settings, step)
            if step == 0:
                # Before any step: later rollouts are of a model that this very data has moved.
                first.append(self._gain_rewards(adapted, settings, groups))
            seconds.append(entropy.processor_time() - started)
            steps.append(groups)
            return groups

        def masks(step: int) -> int:
            return self.rollout_seed(settings, f"dropout/{step}")

        number, steps_asked = settings.training_round, settings.local_steps
        update = contained(
            lambda: local_update.run(adapted, next_groups, settings.grpo, number, steps_asked, tally, masks, moments)
        )
        observation = contained(lambda: gain.observe(rewards.marked(first[0])))
        tally.lengths.append(float(np.linalg.norm(update)))
        self.keep_view(adapted, steps, tally, settings)
        return Trained(update, observation, sum(seconds), b"" if moments is None else moments.kept)

    def keep_view(
        self, adapted: AdaptedModel, groups: Sequence[PromptGroups], tally: Tally, settings: RoundSettings
    ) -> None:
        """What the owner sees of the round that the built-in loop trained."""
        self._keep(lambda: own_view.of(groups, tally, adapted.base.tokenizer, settings), settings)

    def _keep(self, view: Callable[[], own_view.RoundView], settings: RoundSettings) -> None:
        """It is for nobody else, and costs nobody the round if it cannot be made."""
        try:
            contained(lambda: own_view.append(self.log, view()))
        except UnusableRound as reason:
            self.write_log(f"round {settings.training_round}: no view of it was kept: {reason}")

    def _train_by_its_own(self, client: Client, adapted: AdaptedModel, settings: RoundSettings) -> Trained:
        """**Why** The loop draws other rollouts where a round without noise is repeated; another trainer may not, and
        the same update in two sums would be their difference: there it contributes nothing."""
        if self.repeats:
            raise UnusableRound("a repeated round without noise: a trainer of its own may give the same update again")
        seed = self.rollout_seed(settings, "trainer")

        def train() -> Trained:
            started = entropy.stopwatch()
            taught = foreign_training.train(client, self.source, adapted, settings, seed, self._limits())
            self._keep(lambda: own_view.of_trainer(client, taught, settings, entropy.stopwatch() - started), settings)
            return Trained(taught.update, gain.observe(taught.rewards))

        return contained(train)

    def unit_groups(self, adapted: AdaptedModel, settings: RoundSettings, step: int, unit: str) -> PromptGroups | None:
        """One unit's rollouts and rewards, from its own rows alone; None, and a note, if its data is unusable.

        **Why** Each unit is sampled by itself, from streams of its own: in a common batch, one unit's prompts
        would change the padding and the draws of all others.
        """
        units = self.units
        if units is None:
            raise ValueError("this owner's data is not divided into units")

        def groups() -> PromptGroups:
            rows = units.batch(unit, settings.training_round, step, settings.grpo.prompts_per_step)
            sampled = self._sampled(adapted, settings, rows, step, f"{step}/{unit}")
            # Here, where it is still this unit's alone: found later, unusable rewards would empty the whole round.
            rewards.marked(sampled.rewards)
            return sampled

        return self._of_unit(settings, groups)

    def mean_reward(self, settings: RoundSettings, groups: PromptGroups) -> float | None:
        """The mean reward of one unit's rollouts, in this owner's scale; None, and a note, if nothing was marked."""
        return self._of_unit(settings, lambda: float(rewards.marked(groups.rewards).mean()))

    def unit_update(
        self, adapted: AdaptedModel, settings: RoundSettings, groups: PromptGroups, tally: Tally | None = None
    ) -> Update:
        """Where one unit's data would move the adapter, of any length; zero, and a note, if that fails."""
        training_round = settings.training_round
        descent = self._of_unit(
            settings, lambda: unit_gradients.descent(adapted, groups, settings.grpo, training_round, tally)
        )
        if descent is None:
            return Update.zero(adapted.dimension(training_round))
        if tally is not None:
            tally.lengths.append(float(np.linalg.norm(descent)))
        return Update(descent)

    def _of_unit(self, settings: RoundSettings, work: Callable[[], Made]) -> Made | None:
        """What `work` makes of one unit; None, and a note, if that unit's data is unusable: the others go on."""
        try:
            return contained(work)
        except UnusableRound as reason:
            self.write_log(f"round {settings.training_round}: a unit contributes nothing: {reason}")
            return None

    def limited(self, limits: Limits) -> "Owner":
        """The same owner, whose own reward functions may use no more time and memory than `limits`."""
        functions = self.reward_functions
        limited = (each.within(limits) if isinstance(each, IsolatedReward) else each for each in functions)
        opening = self.opening
        later = None if opening is None else lambda: opening().limited(limits)
        return replace(self, reward_functions=tuple(limited), opening=later)

    def _limits(self) -> Limits:
        """What one call of a reward function of this owner's may use."""
        own = [each.limits for each in self.reward_functions if isinstance(each, IsolatedReward)]
        return own[0] if own else Limits()

    def note(self, settings: RoundSettings, reason: UnusableRound) -> None:
        """Tell the owner, and only the owner, why its round was empty."""
        self.write_log(f"round {settings.training_round}: {reason}")

    def write_log(self, line: str) -> None:
        """Add one line to the log that only this owner reads; what cannot be printed stands there escaped.

        **Why** A line is written because of this owner's data: if one could not be written (a full disk), and that
        ended a run, everybody would see it.
        """
        # A reward's text could hold the terminal's control sequences, and act when its owner looks at the log.
        with contextlib.suppress(OSError):
            self.log.touch(mode=0o600)
            with self.log.open("a", encoding="utf-8") as file:
                file.write(printable(line) + "\n")

    def _gain_rewards(
        self, adapted: AdaptedModel, settings: RoundSettings, groups: PromptGroups
    ) -> NDArray[np.float64]:
        """Rewards that measure R: those of `gain_prompts` prompts, the first step's if that is enough."""
        wanted = settings.weighting.gain_prompts or settings.grpo.prompts_per_step
        missing = wanted - settings.grpo.prompts_per_step
        # A prefix, so that asking for fewer costs no other rollouts.
        if missing <= 0:
            return groups.rewards[:wanted]
        extra = self._groups(adapted, settings, -1, missing)
        return np.concatenate([groups.rewards, extra.rewards])

    def _groups(
        self, adapted: AdaptedModel, settings: RoundSettings, step: int, count: int | None = None
    ) -> PromptGroups:
        rows = self.source.batch(settings.training_round, step, count or settings.grpo.prompts_per_step)
        return self._sampled(adapted, settings, rows, step, str(step))

    def _sampled(
        self, adapted: AdaptedModel, settings: RoundSettings, rows: list[Row], step: int, label: str
    ) -> PromptGroups:
        prompts = [row["prompt"] for row in rows]
        columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
        # One for each label: draws that ran on from unit to unit would let one unit's length move all others'.
        sampled = rollouts.sample(adapted, prompts, settings.grpo, Streams(self.rollout_seed(settings, label)))
        scores = rewards.score(
            self.reward_functions,
            self.reward_weights,
            prompts,
            sampled.completions,
            sampled.completion_ids,
            columns,
            {"global_step": settings.training_round * settings.local_steps + max(step, 0)},
        )
        shape = (len(prompts), settings.grpo.num_generations)
        return PromptGroups(sampled, self.reward_scale * scores.reshape(shape))

    def rollout_seed(self, settings: RoundSettings, label: str) -> int:
        """Rollouts follow the run's public seed: they carry no privacy, and reproducible ones help debugging.

        A round that is repeated without noise draws others: the same update in two sums would be their difference.
        """
        again = f"/again {self.repeats}" if self.repeats else ""
        text = f"rollouts/{settings.seed}/{self.id}/{settings.training_round}/{label}{again}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def make_owners(
    clients: tuple[Client, ...],
    seed: int,
    wanted: set[int],
    folder: Path,
    unit: str = "client",
    most_units: int = 1,
) -> dict[int, Owner]:
    """The owners with the ids in `wanted`; ids run through the [[client]] tables in order.

    `unit` is what is protected, `most_units` the public bound on how many units an owner may hold. Data that cannot be
    used is noted in its owner's log, who then contributes noise alone: `preflight` is where it is refused. Raises
    UnusableData or RewardError for a reward that cannot be found.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    owners: dict[int, Owner] = {}
    next_id = 0
    for client in clients:
        for index in range(client.count):
            if next_id in wanted:
                log = folder / f"{_name(client, index)}.log"
                inside = (unit, most_units)
                owners[next_id] = _make_owner(client, _rewards_of(client), seed, index, next_id, log, inside)
            next_id += 1
    return owners


def names(clients: tuple[Client, ...]) -> list[str]:
    """The owners' names, by id."""
    return [_name(client, index) for client in clients for index in range(client.count)]


def _name(client: Client, index: int) -> str:
    return client.name if client.count == 1 else f"{client.name}-{index}"


def make_own(own: OwnFile, owner_id: int, seed: int, log: Path, unit: str, most_units: int) -> Owner:
    """The owner of a file of its own, whose data and rewards wait for `Owner.opened`."""
    client, inside = own.client(), (unit, most_units)
    unopened = tuple(partial(_unloaded, "its owner was not opened") for _ in client.rewards)
    made = _without_data(client, unopened, 0, owner_id, log)
    return replace(made, opening=lambda: _open_own(client, seed, owner_id, log, inside))


def _open_own(client: Client, seed: int, owner_id: int, log: Path, inside: tuple[str, int]) -> Owner:
    """What cannot be used is noted in the owner's log, as of `make_owners`.

    So is a reward that cannot be loaded any more, of which `fgrpo client try` would have told before. **Why** Its
    module may read the owner's data: a client that fell silent over it would say so.
    """
    failure = ""
    try:
        functions = _rewards_of(client)
    except RewardError as problem:
        failure = str(problem)
        functions = tuple(partial(_unloaded, failure) for _ in client.rewards)
    made = _make_owner(client, functions, seed, 0, owner_id, log, inside)
    if failure:
        made.write_log(f"{failure}; this client contributes nothing but noise")
    return made


def _rewards_of(client: Client) -> tuple[RewardFunction, ...]:
    return tuple(reward_of(client, spec) for spec in client.rewards)


def _unloaded(reason: str, **_: Any) -> list[float | None]:
    raise RewardError(reason)


def _make_owner(
    client: Client,
    functions: tuple[RewardFunction, ...],
    seed: int,
    index: int,
    owner_id: int,
    log: Path,
    inside: tuple[str, int],
) -> Owner:
    (unit, most_units), made = inside, _without_data(client, functions, index, owner_id, log)
    try:
        if unit in SMALL_UNITS:
            units = contained(lambda: open_units(client, seed, index, unit, most_units))
            for reason in units.left_out[:LEFT_OUT_SHOWN]:  # in each round anew, where the owner is on its own machine
                made.write_log(f"data: {reason}; that line is left out")
            if (more := len(units.left_out) - LEFT_OUT_SHOWN) > 0:
                made.write_log(f"data: {more:,} more lines are left out")
            return replace(made, units=units)
        return replace(made, source=contained(lambda: open_source(client, seed, index)))
    except UnusableRound as reason:
        made.write_log(f"data: {reason}; this client contributes nothing but noise")
        return replace(made, units=UnitTable({}, ()) if unit in SMALL_UNITS else None)


def _without_data(client: Client, functions: tuple[RewardFunction, ...], index: int, owner_id: int, log: Path) -> Owner:
    return Owner(
        id=owner_id,
        name=_name(client, index),
        source=Unreadable(),
        reward_functions=functions,
        reward_scale=client.reward_scale,
        reward_weights=client.reward_weights,
        log=log,
        subject=client.subject,
        own_trainer=None if client.trainer is None else client,
        keeps_optimizer=client.keep_optimizer,
    )


class Unreadable:
    """The source of an owner whose data cannot be read any more. A run's start refuses such data; later it is too
    late to be seen refusing."""

    def batch(self, round: int, step: int, count: int) -> list[Row]:  # noqa: ARG002 - a `Source`
        raise UnusableData("the data cannot be read")
