"""A step of the built-in loop beside one of TRL's GRPOTrainer: same model, prompts and settings, in turns, in one run.

    python -m benchmarks beside_trl --pairs 5                                            # the shipped model, 8 x 8 x 8
    python -m benchmarks beside_trl --model FOLDER --shape 4 8 32 --steps 2 --pairs 3    # SmolLM2
    python -m benchmarks beside_trl --model FOLDER --shape 4 8 32 --dtype bfloat16 --steps 2 --pairs 3

Processor seconds of one thread, so that a loaded machine does not decide. Ours is a client's whole round (sampling,
rewards, steps, its view) divided by its steps; of TRL's the first step, its set-up and its end are left out. Learning
rates are so small that both sample from the same model all along. Appends one JSON line to `results/beside_trl.jsonl`:

    ours_s, trl_s     processor seconds of a step, each pair           ratio     of each pair: TRL's over ours
    tokens            in a completion on average, ours
    of_gemm           what ours reaches of the rate of a matrix product (1024^3, this dtype), measured before each pair:
                      two operations a weight and token for sampling, four for a step whose base is frozen
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import sys
import tempfile
import time
import warnings
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import record
import torch
from transformers import TrainerCallback
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as hub_logging

from fgrpo_secure.client import own_view
from fgrpo_secure.client.owner import Owner, make_owners
from fgrpo_secure.config.files import load
from fgrpo_secure.config.schema import Config
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.tasks import reward_of
from fgrpo_secure.learning.trainers import trl_trainer
from fgrpo_secure.learning.trainers.lesson import Lesson
from fgrpo_secure.plan import round_settings

RESULT = Path(__file__).parent / "results" / "beside_trl.jsonl"
SIDE = 1024  # of the square matrices whose product is timed
CONFIG = """
[run]
entropy = "seeded"
[grpo]
learning_rate = 1e-9
[privacy]
unit = "none"
[[client]]
name = "mine"
"""


class Clock(TrainerCallback):
    """When each of TRL's steps ended, by the processor's clock."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note it."""
        self.ends.append(time.process_time())


def configured(asked: argparse.Namespace, folder: Path) -> Config:
    """A client with a task of the shipped model's, or with orders in messages for a model that reads them."""
    (folder / "run.toml").write_text(CONFIG + f'task = "{"add" if asked.model == "builtin" else "customer"}"\n')
    prompts, completions, tokens = asked.shape
    sets = [f"model.path={asked.model}", f"model.dtype={asked.dtype}", f"federation.local_steps={asked.steps}"]
    sets += [f"grpo.prompts_per_step={prompts}", f"grpo.num_generations={completions}"]
    sets += [f"grpo.max_completion_length={tokens}"]
    if asked.model != "builtin":
        sets += ["grpo.prompts=chat", 'adapter.targets=["q_proj", "v_proj", "down_proj"]', "adapter.rank=8"]
    return load(str(folder / "run.toml"), sets)


def ours(adapted: AdaptedModel, owner: Owner, config: Config) -> float:
    """Processor seconds of a step."""
    started = time.process_time()
    owner.train(adapted, round_settings.for_round(config, 0, 0))
    return (time.process_time() - started) / config.federation.local_steps


def trls(adapted: AdaptedModel, owner: Owner, config: Config) -> float:
    """Processor seconds of a step, on average of all but the first."""
    clock, client, steps = Clock(), config.client[0], config.federation.local_steps
    rows = [row for step in range(steps) for row in owner.source.batch(0, step, config.grpo.prompts_per_step)]
    received = adapted.get_vector(0)
    adapted.trainable(0)
    rewards = {str(spec or client.task): reward_of(client, spec) for spec in client.rewards}
    usual = trl_trainer.GRPOTrainer
    trl_trainer.GRPOTrainer = partial(usual, callbacks=[clock])  # type: ignore[misc,assignment]
    try:
        tokenizer = adapted.base.tokenizer
        with redirect_stdout(io.StringIO()):  # TRL prints a line for each step
            start = adapted.full_state()
            trl_trainer.train(Lesson(adapted.model, tokenizer, rows, rewards, None, config.grpo, steps, {}, 0, start))
    finally:
        trl_trainer.GRPOTrainer = usual  # type: ignore[misc]
        adapted.set_vector(0, received)
    return (clock.ends[-1] - clock.ends[0]) / (len(clock.ends) - 1)


def gemm_rate(dtype: str) -> float:
    """Operations a processor second in a product of two square matrices: the best of five."""
    one = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    rates = []
    for _ in range(5):
        started = time.process_time()
        torch.mm(one, one)
        rates.append(2 * SIDE**3 / (time.process_time() - started))
    return max(rates)


def operations(adapted: AdaptedModel, owner: Owner, config: Config, tokens: float) -> float:
    """Of one step: what linear layers must do for its tokens, and nothing else."""
    linear = [each for each in adapted.network.modules() if isinstance(each, torch.nn.Linear | Conv1D)]
    weights = sum(each.weight.numel() for each in linear)
    prompts = owner.source.batch(0, 0, config.grpo.prompts_per_step)
    texts = [row["prompt"] for row in prompts]
    if config.grpo.prompts == "chat":
        template = adapted.base.tokenizer.apply_chat_template
        asked = [[{"role": "user", "content": text}] for text in texts]
        lengths = [len(template(each, add_generation_prompt=True, return_dict=True)["input_ids"]) for each in asked]
    else:
        lengths = [len(adapted.base.tokenizer(text)["input_ids"]) for text in texts]
    return 6.0 * weights * (sum(lengths) + len(texts) * config.grpo.num_generations * tokens)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--shape", type=int, nargs=3, default=(8, 8, 8), help="prompts, completions of each, tokens")
    parser.add_argument("--steps", type=int, default=6, help="in each turn")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--warm", type=int, default=1, help="pairs before, which are not counted")
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    hub_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    mine, others, rates = [], [], []
    with tempfile.TemporaryDirectory() as name:
        config = configured(asked, Path(name))
        # A model for each: what TRL leaves behind in one must not be in the other's way.
        sides = [adapters.attach(models.load(config.model), config.adapter, 0) for _ in range(2)]
        (owner,) = make_owners(config.client, 0, {0}, Path(name) / "owners").values()
        for pair in range(-asked.warm, asked.pairs):
            rates.append(gemm_rate(asked.dtype))
            mine.append(ours(sides[0], owner, config))
            others.append(trls(sides[1], owner, config))
            sys.stderr.write(f"{pair}: {mine[-1]:.3f} s, TRL {others[-1]:.3f} s\n")
        tokens = mean(view.length for view in own_view.read(owner.log))
        needed = operations(sides[0], owner, config, tokens)
    mine, others = mine[asked.warm :], others[asked.warm :]
    ratios = [theirs / own for own, theirs in zip(mine, others, strict=True)]
    label = asked.model if asked.model == "builtin" else Path(asked.model).name
    line = {
        "model": label, "dtype": asked.dtype, "shape": list(asked.shape), "steps": asked.steps,
        "ours_s": [round(each, 4) for each in mine], "trl_s": [round(each, 4) for each in others],
        "ratio": [round(each, 2) for each in ratios], "median": round(median(ratios), 2), "tokens": round(tokens, 2),
        "gemm": f"{median(rates) / 1e9:.1f} GFLOP/s", "of_gemm": round(needed / median(mine) / median(rates), 3),
        **record.facts(),
    }  # fmt: skip
    record.append(asked.out, line)
    sys.stdout.write(json.dumps(line) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
