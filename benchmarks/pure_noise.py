"""A reward that has nothing to do with the task: the same completion always gets the same arbitrary mark."""

import hashlib
from collections.abc import Sequence
from typing import Any


def reward(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    """Uniform on 0..1, drawn by hashing prompt and completion."""
    texts = (f"{prompt}|{completion}" for prompt, completion in zip(prompts, completions, strict=True))
    return [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") / 2**32 for text in texts]
