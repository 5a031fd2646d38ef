"""What sampling and a training step cost on a device: tokens a second, seconds of a step, memory at its peak.

    python -m benchmarks device [--device cuda] [--model PATH] [--out FILE]

Each size is some prompts with eight completions of as many tokens as fit; nothing ends a completion but its length. One
line of `results/device.jsonl` for each call. The first call of each size is not timed; times are the best of three,
waited for to the end. Peaks are of what torch allocates on an accelerator; on the processor null.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch

from fgrpo_secure.config.schema import Adapter, Grpo, Model
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.grpo import local_update, rollouts
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.grpo.local_update import PromptGroups
from fgrpo_secure.learning.models import BaseModel

RESULT = Path(__file__).parent / "results" / "device.jsonl"
PROMPTS, GROUP, REPETITIONS = (1, 8, 32), 8, 3
LONGEST = 128  # tokens


def best(work: Callable[[], Any], device: torch.device) -> float:
    """Least seconds of `work`, until the device is done with it."""
    taken = []
    for _ in range(REPETITIONS + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return min(taken[1:])


def peak(work: Callable[[], Any], device: torch.device) -> int | None:
    """Bytes that `work` has allocated at most, beside what was there before; None where nobody counts."""
    if device.type != "cuda":
        work()
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def measured(adapted: AdaptedModel, prompts: int, length: int) -> dict[str, Any]:
    """One size."""
    device = adapted.network.device
    settings = Grpo(num_generations=GROUP, prompts_per_step=prompts, max_completion_length=length)
    asked = [f"{10 + number}+{20 + number}=" for number in range(prompts)]
    made = rollouts.sample(adapted, asked, settings, Streams(1))
    groups = PromptGroups(made, np.random.default_rng(1).normal(size=(prompts, GROUP)))
    seconds = best(lambda: rollouts.sample(adapted, asked, settings, Streams(1)), device)
    step = lambda: local_update.run(adapted, lambda _: groups, settings, 0, 1)  # noqa: E731 - one step, used twice
    return {
        "prompts": prompts,
        "completions": prompts * GROUP,
        "tokens": int(made.mask.sum()),
        "sampled_tokens_per_second": round(float(made.mask.sum()) / seconds),
        "step_seconds": round(best(step, device), 4),
        "step_peak_bytes": peak(step, device),
    }


class Endless(BaseModel):
    """A base whose completions end by their length alone."""

    @property
    def end_ids(self) -> list[int]:
        return []


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    base = models.load(Model(path=options.model, device=options.device, dtype=options.dtype))
    adapted = adapters.attach(base, Adapter(), 1)
    adapted.base = Endless(**{each.name: getattr(base, each.name) for each in fields(base)})
    length = min(LONGEST, base.context_length - 16)
    device = adapted.network.device
    line = {
        "benchmark": "device",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "model": Path(options.model).name,
        "dtype": options.dtype,
        "length": length,
        "sizes": [measured(adapted, prompts, length) for prompts in PROMPTS],
        **record.facts(),
    }
    record.append(options.out, line)
    sys.stdout.write(json.dumps(line, indent=1) + "\n")


if __name__ == "__main__":
    main()
