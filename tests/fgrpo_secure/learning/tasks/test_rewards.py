"""Built-in rewards: hand-computed values, and names that lead to them."""

from pathlib import Path

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from fgrpo_secure import entropy
from fgrpo_secure.config.schema import Client, Evaluation
from fgrpo_secure.learning.grpo.isolated_reward import IsolatedReward, Limits
from fgrpo_secure.learning.tasks import ALL_TASKS, BUILT_IN, UnusableData, evaluation_reward, is_correct, reward_of
from fgrpo_secure.learning.tasks.rewards import PREFIX_CREDIT, credit, number_in

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


def test_contains_pays_for_the_answer_as_words_of_its_own() -> None:
    said = ["It is 12.", "It is 120", "12", "x12", "to Rome, on", "Romeo"]
    right = ["12", "12", "12", "12", "Rome", "Rome"]
    assert BUILT_IN["contains"](completions=said, answer=right) == [1, 0, 1, 0, 1, 0]
    assert BUILT_IN["contains"](completions=["aab", "a.b"], answer=["a.b", "a.b"]) == [0, 1], "no pattern"


@given(st.text("a!é_ \n\u0301", max_size=9), st.text("a!é_ \n\u0301", max_size=3))
def test_contains_is_the_search_for_the_answer_with_no_letter_at_either_side(said: str, answer: str) -> None:
    slow = regex.search(rf"(?<!\w){regex.escape(answer)}(?!\w)", said) is not None
    assert BUILT_IN["contains"](completions=[said], answer=[answer]) == [float(slow)]


def test_contains_reads_a_long_answer_in_a_long_text_in_no_time() -> None:
    said, answer = "!" * 100_000, "!" * 50_000 + "a"
    started = entropy.processor_time()
    assert BUILT_IN["contains"](completions=[said, f"{said}a"], answer=[answer, answer]) == [0, 1]
    long = ["b" * 200_000 + str(number) for number in range(8)]
    assert BUILT_IN["contains"](completions=["a"] * 8, answer=long) == [0] * 8
    assert entropy.processor_time() - started < 1


def test_a_pattern_without_end_takes_the_time_of_one_call_and_no_other_completions_mark() -> None:
    reward = reward_of(Client(name="a", data="x", reward="format((a|a|a|aa)+$)"), "format((a|a|a|aa)+$)")
    assert isinstance(reward, IsolatedReward)
    assert reward.asks == {"completions"}
    said = ["a" * 60 + "b"] * 12 + ["aaa"]
    started = entropy.stopwatch()
    paid = reward.within(Limits(seconds=6.5))(prompts=["p"] * 13, completions=said, completion_ids=[[0]] * 13)
    assert paid == [0.0] * 12 + [1.0]
    assert entropy.stopwatch() - started < 6.5


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


@pytest.mark.parametrize("task", sorted(ALL_TASKS))
def test_a_task_comes_with_a_reward(task: str) -> None:
    reward = reward_of(Client(name="owner", task=task), None)
    assert list(reward(completions=["5"], answer=["5"])) == [1.0]


def test_a_client_may_choose_another_reward() -> None:
    assert reward_of(Client(name="owner", task="add"), "percent") is BUILT_IN["percent"]


def test_module_and_function_name_a_reward_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "pays_length.py").write_text(
        "def pay(completions, **_):\n    return [float(len(said)) for said in completions]\n"
    )
    spec = f"{tmp_path}/pays_length.py:pay"
    reward = reward_of(Client(name="owner", data="rows.jsonl", reward=spec), spec)
    assert list(reward(completions=["abc"], answer=["5"])) == [3.0]


def test_an_unknown_reward_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnusableData, match=r"'best'; allowed are contains, exact, numeric, partial, .* or 'module:f"):
        reward_of(Client(name="owner", task="add"), "best")


def test_evaluation_counts_exact_answers_unless_told_otherwise() -> None:
    assert evaluation_reward(Evaluation()) is BUILT_IN["exact"]
    assert evaluation_reward(Evaluation(reward="signed")) is BUILT_IN["signed"]


NUMBERS = [
    "so 7-5",
    "x = -3.",
    "$1,250.50 in all",
    "2e3",
    "it is 3/4.",
    "3 / 4 = 0",
    "#### 42",
    "none",
    "12/0",
    "v2.1",
    ".5",
]
VALUES = [5, -3, 1250.5, 2000, 0.75, 0, 42, None, None, None, 0.5]


@pytest.mark.parametrize(("text", "value"), list(zip(NUMBERS, VALUES, strict=True)))
def test_the_last_number_of_a_text_is_read_as_people_write_it(text: str, value: float | None) -> None:
    assert number_in(text) == value


ONE = {"prompts": ["p"], "completion_ids": [[1]]}


@pytest.mark.parametrize(
    ("spec", "said", "answer", "paid"),
    [
        ("numeric", "It is 1,000.", "... #### 1000", 1),
        ("numeric", "It is 1,001.", "1000", 0),
        ("numeric(1)", "It is 1,001.", "1000", 1),
        ("numeric(0.5)", "1,001", "1000", 0),
        ("numeric", "nothing", "1000", 0),
        ("numeric", "1000", "unknown", None),
        (r"format(^<a>.*</a>$)", "<a>x\n</a>", "", 1),
        (r"format(^<a>.*</a>$)", "<a>x</a> y", "", 0),
        ("format((a+)+:$)", "a" * 200 + "b", "", 0),
    ],
)
@pytest.mark.parametrize("as_messages", [False, True])
def test_rewards_for_models_that_write_sentences(
    spec: str, said: str, answer: str, paid: float | None, as_messages: bool
) -> None:
    completion = [{"role": "assistant", "content": said}] if as_messages else said
    reward = reward_of(Client(name="a", data="x", reward=spec), spec)
    assert reward(completions=[completion], answer=[answer], **ONE) == [paid]


def test_length_pays_up_to_a_number_of_tokens_and_falls_to_nothing_at_twice_as_many() -> None:
    reward = reward_of(Client(name="a", data="x", reward="length(4)"), "length(4)")
    ids = [[1] * count for count in (1, 4, 5, 6, 8, 20)]
    assert reward(completions=[""] * 6, completion_ids=ids, prompts=["p"] * 6) == [1, 1, 0.75, 0.5, 0, 0]


@pytest.mark.parametrize("name", ["exact", "partial", "signed", "percent"])
def test_every_reward_reads_messages_as_the_texts_they_hold(name: str) -> None:
    messages = [[{"role": "assistant", "content": said}] for said in SAID]
    asked = {"prompts": ["p"] * len(SAID), "completion_ids": [[1]] * len(SAID), "answer": RIGHT}
    assert BUILT_IN[name](completions=messages, **asked) == BUILT_IN[name](completions=SAID, **asked)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("numeric(x)", "its tolerance must be a number above 0"),
        ("length(0)", "its tokens must be a number above 0"),
        ("format(()", "whose pattern is none"),
        (
            "exact(1)",
            r"argument there are numeric\(tolerance\), math\(tolerance\), format\(pattern\), length\(tokens\)",
        ),
        ("length", "allowed are contains, exact, numeric, partial, percent, signed"),
    ],
)
def test_a_reward_that_cannot_be_is_refused_with_what_is_allowed(spec: str, sentence: str) -> None:
    with pytest.raises(UnusableData, match=sentence) as refusal:
        reward_of(Client(name="a", data="x", reward=spec), spec)
    assert str(refusal.value).startswith("a asks for reward")
