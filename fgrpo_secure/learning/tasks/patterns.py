"""Reward `format`: whether a pattern of the owner's is found in a completion.

Runs in a reward's own process, and each completion in one of its own: some patterns never come to an end on some texts,
and what that takes must be within the time that the owner's policy counts for a call. See `scored_alone`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import regex  # type: ignore[import-untyped]  # regex ships no types

from fgrpo_secure.learning.tasks import scored_alone
from fgrpo_secure.learning.tasks.rewards import Said, text_of


def formatted(completions: Sequence[Said], pattern: str, call_seconds: float, **_: Any) -> list[float | None]:
    """1 where the pattern is found in the completion, else 0; also where looking for it takes too long."""
    compiled, seconds = regex.compile(pattern, regex.DOTALL), scored_alone.share(call_seconds, len(completions))
    return [scored_alone.mark(partial(_found, compiled, text_of(said)), seconds) for said in completions]


def _found(pattern: "regex.Pattern[str]", text: str) -> float:
    return float(pattern.search(text) is not None)
