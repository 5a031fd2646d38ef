"""The public evaluation problems: the same for everybody, and met by nobody in training.

They belong to no client and depend on no seed, so that what is measured on them costs no privacy and compares
across runs.
"""

from collections.abc import Iterable, Mapping

from fgrpo_secure.config.schema import Client, Evaluation
from fgrpo_secure.learning.tasks.files import Row, UnusableData, read_rows
from fgrpo_secure.learning.tasks.procedural import ALL_TASKS, DIFFICULTIES, named, problems
from fgrpo_secure.learning.tasks.rewards import RewardFunction, columns_of, exact, reward_named
from fgrpo_secure.learning.tasks.sources import row_of

PUBLIC_SEED = 0


def evaluation_set(task: str, difficulty: int, count: int) -> list[Row]:
    """The first `count` evaluation problems of a task, all with different prompts, in a fixed order.

    Fewer only where the split holds fewer: the smallest (`mul` at difficulty 3) has 129.
    """
    return [row_of(problem) for problem in problems(task, difficulty, "evaluation", PUBLIC_SEED, count)]


def evaluation_sets(clients: Iterable[Client], settings: Evaluation) -> Mapping[str, list[Row]]:
    """Name -> rows: one entry per (task, difficulty) that the settings name, or of the clients; or one named "file".

    Raises UnusableData: a file without reward, a file that cannot be used, or no task to evaluate on.
    """
    if settings.data != "tasks":
        return {"file": read_rows(settings.data, columns_of((settings.reward or "exact",)))[: settings.prompts]}
    if settings.tasks is not None:
        levels = set(map(_level, settings.tasks))
    else:
        levels = {(client.task, client.difficulty) for client in clients if client.task is not None}
    if not levels:
        raise UnusableData("evaluation.data is 'tasks', but no client has a task; name a file instead")
    return {f"{task}-{level}": evaluation_set(task, level, settings.prompts) for task, level in sorted(levels)}


def _level(text: str) -> tuple[str, int]:
    """Task and difficulty of an entry of evaluation.tasks."""
    task, _, level = text.partition("-")
    try:
        difficulty = int(level or 1)
        named(task)
    except ValueError:
        difficulty = 0
    if difficulty not in DIFFICULTIES:
        known = ", ".join(ALL_TASKS)
        raise UnusableData(
            f"evaluation.tasks: {text!r} is no task; write one of {known}, or as 'add-2' with a difficulty"
        )
    return task, difficulty


def evaluation_reward(settings: Evaluation) -> RewardFunction:
    """The reward whose value 1 counts as a pass; `exact` unless the configuration names another."""
    return exact if settings.reward is None else reward_named(settings.reward, "evaluation")
