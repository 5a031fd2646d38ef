"""Where a client's prompts come from: a procedural task, a data set of reasoning-gym, or a file of rows.

A batch depends on (seed, client, owner, round, step) alone, never on what was asked before, so that a resumed
run meets the same prompts. Rows are the owner's secret: nothing here prints or logs them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fgrpo_secure.config.schema import GYM, Client
from fgrpo_secure.learning.tasks import gym
from fgrpo_secure.learning.tasks.draws import Draws
from fgrpo_secure.learning.tasks.files import Row, UnusableData, read_rows
from fgrpo_secure.learning.tasks.procedural import Problem, Task, named
from fgrpo_secure.learning.tasks.rewards import columns_of


class Source(Protocol):
    """One owner's prompts."""

    def batch(self, round: int, step: int, count: int) -> list[Row]:
        """`count` rows with the same columns, "prompt" among them; steps -1, -2, ... are extra batches."""
        ...


@dataclass(frozen=True, slots=True)
class TaskSource:
    """Problems of one task's training split, drawn independently."""

    task: Task
    difficulty: int
    label: tuple[str | int, ...] = field(repr=False)

    def batch(self, round: int, step: int, count: int) -> list[Row]:
        draws = Draws(*self.label, round, step)
        return [row_of(self.task.problem(draws, self.difficulty, "train")) for _ in range(count)]


@dataclass(frozen=True, slots=True)
class GymSource:
    """Problems of one data set's training split, drawn independently."""

    task: str
    settings: Mapping[str, Any]
    label: tuple[str | int, ...] = field(repr=False)

    def batch(self, round: int, step: int, count: int) -> list[Row]:
        return gym.rows(self.task, self.settings, Draws(*self.label, round, step), count)


@dataclass(frozen=True, slots=True)
class FileSource:
    """Rows of a file, shuffled anew in every round; in a round none repeats before the file is used up."""

    rows: list[Row] = field(repr=False)
    label: tuple[str | int, ...] = field(repr=False)

    def batch(self, round: int, step: int, count: int) -> list[Row]:
        order = list(range(len(self.rows)))
        Draws(*self.label, round).shuffle(order)
        return [self.rows[order[place % len(order)]] for place in range(step * count, (step + 1) * count)]


def open_source(client: Client, seed: int, index: int) -> Source:
    """The prompts of owner number `index` of a [[client]] table.

    Every owner of a file reads the whole file in its own order. Raises UnusableData for a file, or a task's
    name, that cannot be used.
    """
    label = ("source", seed, client.name, index)
    if client.data is not None:
        return FileSource(read_rows(client.data, needs=needs(client)), label)
    if client.task is not None and client.task.startswith(GYM):
        return GymSource(client.task, client.task_settings, label)
    return TaskSource(task_of(client), client.difficulty, label)


def fixed_rows(client: Client, draws: Draws, count: int) -> list[Row]:
    """`count` rows of a client's task, one after the other from the same draws. Raises UnusableData."""
    if client.task is not None and client.task.startswith(GYM):
        return gym.rows(client.task, client.task_settings, draws, count)
    task = task_of(client)
    return [row_of(task.problem(draws, client.difficulty, "train")) for _ in range(count)]


def task_of(client: Client) -> Task:
    """The procedural task of a client. Raises UnusableData if there is none of that name."""
    try:
        return named(str(client.task))
    except ValueError as problem:
        raise UnusableData(f"client {client.name!r}: {problem}") from None


def row_of(problem: Problem) -> Row:
    """A problem as the row that rewards see."""
    return {"prompt": problem.prompt, "answer": problem.answer}


def needs(client: Client) -> tuple[str, ...]:
    """The columns without which a client's rewards cannot work."""
    return columns_of([spec for spec in client.rewards if spec is not None])
