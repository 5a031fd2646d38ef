"""Reward `math`: whether a completion's answer is the row's, as math-verify reads both (Hugging Face, Apache 2.0).

Runs in a reward's own process, and each completion in one of its own: see `scored_alone`, whose limits take the place
of math-verify's, which are a signal's handlers and cannot end a computation in C. Needs the extra `math`.
"""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import math_verify
from sympy import Expr

from fgrpo_secure.learning.tasks import scored_alone
from fgrpo_secure.learning.tasks.rewards import TOLERANCE, Said, text_of

MARKED = ("$", r"\(", r"\[", r"\boxed")  # how a text says that a part of it is mathematics
WARM = r"$\frac{1}{2}$ or 2+3"  # what is set up for a first reading would be set up anew for every completion


def math_answer(
    completions: Sequence[Said], answer: Sequence[str], call_seconds: float, tolerance: float = TOLERANCE, **_: Any
) -> list[float | None]:
    """1 for the answer, in whatever form, or a number within `tolerance` of it; else 0. Answers that cannot be read
    mark nothing."""
    seconds = scored_alone.share(call_seconds, len(completions))
    return [
        scored_alone.mark(partial(_of_one, text_of(said), right, tolerance), seconds)
        for said, right in zip(completions, answer, strict=True)
    ]


def _of_one(said: str, right: str, tolerance: float) -> float:
    """NaN for an answer that cannot be read."""
    wanted = _read(right if any(each in right for each in MARKED) else f"${right}$")
    if not wanted:
        return math.nan
    found, digits = _read(said), max(0, round(-math.log10(tolerance)))
    same = math_verify.verify(wanted, found, float_rounding=digits, timeout_seconds=None)
    return float(same or _close(wanted, found, tolerance))


def _read(text: str) -> list[Any]:
    """What a text says, by math-verify's own rules: of several things the one that is most likely the answer."""
    read: list[Any] = math_verify.parse(text, fallback_mode="no_fallback", parsing_timeout=None)
    return read


def _close(wanted: Iterable[Any], found: Iterable[Any], tolerance: float) -> bool:
    pairs = ((_number(one), _number(other)) for one in wanted for other in found)
    return any(one is not None and other is not None and abs(one - other) <= tolerance for one, other in pairs)


def _number(read: Any) -> float | None:
    return float(read) if isinstance(read, Expr) and read.is_number and read.is_real else None


math_verify.verify(_read(WARM), _read("5"), timeout_seconds=None)
