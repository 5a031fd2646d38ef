"""A completion's mark by a library that reads it: no completion runs as code, takes long, or harms another's mark."""

from functools import partial
from pathlib import Path

import pytest
from sympy.parsing.sympy_parser import parse_expr

from fgrpo_secure import entropy
from fgrpo_secure.learning.tasks import scored_alone

# Each writes a file if it runs, in a way of its own; so would a model whose adapter a lying server chose.
ATTACKS = (
    "open({file!r}, 'w').close()",
    "__import__('pathlib').Path({file!r}).touch()",
    "[x for x in [open({file!r}, 'w')]]",
    "(lambda: open({file!r}, 'w'))()",
    "exec('open({file!r}, \"w\")')",
    'sin(\'open("{file}", "w").close()\')',
    "getattr(print, '__self__').open({file!r}, 'w')",
    "print.__self__.open({file!r}, 'w')",
)


def by_sympy(text: str) -> float:
    parse_expr(text)
    return 1.0


def by_python(text: str) -> float:
    eval(text)  # noqa: S307  # as some data sets of reasoning-gym do it
    return 1.0


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("library", [by_sympy, by_python])
def test_nothing_that_a_completion_says_runs(library, attack: str, tmp_path: Path) -> None:
    text = attack.format(file=str(tmp_path / "ran"))
    assert scored_alone.mark(lambda: library(text)) == 0.0
    assert not (tmp_path / "ran").exists()


def test_without_the_guard_these_attacks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive control: what is refused would have run."""
    monkeypatch.setattr(scored_alone, "_is_arithmetic", lambda code: True)
    ran = set()
    for number, attack in enumerate(ATTACKS):
        for library in (by_sympy, by_python):
            file = tmp_path / f"{number}"
            scored_alone.mark(partial(library, attack.format(file=str(file))))
            ran |= {number} if file.exists() else set()
    assert len(ran) >= 5


def test_arithmetic_is_read_as_ever() -> None:
    assert scored_alone.mark(lambda: float(parse_expr("3 + 4/2 - sqrt(4)"))) == 3.0
    assert scored_alone.mark(lambda: float(parse_expr("2*(3+4)", evaluate=False))) == 14.0
    assert scored_alone.mark(lambda: float(sum(eval("[1, 2, 3]")))) == 6.0  # noqa: S307


def test_a_power_that_never_ends_is_worth_nothing_and_ends_in_time() -> None:
    started = entropy.processor_time()
    assert scored_alone.mark(lambda: float(9**9**9**9)) == 0.0
    assert scored_alone.mark(lambda: 1.0) == 1.0, "the next one is marked"
    assert entropy.processor_time() - started < 1.0, "the time was another process's"


@pytest.mark.parametrize("failing", [lambda: 1 / 0, lambda: float(bytes(1 << 62)[0]), lambda: exit(3)])
def test_what_fails_is_worth_nothing(failing) -> None:
    assert scored_alone.mark(failing) == 0.0


def test_what_is_no_number_marks_nothing() -> None:
    assert scored_alone.mark(lambda: float("nan")) is None


def test_a_mark_takes_no_more_than_its_part_of_the_time_and_of_the_memory() -> None:
    started = entropy.stopwatch()
    assert scored_alone.mark(lambda: float(entropy.sleep(60) or 1), scored_alone.share(1.0, 4)) == 0.0
    assert entropy.stopwatch() - started < 30
    assert scored_alone.mark(lambda: float(len(bytearray(scored_alone.MEMORY)))) == 0.0
    assert scored_alone.share(60.0, 0) == scored_alone.share(60.0, 1) < 60.0
