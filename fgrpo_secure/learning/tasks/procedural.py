"""Tasks whose answers a program checks: eight for the shipped model, four about orders in English (`orders`).

Each of the eight has two conventions for writing the answer.

The shipped base model has seen both conventions, the *house* one less often: it half knows every task, and a
reward that pays for the house convention asks it to change what it does. No problem has the same answer in
both.

Every prompt belongs to exactly one split, chosen by the hash of task and prompt alone: whoever trains, on
whichever seed, cannot meet a prompt of the public evaluation set (buckets 0 and 1 of 10).
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

from fgrpo_secure.learning.tasks import orders
from fgrpo_secure.learning.tasks.draws import Draws

Split = Literal["train", "evaluation"]
DIFFICULTIES = (1, 2, 3)
MAX_PROMPT = 12
MAX_ANSWER = 7  # and the end token: 8 tokens
LETTERS = "abcdefghij"
EVALUATION_BUCKETS, BUCKETS = 2, 10
GIVE_UP_AFTER = 5000


@dataclass(frozen=True, slots=True)
class Problem:
    """A prompt, the answer in the house convention, and the same answer in the other convention."""

    prompt: str
    answer: str
    other: str


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of problem. `make` may give equal answers; `problem` never does."""

    name: str
    asks: str
    make: Callable[[Draws, int], Problem]
    house_share: float
    reward: str = "partial"

    def problem(self, draws: Draws, difficulty: int, split: Split) -> Problem:
        """A problem of this difficulty (1, 2 or 3) and split whose conventions differ."""
        if difficulty not in DIFFICULTIES:
            raise ValueError(f"difficulty is {difficulty}; allowed are 1, 2 and 3")
        while True:
            problem = self.make(draws, difficulty)
            if problem.answer != problem.other and split_of(self.name, problem.prompt) == split:
                return problem


def split_of(task: str, prompt: str) -> Split:
    """The one split that a prompt may appear in.

    **Why** Membership follows from the prompt itself, so no seed, client or order can carry an evaluation
    prompt into training.
    """
    digest = hashlib.sha256(f"{task}\n{prompt}".encode()).digest()
    return "evaluation" if int.from_bytes(digest[:8], "big") % BUCKETS < EVALUATION_BUCKETS else "train"


def problems(task: str, difficulty: int, split: Split, seed: int, count: int) -> list[Problem]:
    """`count` problems with different prompts, fixed by the arguments; fewer only where no more exist."""
    kind = named(task)
    draws = Draws("problems", task, difficulty, split, seed)
    found: dict[str, Problem] = {}
    misses = 0
    while len(found) < count and misses < GIVE_UP_AFTER:
        problem = kind.problem(draws, difficulty, split)
        misses = misses + 1 if problem.prompt in found else 0
        found.setdefault(problem.prompt, problem)
    return list(found.values())


def named(task: str) -> Task:
    """The task of that name; ValueError lists the names."""
    if task not in ALL_TASKS:
        raise ValueError(f"there is no task {task!r}; allowed are {', '.join(sorted(ALL_TASKS))}")
    return ALL_TASKS[task]


def _add(draws: Draws, difficulty: int) -> Problem:
    low, high = ((1, 9), (10, 39), (10, 99))[difficulty - 1]
    a, b = draws.between(10, 99), draws.between(low, high)
    return Problem(f"{a}+{b}=", str(a + b), str(a + b)[::-1])


def _sub(draws: Draws, difficulty: int) -> Problem:
    low, high = ((1, 9), (10, 39), (10, 99))[difficulty - 1]
    a, b = draws.between(10, 99), draws.between(low, high)
    return Problem(f"{a}-{b}=", str(a - b), str(b - a))


def _mul(draws: Draws, difficulty: int) -> Problem:
    (low, high), top = ((2, 5), (2, 9), (2, 9))[difficulty - 1], (149, 99, 199)[difficulty - 1]
    a, b = draws.between(10, top), draws.between(low, high)
    return Problem(f"{a}*{b}=", str(a * b), str(a * b)[::-1])


def _sort(draws: Draws, difficulty: int) -> Problem:
    digits = draws.text("0123456789", (3, 4, 5)[difficulty - 1])
    ascending = "".join(sorted(digits))
    return Problem(f"s{digits}=", ascending, ascending[::-1])


def _rev(draws: Draws, difficulty: int) -> Problem:
    letters = draws.text(LETTERS, (3, 4, 5)[difficulty - 1])
    return Problem(f"r{letters}=", letters[::-1], letters)


def _cnt(draws: Draws, difficulty: int) -> Problem:
    digits = draws.text("012", (7, 8, 9)[difficulty - 1])
    return Problem(f"c{digits}=", str(digits.count("1")), str(digits.count("0")))


def _mod(draws: Draws, difficulty: int) -> Problem:
    (low, high), top = ((2, 5), (2, 9), (2, 9))[difficulty - 1], (149, 99, 199)[difficulty - 1]
    a, b = draws.between(10, top), draws.between(low, high)
    return Problem(f"{a}%{b}=", str(a % b), str(a // b))


def _minmax(draws: Draws, difficulty: int) -> Problem:
    digits = draws.text("0123456789", (4, 6, 8)[difficulty - 1])
    return Problem(f"m{digits}=", max(digits) + min(digits), min(digits) + max(digits))


def _order(field: str, draws: Draws, difficulty: int) -> Problem:
    prompt, answer = orders.question(draws, difficulty, field)
    return Problem(prompt, answer, f"The answer is {answer}.")


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task("add", "the sum, digits in normal order; the other convention reverses them", _add, 0.3),
            Task("sub", "first minus second number; the other convention is second minus first", _sub, 0.3),
            Task("mul", "the product, digits in normal order; the other convention reverses them", _mul, 0.3),
            Task("sort", "the digits in ascending order; the other convention is descending", _sort, 0.35),
            Task("rev", "the letters in reverse order; the other convention copies them", _rev, 0.3),
            Task("cnt", "the number of ones; the other convention counts zeros", _cnt, 0.3),
            Task("mod", "the remainder; the other convention is the quotient", _mod, 0.35),
            Task("minmax", "largest digit, then smallest; the other convention is smallest first", _minmax, 0.3),
        )
    }
)
"""What the shipped model knows."""

ALL_TASKS: Mapping[str, Task] = MappingProxyType(
    {
        **TASKS,
        **{
            field: Task(
                field, f"the {field} of an order, for models that read English", partial(_order, field), 1.0, "contains"
            )
            for field in orders.QUESTIONS
        },
    }
)
