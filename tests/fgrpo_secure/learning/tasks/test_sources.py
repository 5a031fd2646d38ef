"""Sources: reproducible from (seed, client, owner, round, step), different between owners, silent about rows."""

import json
from collections import Counter
from pathlib import Path

import pytest

from fgrpo_secure.config.schema import Client, Evaluation
from fgrpo_secure.learning.tasks import UnusableData, evaluation_set, evaluation_sets, open_source

ROWS = 30


@pytest.fixture
def file_client(tmp_path: Path) -> Client:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"p{number}", "answer": str(number)} for number in range(ROWS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Client(name="files", data=str(path), reward="exact")


@pytest.fixture
def task_client() -> Client:
    return Client(name="sums", task="add", difficulty=2)


@pytest.fixture(params=["file_client", "task_client"])
def client(request: pytest.FixtureRequest) -> Client:
    chosen: Client = request.getfixturevalue(request.param)
    return chosen


def test_a_batch_does_not_depend_on_what_was_asked_before(client: Client) -> None:
    source, resumed = open_source(client, 5, 1), open_source(client, 5, 1)
    asked = {(round, step): source.batch(round, step, 4) for round in (0, 1, 2) for step in (-1, 0, 1, 2)}
    assert all(resumed.batch(*place, 4) == asked[place] for place in reversed(asked))


def test_seed_client_owner_round_and_step_each_give_another_batch(client: Client) -> None:
    renamed = client.model_copy(update={"name": "another"})
    batches = [
        open_source(client, 5, 1).batch(3, 2, 8),
        open_source(client, 6, 1).batch(3, 2, 8),
        open_source(renamed, 5, 1).batch(3, 2, 8),
        open_source(client, 5, 2).batch(3, 2, 8),
        open_source(client, 5, 1).batch(4, 2, 8),
        open_source(client, 5, 1).batch(3, 1, 8),
        open_source(client, 5, 1).batch(3, -1, 8),
    ]
    assert len({tuple(row["prompt"] for row in batch) for batch in batches}) == len(batches)


def test_rows_have_a_prompt_and_the_same_columns(client: Client) -> None:
    rows = open_source(client, 5, 1).batch(0, 0, 8)
    assert {tuple(row) for row in rows} == {("prompt", "answer")}
    assert len(rows) == 8


def test_a_file_gives_every_row_once_before_any_twice(file_client: Client) -> None:
    source = open_source(file_client, 5, 1)
    steps = [source.batch(0, step, 10) for step in range(6)]
    for first in (0, 3):
        seen = Counter(row["prompt"] for batch in steps[first : first + 3] for row in batch)
        assert seen == Counter(f"p{number}" for number in range(ROWS))


def test_extra_batches_of_a_file_differ_from_the_first_steps(file_client: Client) -> None:
    source = open_source(file_client, 5, 1)
    steps, extra = [source.batch(0, step, 5) for step in (0, 1, 2)], source.batch(0, -1, 5)
    assert not {row["prompt"] for row in extra} & {row["prompt"] for batch in steps for row in batch}


def test_a_batch_larger_than_the_file_wraps_around(file_client: Client) -> None:
    assert len(open_source(file_client, 5, 1).batch(0, 0, 2 * ROWS + 1)) == 2 * ROWS + 1


def test_a_source_never_shows_its_rows(client: Client) -> None:
    source = open_source(client, 5, 1)
    shown = repr(source) + str(source)
    assert not [row["prompt"] for row in source.batch(0, 0, 20) if row["prompt"] in shown]


def test_a_built_in_reward_needs_the_answer_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n')
    assert open_source(Client(name="own", data=str(path), reward="module:function"), 0, 0).batch(0, 0, 1)
    with pytest.raises(UnusableData, match='lacks the string "answer"'):
        open_source(Client(name="own", data=str(path), reward=("module:function", "exact")), 0, 0)


def test_an_unknown_task_names_the_client_and_the_tasks() -> None:
    with pytest.raises(UnusableData, match="client 'own': there is no task 'sums'; allowed are add"):
        open_source(Client(name="own", task="sums"), 0, 0)


def test_evaluation_covers_each_task_and_level_of_the_clients_once() -> None:
    clients = [Client(name="a", task="add"), Client(name="b", task="add", difficulty=2, count=3)]
    clients += [Client(name="c", task="add"), Client(name="d", data="x.jsonl", reward="m:f")]
    sets = evaluation_sets(clients, Evaluation(prompts=20))
    assert sets == {"add-1": evaluation_set("add", 1, 20), "add-2": evaluation_set("add", 2, 20)}


def test_evaluation_on_a_file_takes_its_first_rows(file_client: Client) -> None:
    sets = evaluation_sets([], Evaluation(data=str(file_client.data), prompts=3))
    assert [row["prompt"] for row in sets["file"]] == ["p0", "p1", "p2"]


def test_evaluation_without_tasks_asks_for_a_file(file_client: Client) -> None:
    with pytest.raises(UnusableData, match="no client has a task; name a file"):
        evaluation_sets([file_client], Evaluation())
