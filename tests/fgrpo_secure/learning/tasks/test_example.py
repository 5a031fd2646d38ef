"""The example with data and a reward of one's own works as its files say."""

import json
from pathlib import Path

from fgrpo_secure.config import files as config_file
from fgrpo_secure.learning.tasks import open_source, reward_of, split_of

FOLDER = Path(__file__).parents[4] / "examples" / "own_data"


def test_the_example_is_a_configuration_whose_data_and_reward_load() -> None:
    config = config_file.load(str(FOLDER / "run.toml"))
    for client in config.client:
        rows = open_source(client, config.run.seed, 0).batch(0, 0, 4)
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        spec = client.reward if isinstance(client.reward, str) else None
        assert len(reward_of(client, spec)(completions=["55"] * 4, **columns)) == 4


def test_its_reward_pays_for_the_total_and_a_little_for_being_close() -> None:
    client = config_file.load(str(FOLDER / "run.toml")).client[0]
    assert isinstance(client.reward, str)
    reward = reward_of(client, client.reward)
    said = ["55", "56", "50", "49", "", "-55", "5x"]
    assert list(reward(completions=said, total=[55] * 7, tolerance=[5] * 7)) == [1, 0.3, 0.3, 0, 0, 0, 0]


def test_its_rows_are_right_and_none_is_an_evaluation_problem() -> None:
    for line in (FOLDER / "sums.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert sum(int(part) for part in row["prompt"][:-1].split("+")) == row["total"]
        assert split_of("add", row["prompt"]) == "train"
