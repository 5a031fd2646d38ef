"""A reward of one's own: full pay for the right total, a little for a total within the row's tolerance.

Called as TRL calls a reward: completions and every column of the data file by keyword, a list of floats back.
"""

from collections.abc import Sequence
from typing import Any

NEAR = 0.3


def closeness(
    completions: Sequence[str], total: Sequence[int], tolerance: Sequence[int], **_: Any
) -> list[float | None]:
    """1 for the total, 0.3 within the tolerance, 0 for anything else, text included."""
    return [_pay(said, right, near) for said, right, near in zip(completions, total, tolerance, strict=True)]


def _pay(said: str, right: int, near: int) -> float:
    if not said.strip().isdecimal():
        return 0.0
    distance = abs(int(said) - right)
    if distance == 0:
        return 1.0
    return NEAR if distance <= near else 0.0
