import sys

import numpy as np
import pytest
import torch

from fgrpo_secure.grpo import rewards
from fgrpo_secure.grpo.rewards import RewardError

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


def test_a_function_gets_everything_by_keyword_once_per_completion():
    seen = {}

    def reward(*arguments, **keywords):
        seen.update(keywords, positional=arguments)
        return [0.0] * 4

    score(reward)
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
        (always(float("nan")), "not finite"),
        (always(float("-inf")), "not finite"),
        (always(10**400), "not a number"),
        (every_other, "skipped a completion"),
        (lambda prompts, completions: [0.0] * 4, "raised TypeError"),
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
def module_folder(tmp_path, monkeypatch):
    (tmp_path / "own_rewards.py").write_text(
        "def good(completions, **_):\n    return [1.0] * len(completions)\nname = 'x'\n"
    )
    (tmp_path / "broken_rewards.py").write_text("def bad(:\n")
    (tmp_path / "failing_rewards.py").write_text("raise RuntimeError('PLANTED')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("own_rewards", "broken_rewards", "failing_rewards"):
        sys.modules.pop(name, None)


def test_a_function_is_found_in_a_module_of_the_current_directory(module_folder):
    assert score(rewards.resolve("own_rewards:good")).tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("own_rewards", "not of the form module:function"),
        (":good", "not of the form module:function"),
        ("own_rewards:", "not of the form module:function"),
        ("no_such_module:good", "'no_such_module' cannot be imported"),
        ("own_rewards:better", "has no 'better'"),
        ("own_rewards:name", "is not callable"),
        ("broken_rewards:bad", "raised SyntaxError in broken_rewards.py, line 1"),
        ("failing_rewards:bad", "raised RuntimeError in failing_rewards.py, line 1$"),
        ("..relative:bad", "not of the form module:function"),
    ],
)
def test_a_function_that_cannot_be_found_is_refused_in_one_sentence(module_folder, spec, reason):
    with pytest.raises(RewardError, match=reason) as caught:
        rewards.resolve(spec)
    assert "\n" not in str(caught.value)
