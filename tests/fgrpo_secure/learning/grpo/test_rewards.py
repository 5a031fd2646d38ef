import asyncio

import numpy as np
import pytest
import torch

from fgrpo_secure.learning.grpo import rewards
from fgrpo_secure.learning.grpo.rewards import RewardError

PROMPTS = ["p", "q"]
COMPLETIONS = ["a", "bb", "ccc", "dddd"]
IDS = [[1], [1, 2], [3], [4, 5]]
COLUMNS = {"answer": ["x", "y"]}


def score(*functions, weights=None):
    return rewards.score(functions, weights, PROMPTS, COMPLETIONS, IDS, COLUMNS)


def length(completions, **_):
    return [float(len(text)) for text in completions]


def every_other(completions, **_):
    return [None if index % 2 else 1 for index in range(len(completions))]


def always(value):
    def constant(completions, **_):
        return [value] * len(completions)

    return constant


async def later(completions, **_):
    await asyncio.sleep(0)
    return [float(len(text)) for text in completions]


async def broken_later(**_):
    await asyncio.sleep(0)
    return 1 / 0


class Later:
    async def __call__(self, completions, **_):
        return await later(completions)


def test_a_function_gets_everything_by_keyword_once_per_completion():
    seen = {}

    def reward(*arguments, **keywords):
        seen.update(keywords, positional=arguments)
        return [0.0] * 4

    rewards.score([reward], None, PROMPTS, COMPLETIONS, IDS, COLUMNS, {"global_step": 7})
    assert seen.pop("trainer_state").global_step == 7
    assert (seen.pop("log_metric")("spread", 0.5), seen.pop("log_extra")("said", [""] * 4)) == (None, None)
    assert seen == {
        "positional": (),
        "prompts": ["p", "p", "q", "q"],
        "completions": COMPLETIONS,
        "completion_ids": IDS,
        "answer": ["x", "x", "y", "y"],
    }


def test_rewards_are_added_with_their_weights_and_what_is_skipped_counts_nothing():
    assert score(length, every_other).tolist() == [2, 2, 4, 4]
    assert score(length, every_other, weights=[0.5, -1]).tolist() == [-0.5, 1, 0.5, 2]


@pytest.mark.parametrize("reward", [later, Later(), lambda completions: map(len, completions)])
def test_a_reward_may_be_async_and_may_name_only_what_it_needs(reward):
    assert score(reward).tolist() == [1, 2, 3, 4]


def test_completions_of_messages_come_as_messages_and_those_of_strings_as_strings():
    seen = {}
    messages = [{"role": "user", "content": "q"}]

    def reward(prompts, completions):
        seen.update(prompts=prompts, completions=completions)
        return [1.0] * 4

    rewards.score([reward], None, ["p", messages], COMPLETIONS, IDS, {})
    said = [[{"role": "assistant", "content": text}] for text in COMPLETIONS[2:]]
    assert seen == {"prompts": ["p", "p", messages, messages], "completions": [*COMPLETIONS[:2], *said]}


@pytest.mark.parametrize("number", [1, True, 1.0, np.float32(1), np.int64(1), torch.tensor(1.0)])
def test_numbers_of_any_kind_are_rewards(number):
    assert score(always(number)).tolist() == [1.0] * 4


@pytest.mark.parametrize("container", [tuple, np.array, torch.tensor])
def test_rewards_may_come_in_any_sequence(container):
    assert score(lambda completions, **_: container([0.0, 1.0, 2.0, 3.0])).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda **_: [1.0], "returned 1 rewards for 4 completions"),
        (lambda **_: 1.0, "must return a list"),
        (lambda **_: None, "must return a list"),
        (lambda **_: "good", "not a number"),
        (always("1"), "not a number"),
        (always([1.0]), "not a number"),
        (always(10**400), "not a number"),
        (lambda prompts, completions, *, answer: answer[0] * answer, "raised TypeError"),
        (broken_later, "broken_later raised ZeroDivisionError"),
        (lambda **_: 1 / 0, "raised ZeroDivisionError"),
    ],
)
def test_anything_else_is_refused_in_one_sentence(function, reason):
    with pytest.raises(RewardError, match=reason) as caught:
        score(function)
    assert "\n" not in str(caught.value)


def test_a_weight_is_needed_for_each_function():
    with pytest.raises(RewardError, match="1 reward_weights for 2 reward functions"):
        score(length, every_other, weights=[1.0])


def test_an_error_names_the_place_but_quotes_nothing_from_the_data():
    def careless(prompts, **_):
        raise KeyError(f"patient {prompts[0]} not found")

    with pytest.raises(RewardError) as caught:
        rewards.score([careless], None, ["PLANTED"], ["SECRET"], [[1]], {})
    assert "careless raised KeyError" in str(caught.value)
    assert "test_rewards.py, line" in str(caught.value)
    assert "PLANTED" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.fixture
def module_folder(tmp_path):
    (tmp_path / "own_rewards.py").write_text(
        "def good(completions, **_):\n    return [1.0] * len(completions)\nname = 'x'\n"
    )
    (tmp_path / "broken_rewards.py").write_text("def bad(:\n")
    (tmp_path / "failing_rewards.py").write_text("raise RuntimeError('PLANTED')\n")
    return tmp_path


def test_a_function_is_found_in_a_file(module_folder):
    assert score(rewards.resolve(f"{module_folder}/own_rewards.py:good")).tolist() == [1.0] * 4


def test_a_function_is_found_in_an_installed_module_but_not_in_the_working_folder(module_folder, monkeypatch):
    monkeypatch.chdir(module_folder)
    with pytest.raises(RewardError, match="put its file beside the configuration, or install it"):
        rewards.resolve("own_rewards:good")
    monkeypatch.syspath_prepend(str(module_folder))
    assert score(rewards.resolve("own_rewards:good")).tolist() == [1.0] * 4


@pytest.mark.parametrize(
    "name", ["protocols", "threat_model", "fgrpo_secure", "json", "typing", "numpy", "reward_call"]
)
def test_a_module_named_like_another_neither_hides_it_nor_is_hidden_by_it(tmp_path, monkeypatch, name):
    (tmp_path / f"{name}.py").write_text("def good(completions, **_):\n    return [3.0] * len(completions)\n")
    monkeypatch.chdir(tmp_path)
    assert score(rewards.resolve(f"{tmp_path}/{name}.py:good")).tolist() == [3.0] * 4


def test_a_file_may_import_what_lies_beside_it_and_be_a_part_of_a_package(tmp_path):
    (tmp_path / "table.py").write_text("PAY = 2.0\n")
    (tmp_path / "marks").mkdir()
    (tmp_path / "marks" / "__init__.py").write_text("from .scale import FACTOR\n")
    (tmp_path / "marks" / "scale.py").write_text("FACTOR = 5\n")
    (tmp_path / "marks" / "paid.py").write_text(
        "import table\nfrom . import FACTOR\nfrom .scale import FACTOR as SAME\n"
        "from marks.scale import FACTOR as AGAIN\n"
        "def good(completions, **_):\n    return [table.PAY * FACTOR * SAME / AGAIN] * len(completions)\n"
    )
    assert score(rewards.resolve(f"{tmp_path}/marks/paid.py:good")).tolist() == [10.0] * 4


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("own_rewards", "not of the form module:function"),
        (":good", "not of the form module:function"),
        ("own_rewards:", "not of the form module:function"),
        ("no_such_module:good", "'no_such_module' cannot be imported"),
        ("HERE/own_rewards.py:better", "has no 'better'"),
        ("HERE/own_rewards.py:name", "is not callable"),
        ("HERE/broken_rewards.py:bad", "raised SyntaxError in broken_rewards.py, line 1"),
        ("HERE/failing_rewards.py:bad", "raised RuntimeError in failing_rewards.py, line 1$"),
        ("..relative:bad", "not of the form module:function"),
    ],
)
def test_a_function_that_cannot_be_found_is_refused_in_one_sentence(module_folder, spec, reason):
    with pytest.raises(RewardError, match=reason) as caught:
        rewards.resolve(spec.replace("HERE", str(module_folder)))
    assert "\n" not in str(caught.value)
