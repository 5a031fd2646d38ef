"""Reward `math`: the same answer in another form, from a process of its own."""

import threading

import pytest

from fgrpo_secure.learning.grpo.isolated_reward import IsolatedReward, Limits
from fgrpo_secure.learning.grpo.reward_call import RewardError
from fgrpo_secure.learning.tasks.rewards import reward_named

pytest.importorskip("math_verify")
ENDLESS = "9^9^9^9"


@pytest.fixture(scope="module")
def math() -> IsolatedReward:
    reward = reward_named("math", "mine")
    assert isinstance(reward, IsolatedReward)
    return reward


def paid(reward: IsolatedReward, pairs: list[tuple[str, str]]) -> list[float | None]:
    said, right = [list(each) for each in zip(*pairs, strict=True)]
    return reward(prompts=["p"] * len(said), completions=said, completion_ids=[[0]] * len(said), answer=right)


def test_the_answer_counts_in_whatever_form_it_comes(math: IsolatedReward) -> None:
    same = [
        ("The answer is 42.", "42"), (r"so $x=\frac{1}{2}$", "0.5"), ("1/2", "0.5"), (r"\boxed{0.5}", r"\frac{1}{2}"),
        ("It is 1,250", "1250"), ("50%", "0.5"), ("2+3", "5"), ("#### 18", "18"), ("$(x+1)^2$", "x^2+2x+1"),
        ("We have $x^2=4$. So the answer is 2.", "2"), (r"$\{1,2\}$", r"\{2,1\}"),
    ]  # fmt: skip
    assert paid(math, same) == [1.0] * len(same)
    assert paid(math, [("43", "42"), ("I do not know", "42"), ("", "42"), ("0.33", "1/3")]) == [0.0] * 4


def test_an_answer_that_cannot_be_read_marks_nothing(math: IsolatedReward) -> None:
    assert paid(math, [("42", "")]) == [None]


def test_a_tolerance_of_its_own_goes_with_the_call() -> None:
    reward = reward_named("math(0.005)", "mine")
    assert paid(reward, [("0.33", "1/3"), ("0.34", "1/3"), ("1.004", "1")]) == [1.0, 0.0, 1.0]  # type: ignore[arg-type]


def test_a_completion_without_end_costs_its_own_mark_alone(math: IsolatedReward) -> None:
    assert paid(math, [(ENDLESS, "42"), ("42", "42"), (f"${ENDLESS}$", "42"), ("42", "42")]) == [0.0, 1.0, 0.0, 1.0]


def test_it_works_in_a_thread_and_keeps_to_its_owners_limits(math: IsolatedReward) -> None:
    found = list[list[float | None]]()
    thread = threading.Thread(target=lambda: found.append(paid(math, [("42", "42")])))
    thread.start()
    thread.join()
    assert found == [[1.0]], "no signal of math-verify's, which only a main thread may set"
    with pytest.raises(RewardError, match=r"took longer than 0\.0001 seconds"):
        paid(math.within(Limits(seconds=0.0001)), [("42", "42")] * 4)


def test_completions_without_end_leave_the_others_their_part_of_the_calls_time(math: IsolatedReward) -> None:
    pairs = [(ENDLESS, "42")] * 9 + [("42", "42")]
    assert paid(math.within(Limits(seconds=7.0)), pairs) == [0.0] * 9 + [1.0]
