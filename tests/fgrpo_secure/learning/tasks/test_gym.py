"""Tasks 'reasoning-gym:NAME': the same problems at every start, no evaluation prompt in training, marks as the library
gives them, and every data set either works here or is refused."""

import json
import os
import subprocess
import sys

import pytest

from fgrpo_secure.config.schema import Client, Evaluation
from fgrpo_secure.learning.tasks import (
    UnusableData,
    evaluation_reward,
    evaluation_sets,
    gym,
    open_source,
    open_units,
    reward_of,
    split_of,
)
from fgrpo_secure.learning.tasks.draws import Draws
from fgrpo_secure.learning.tasks.rewards import GYM_COLUMN

pytest.importorskip("reasoning_gym")
LEGS = "reasoning-gym:leg_counting"
MINE = Client(name="mine", task=LEGS, task_settings={"min_animals": 1, "max_animals": 2})
DRAWN = """
import json, pathlib, sys
from fgrpo_secure.learning.tasks import gym
from fgrpo_secure.learning.tasks.draws import Draws
drawn = {name: gym.rows(name, {}, Draws(7), 2) for name in sys.argv[2:]}
pathlib.Path(sys.argv[1]).write_text(json.dumps(drawn))  # some data sets print while they draw
"""


def test_a_batch_follows_from_seed_round_and_step_and_its_rows_have_the_same_columns() -> None:
    source, again = open_source(MINE, 5, 0), open_source(MINE, 5, 0)
    batch = source.batch(3, 1, 4)
    assert batch == again.batch(3, 1, 4) != source.batch(3, 2, 4)
    assert batch != open_source(MINE, 5, 1).batch(3, 1, 4), "another owner of the table draws others"
    assert {tuple(row) for row in batch} == {("prompt", "answer", GYM_COLUMN)}


def test_a_seed_of_its_own_takes_the_place_of_the_runs() -> None:
    own = MINE.model_copy(update={"task_settings": {"seed": 9}})
    other = MINE.model_copy(update={"task_settings": {"seed": 10}})
    assert open_source(own, 5, 0).batch(0, 0, 3) != open_source(other, 5, 0).batch(0, 0, 3)
    assert open_source(own, 5, 0).batch(0, 0, 3) != open_source(own, 5, 0).batch(1, 0, 3)


def test_nobody_trains_on_a_public_problem() -> None:
    (problems,) = evaluation_sets([MINE], Evaluation(prompts=8)).values()
    trained = [row for number in range(8) for row in open_source(MINE, number, 0).batch(0, 0, 8)]
    assert {split_of(LEGS, row["prompt"]) for row in problems} == {"evaluation"}
    assert {split_of(LEGS, row["prompt"]) for row in trained} == {"train"}


def test_public_problems_are_of_the_clients_parameters_and_of_no_ones_seed() -> None:
    clients = [MINE, MINE.model_copy(update={"name": "same", "task_settings": {**MINE.task_settings, "seed": 4}})]
    clients.append(Client(name="more", task=LEGS))
    sets = evaluation_sets([*clients, Client(name="sums", task="add")], Evaluation(prompts=3))
    assert set(sets) == {"add-1", LEGS, f"{LEGS} (2)"}
    assert evaluation_sets(clients, Evaluation(prompts=3, tasks=(LEGS,)))[LEGS] in sets.values()


def test_marks_are_the_data_sets_own_and_of_what_stands_between_answer_tags() -> None:
    rows = open_source(MINE, 0, 0).batch(0, 0, 3)
    right = [row["answer"] for row in rows]
    said = [right[0], f"well <answer>{right[1]}</answer>", "none"]
    columns = {key: [row[key] for row in rows] for key in ("answer", GYM_COLUMN)}
    reward = reward_of(MINE, None)
    paid = reward(prompts=[row["prompt"] for row in rows], completions=said, completion_ids=[[0]] * 3, **columns)
    assert paid == [1.0, 1.0, 0.0]
    assert evaluation_reward(Evaluation(), rows) == reward != evaluation_reward(Evaluation())


def test_as_a_fixed_data_set_it_has_units() -> None:
    client = MINE.model_copy(update={"rows": 5, "rows_per_subject": 2, "subject": "who"})
    assert sorted(map(len, open_units(client, 0, 0, "subject", 5).rows.values())) == [1, 2, 2]
    assert len(open_units(client, 0, 0, "prompt_group", 5).rows) == 5


def test_a_data_set_that_evaluates_answers_marks_sums_and_runs_nothing(tmp_path) -> None:
    client = Client(name="mine", task="reasoning-gym:countdown")
    gym.check(client)
    (row,) = open_source(client, 0, 0).batch(0, 0, 1)
    said = [row["answer"], f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()"]
    columns = {key: [row[key]] * 2 for key in ("answer", GYM_COLUMN)}
    paid = reward_of(client, None)(prompts=[row["prompt"]] * 2, completions=said, completion_ids=[[0]] * 2, **columns)
    assert paid[0] == 1.0
    assert paid[1] is not None
    assert paid[1] < 1.0
    assert not (tmp_path / "ran").exists()


def fits(name: str) -> bool:
    try:
        gym.check(Client(name="mine", task=f"reasoning-gym:{name}"))
    except UnusableData:
        return False
    return True


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_data_set_draws_the_same_at_every_start_and_is_marked_as_its_library_does_or_is_refused(tmp_path) -> None:
    from reasoning_gym.factory import DATASETS

    held = reward_of(MINE, None)  # one worker for all
    refused = {name for name in DATASETS if not fits(name)}
    assert refused == {*gym.UNSTEADY, "arc_agi", "rearc", "composite"}, held
    usable = [f"reasoning-gym:{name}" for name in DATASETS if name not in refused]
    for seed in ("1", "2"):
        command = [sys.executable, "-c", DRAWN, str(tmp_path / seed), *usable]
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True)
    one, other = (json.loads((tmp_path / seed).read_text()) for seed in ("1", "2"))
    assert [name for name in usable if one[name] != other[name]] == []


def test_draws_without_end_are_refused() -> None:
    settings = {"min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 2}  # four problems, all in training
    with pytest.raises(UnusableData, match="no problem in the evaluation split"):
        gym.rows("reasoning-gym:gcd", settings, Draws(1), 1, "evaluation")
