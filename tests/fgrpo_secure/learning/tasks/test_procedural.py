"""Procedural tasks: right answers, sizes, and an evaluation set that training cannot meet."""

import hashlib
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgrpo_secure.config.schema import Client
from fgrpo_secure.learning.tasks import ALL_TASKS, TASKS, evaluation_set, open_source, problems, split_of
from fgrpo_secure.learning.tasks.draws import Draws
from fgrpo_secure.learning.tasks.make_base_model import CHARACTERS, draw_answered
from fgrpo_secure.learning.tasks.procedural import DIFFICULTIES, MAX_ANSWER, MAX_PROMPT

LEVELS = [(task, level) for task in sorted(TASKS) for level in DIFFICULTIES]


def operands(prompt: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)[-+*%](\d+)=", prompt)
    assert match
    return int(match[1]), int(match[2])


def body(prompt: str) -> str:
    return prompt[1:-1]


def reversed_text(text: str) -> str:
    return "".join(text[place] for place in range(len(text) - 1, -1, -1))


def quotient(a: int, b: int) -> int:
    times = 0
    while (times + 1) * b <= a:
        times += 1
    return times


# The answers again, written differently: (house, other) from the prompt alone.
ORACLE: dict[str, Callable[[str], tuple[str, str]]] = {
    "add": lambda p: (str(sum(operands(p))), reversed_text(str(sum(operands(p))))),
    "sub": lambda p: (str(operands(p)[0] + -operands(p)[1]), str(operands(p)[1] + -operands(p)[0])),
    "mul": lambda p: (
        str(sum([operands(p)[0]] * operands(p)[1])),
        reversed_text(str(sum([operands(p)[0]] * operands(p)[1]))),
    ),
    "sort": lambda p: (
        "".join(digit * body(p).count(digit) for digit in "0123456789"),
        "".join(digit * body(p).count(digit) for digit in "9876543210"),
    ),
    "rev": lambda p: (reversed_text(body(p)), body(p)),
    "cnt": lambda p: (str(len(body(p).split("1")) - 1), str(len(body(p).split("0")) - 1)),
    "mod": lambda p: (str(operands(p)[0] - quotient(*operands(p)) * operands(p)[1]), str(quotient(*operands(p)))),
    "minmax": lambda p: (sorted(body(p))[-1] + sorted(body(p))[0], sorted(body(p))[0] + sorted(body(p))[-1]),
}


@pytest.mark.parametrize(("task", "level"), LEVELS)
def test_answers_are_right_in_both_conventions_and_never_the_same(task: str, level: int) -> None:
    for problem in problems(task, level, "train", 3, 150):
        assert (problem.answer, problem.other) == ORACLE[task](problem.prompt)
        assert problem.answer != problem.other


@pytest.mark.parametrize(("task", "level"), LEVELS)
def test_problems_fit_the_base_model(task: str, level: int) -> None:
    for problem in problems(task, level, "train", 5, 150):
        assert len(problem.prompt) <= MAX_PROMPT
        assert max(len(problem.answer), len(problem.other)) <= MAX_ANSWER
        assert set(problem.prompt + problem.answer + problem.other) <= set(CHARACTERS)


@pytest.mark.parametrize(("task", "level"), LEVELS)
def test_every_level_has_at_least_100_different_evaluation_problems(task: str, level: int) -> None:
    rows = evaluation_set(task, level, 100)
    assert len({row["prompt"] for row in rows}) == len(rows) == 100


def test_an_exhausted_level_gives_each_problem_once_and_ends() -> None:
    rows = evaluation_set("mod", 1, 10_000)
    everything = {
        f"{a}%{b}="
        for a in range(10, 150)
        for b in range(2, 6)
        if split_of("mod", f"{a}%{b}=") == "evaluation" and a % b != a // b
    }
    assert sorted(row["prompt"] for row in rows) == sorted(everything)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_no_client_meets_an_evaluation_prompt_in_training(task: str) -> None:
    evaluated = {row["prompt"] for level in DIFFICULTIES for row in evaluation_set(task, level, 300)}
    for level in DIFFICULTIES:
        source = open_source(Client(name="owner", task=task, difficulty=level), seed=11, index=2)
        trained = {row["prompt"] for step in range(4) for row in source.batch(0, step, 100)}
        assert not trained & evaluated


def test_the_base_model_never_meets_an_evaluation_prompt_in_training() -> None:
    evaluated = {row["prompt"] for task, level in LEVELS for row in evaluation_set(task, level, 300)}
    trained = {prompt for prompt, _ in draw_answered(Draws("base-model", 0), 3000)}
    assert not trained & evaluated


@given(st.sampled_from(sorted(TASKS)), st.text(max_size=12))
def test_the_split_is_the_stated_hash_of_task_and_prompt(task: str, prompt: str) -> None:
    hexadecimal = hashlib.sha256(f"{task}\n{prompt}".encode()).hexdigest()[:16]
    assert split_of(task, prompt) == ("evaluation" if int(hexadecimal, 16) % 10 in (0, 1) else "train")


def test_one_prompt_in_five_is_kept_for_evaluation() -> None:
    kept = sum(split_of("add", f"{number}+1=") == "evaluation" for number in range(10_000))
    assert abs(kept - 2000) < 4 * 40  # binomial: standard deviation 40


def test_another_seed_gives_other_problems_and_the_same_seed_the_same() -> None:
    first, again, other = (problems("rev", 3, "train", seed, 20) for seed in (1, 1, 2))
    assert first == again
    assert not {p.prompt for p in first} & {p.prompt for p in other}


@pytest.mark.parametrize("level", [0, 4])
def test_an_unknown_difficulty_is_refused(level: int) -> None:
    with pytest.raises(ValueError, match="allowed are 1, 2 and 3"):
        problems("add", level, "train", 0, 1)


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no task 'sums'; allowed are add, amount, city, cnt, customer"):
        problems("sums", 1, "train", 0, 1)


FIELDS = {
    "customer": r"\b(Ann|Ben|Cleo|Dan|Eve|Finn|Greta|Hugo)\b",
    "amount": r"\b(\d+)\b",
    "city": r"\b(Berlin|Paris|Rome|Madrid|Oslo|Vienna|Lisbon|Prague)\b",
    "day": r"\b(\w+day)\b",
}


@pytest.mark.parametrize("level", DIFFICULTIES)
@pytest.mark.parametrize("task", sorted(set(ALL_TASKS) - set(TASKS)))
def test_an_order_holds_its_answer_once_and_held_out_ones_are_never_trained_on(task: str, level: int) -> None:
    trained = problems(task, level, "train", 3, 50)
    held_out = problems(task, level, "evaluation", 0, 50)
    assert len(trained) == len(held_out) == 50
    assert not {each.prompt for each in trained} & {each.prompt for each in held_out}
    for each in (*trained, *held_out):
        order = re.sub(r"(Which|How|Who) .*", "", each.prompt)
        found = [word for word in re.findall(FIELDS[task], order) if task != "day" or word != "day"]
        assert found == [each.answer], each.prompt
