"""The public evaluation problems: the same for everybody, and met by nobody in training.

They belong to no client and depend on no seed, so that what is measured on them costs no privacy and compares
across runs.
"""

from collections.abc import Iterable, Mapping, Sequence

from fgrpo_secure.config.schema import GYM, Client, Evaluation
from fgrpo_secure.learning.tasks import gym
from fgrpo_secure.learning.tasks.files import Row, UnusableData, read_rows
from fgrpo_secure.learning.tasks.procedural import ALL_TASKS, DIFFICULTIES, named, problems
from fgrpo_secure.learning.tasks.rewards import GYM_COLUMN, GYM_REWARD, RewardFunction, columns_of, exact, reward_named
from fgrpo_secure.learning.tasks.sources import row_of

PUBLIC_SEED = 0


def evaluation_set(task: str, difficulty: int, count: int) -> list[Row]:
    """The first `count` evaluation problems of a task, all with different prompts, in a fixed order.

    Fewer only where the split holds fewer: the smallest (`mul` at difficulty 3) has 129.
    """
    return [row_of(problem) for problem in problems(task, difficulty, "evaluation", PUBLIC_SEED, count)]


def evaluation_sets(clients: Iterable[Client], settings: Evaluation) -> Mapping[str, list[Row]]:
    """Name -> rows: one entry per (task, difficulty) that the settings name, or of the clients; or one named "file".
    A data set of reasoning-gym is one by its parameters, those of the clients or its own.

    Raises UnusableData: a file without reward, a file that cannot be used, or no task to evaluate on.
    """
    if settings.data != "tasks":
        return {"file": read_rows(settings.data, columns_of((settings.reward or "exact",)))[: settings.prompts]}
    if settings.tasks is not None:
        levels = {_level(each) for each in settings.tasks if not each.startswith(GYM)}
        drawn = [Client(name="public", task=each) for each in settings.tasks if each.startswith(GYM)]
    else:
        with_task = [client for client in clients if client.task is not None]
        levels = {(str(each.task), each.difficulty) for each in with_task if not str(each.task).startswith(GYM)}
        drawn = [each for each in with_task if str(each.task).startswith(GYM)]
    if not levels and not drawn:
        raise UnusableData("evaluation.data is 'tasks', but no client has a task; name a file instead")
    for client in drawn:
        gym.check(client)
    sets = {f"{task}-{level}": evaluation_set(task, level, settings.prompts) for task, level in sorted(levels)}
    kinds = [(str(client.task), client.task_settings) for client in drawn]
    return {**sets, **gym.evaluation_sets(kinds, settings.prompts, PUBLIC_SEED)}


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


def evaluation_reward(settings: Evaluation, rows: Sequence[Row] = ()) -> RewardFunction:
    """The reward whose value 1 counts as a pass for these rows; unless the configuration names one, their data set's
    own where they are reasoning-gym's, else `exact`."""
    if settings.reward is None:
        return reward_named(GYM_REWARD, "evaluation") if rows and GYM_COLUMN in rows[0] else exact
    return reward_named(settings.reward, "evaluation")
