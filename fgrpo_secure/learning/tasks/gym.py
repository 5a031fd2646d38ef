"""Tasks named 'reasoning-gym:NAME': problems that the library reasoning-gym draws (Apache 2.0; the extra `tasks`).

Any of its data sets, with parameters by its own names. A problem belongs to one split by its prompt, as of a built-in
task, so that nobody trains on one of the public evaluation set. Marks are in `gym_scores`: drawing reads nothing that a
model wrote. Which problems come follows from the run's seed, or from `seed` in the client's own table.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from fgrpo_secure.config.schema import GYM, Client
from fgrpo_secure.learning.tasks.draws import Draws
from fgrpo_secure.learning.tasks.files import Row, UnusableData
from fgrpo_secure.learning.tasks.procedural import Split, split_of
from fgrpo_secure.learning.tasks.rewards import GYM_COLUMN, GYM_REWARD, reward_named

OURS = ("seed", "size")
SEEDS = 1 << 32
EMPTY_DRAWS = 50  # data sets in a row without a problem of the split that is asked for
UNSTEADY = (  # whatever the seed: in the order of sets of strings, or by a generator that nobody seeds
    "codeio", "isomorphic_strings", "knight_swap", "list_functions", "polynomial_multiplication", "ransom_note",
    "word_ladder",
)  # fmt: skip
OTHER_ERRORS = (TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, OSError)  # of a value unfit
SHOWN = 200  # characters of what the library says about parameters

Settings = Mapping[str, Any]


def check(client: Client) -> None:
    """Returns if the client's task can be drawn and marked. Raises UnusableData."""
    name, where = _name(client.task), f"client {client.name!r}: task {client.task!r}"
    try:
        import reasoning_gym
    except ImportError:  # it, or something that it needs
        raise UnusableData(f"{where} needs reasoning-gym: pip install 'fgrpo-secure[tasks]'") from None

    known_sets = reasoning_gym.factory.DATASETS
    if name not in known_sets:
        near = ", ".join(difflib.get_close_matches(name, known_sets, cutoff=0.0))
        raise UnusableData(f"{where}: reasoning-gym has no data set {name!r}; nearest to it are {near}")
    if name in UNSTEADY:
        raise UnusableData(f"{where}: this data set draws other problems at every start, so that no run could go on")
    known = [each.name for each in fields(known_sets[name][1]) if each.name not in OURS]
    unknown = sorted(set(client.task_settings) - {*known, "seed"})
    if unknown:
        allowed = ", ".join((*known, "seed"))
        raise UnusableData(f"{where}: task_settings.{unknown[0]} is none of its parameters; allowed are {allowed}")
    seed = client.task_settings.get("seed", 0)
    if type(seed) is not int or not 0 <= seed < SEEDS:
        raise UnusableData(f"{where}: task_settings.seed must be a whole number from 0 to {SEEDS - 1}")
    rows(client.task, client.task_settings, Draws("check"), 1)
    _check_marks(name, client.task_settings, where)


def rows(task: str | None, settings: Settings, draws: Draws, count: int, split: Split = "train") -> list[Row]:
    """`count` problems of a split, each drawn by itself from `draws`. Raises UnusableData for parameters that the data
    set does not take, or if it holds no problem of the split."""
    name, found, misses = _name(task), list[Row](), 0
    draws = Draws(GYM, settings["seed"], draws.below(SEEDS)) if "seed" in settings else draws
    while len(found) < count:
        row = _drawn(name, settings, draws.below(SEEDS))
        if split_of(f"{task}", row["prompt"]) == split:
            found.append(row)
            misses = 0
        else:
            misses += 1
        if misses == EMPTY_DRAWS:
            raise UnusableData(f"task {task!r}: with these task_settings there is no problem in the {split} split")
    return found


def evaluation_sets(kinds: Iterable[tuple[str, Settings]], count: int, seed: int) -> dict[str, list[Row]]:
    """Public problems, all with different prompts where there are so many, by the task's name; a second kind of the
    same data set, with other parameters, is called 'NAME (2)'."""
    without_seed = ((task, {key: value for key, value in of.items() if key != "seed"}) for task, of in kinds)
    different = {(task, json.dumps(of, sort_keys=True)): of for task, of in without_seed}
    sets: dict[str, list[Row]] = {}
    for (task, _), settings in sorted(different.items(), key=lambda item: item[0]):
        number = 1 + sum(name == task or name.startswith(f"{task} (") for name in sets)
        draws = Draws("problems", task, "evaluation", seed)
        drawn = rows(task, settings, draws, 2 * count, "evaluation")
        by_prompt = {row["prompt"]: row for row in drawn}
        sets[task if number == 1 else f"{task} ({number})"] = list(by_prompt.values())[:count]
    return sets


def _name(task: str | None) -> str:
    return (task or "").removeprefix(GYM)


def _drawn(name: str, settings: Settings, seed: int) -> Row:
    """The first problem of the data set with that seed."""
    given = _given(settings)
    entry = _entry(name, given, seed)[1]
    answer = entry["answer"]
    own = json.dumps({"data_set": name, "settings": given, "entry": entry}, default=str)
    return {"prompt": entry["question"], "answer": "" if answer is None else str(answer), GYM_COLUMN: own}


def _entry(name: str, given: Settings, seed: int) -> tuple[Any, Any]:
    """A data set and its first problem, as the library has it."""
    import reasoning_gym

    try:
        data_set = reasoning_gym.create_dataset(name, seed=seed, size=1, **given)
        return data_set, data_set[0]
    except (AssertionError, ValueError) as problem:  # about parameters: nobody's data has a part in them
        raise UnusableData(f"task '{GYM}{name}' does not take these task_settings: {str(problem)[:SHOWN]}") from None
    except OTHER_ERRORS as problem:
        said = type(problem).__name__
        raise UnusableData(f"task '{GYM}{name}' cannot be drawn with these task_settings: {said}") from None


def _given(settings: Settings) -> dict[str, Any]:
    return {key: list(each) if isinstance(each, tuple) else each for key, each in settings.items() if key != "seed"}


def _check_marks(name: str, settings: Settings, where: str) -> None:
    """The data set's own answer is marked as its library marks it, in the processes where completions are."""
    data_set, entry = _entry(name, _given(settings), 0)
    row = _drawn(name, settings, 0)
    given = {key: [value] for key, value in row.items() if key != "prompt"}
    (paid,) = reward_named(GYM_REWARD, where)(
        prompts=[row["prompt"]], completions=[row["answer"]], completion_ids=[[0]], **given
    )
    if paid is None or paid < data_set.score_answer(entry["answer"], entry):
        raise UnusableData(
            f"{where}: this data set marks answers by running them as code, which no completion may be, or by what no "
            "row of a file can hold; take another"
        )
