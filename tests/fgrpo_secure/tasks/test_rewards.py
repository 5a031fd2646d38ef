"""Built-in rewards: hand-computed values, and names that lead to them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgrpo_secure.config import Client, Evaluation
from fgrpo_secure.tasks import BUILT_IN, TASKS, UnusableData, evaluation_reward, is_correct, reward_of
from fgrpo_secure.tasks.rewards import PREFIX_CREDIT, credit

SAID = ["1234", " 1234\n", "12", "1299", "12345", "9234", ""]
RIGHT = ["1234"] * len(SAID)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("exact", [1, 1, 0, 0, 0, 0, 0]),
        ("partial", [1, 1, 0.15, 0.15, 0.24, 0, 0]),
        ("signed", [1, 1, -0.7, -0.7, -0.52, -1, -1]),
        ("percent", [100, 100, 15, 15, 24, 0, 0]),
    ],
)
def test_built_in_rewards_pay_what_they_say(name: str, expected: list[float]) -> None:
    prompts, ids = ["p"] * len(SAID), [[1]] * len(SAID)
    paid = BUILT_IN[name](prompts=prompts, completions=SAID, completion_ids=ids, answer=RIGHT, other=RIGHT)
    assert paid == pytest.approx(expected)


@given(st.text(max_size=8), st.text("0123456789", min_size=1, max_size=7))
def test_only_the_answer_earns_more_than_the_prefix_credit(said: str, answer: str) -> None:
    paid = credit(said, answer)
    assert paid == 1 if is_correct(said, answer) else 0 <= paid < PREFIX_CREDIT


@given(st.text("01", max_size=6), st.text("01", min_size=1, max_size=6))
def test_saying_more_than_the_answer_earns_less_than_the_answer(said: str, answer: str) -> None:
    assert credit(answer + "2" + said, answer) < PREFIX_CREDIT


def test_a_completion_without_its_answer_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="shorter"):
        BUILT_IN["exact"](completions=["1", "2"], answer=["1"])


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_task_comes_with_a_reward(task: str) -> None:
    reward = reward_of(Client(name="owner", task=task), None)
    assert list(reward(completions=["5"], answer=["5"])) == [1.0]


def test_a_client_may_choose_another_reward() -> None:
    assert reward_of(Client(name="owner", task="add"), "percent") is BUILT_IN["percent"]


def test_module_and_function_name_a_reward_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pays_length.py").write_text(
        "def pay(completions, **_):\n    return [float(len(said)) for said in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    reward = reward_of(Client(name="owner", data="rows.jsonl", reward="pays_length:pay"), "pays_length:pay")
    assert list(reward(completions=["abc"], answer=["5"])) == [3.0]


def test_an_unknown_reward_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnusableData, match="'best'; allowed are exact, partial, percent, signed or 'module:f"):
        reward_of(Client(name="owner", task="add"), "best")


def test_evaluation_counts_exact_answers_unless_told_otherwise() -> None:
    assert evaluation_reward(Evaluation()) is BUILT_IN["exact"]
    assert evaluation_reward(Evaluation(reward="signed")) is BUILT_IN["signed"]
