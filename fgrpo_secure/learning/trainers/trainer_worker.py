"""A process that trains for one owner, once: `python -m fgrpo_secure.learning.trainers.trainer_worker`.

    asks for a round --- request ---> this process --- fork ---> the trainer, in a session of its own
                     <-- answer ----------------------------------'
        ends, or wants no more --->   ends the trainer and whatever that started, then itself

The trainer has the base model to itself, so that nothing it does to a model, a generator or a library outlives the
round. This process runs none of its code: it ends it even where that holds the interpreter, or left its session. What a
trainer prints goes nowhere.
"""

import base64
import ctypes
import json
import math
import os
import select
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgrpo_secure.learning.grpo import reward_call, reward_worker
from fgrpo_secure.learning.grpo.isolated_reward import IsolatedReward, Limits
from fgrpo_secure.learning.grpo.reward_call import RewardError, RewardFunction
from fgrpo_secure.learning.trainers.lesson import LOGGED, Lesson, Trainer
from fgrpo_secure.learning.trainers.trainer_process import TRL

DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, prctl(2): a trainer that ends this process ends itself


def main() -> int:
    """Answer one request."""
    requests, replies = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    begin = reward_worker.read(requests)
    if begin is None:
        return 0
    prctl = ctypes.CDLL(None).prctl
    prctl(reward_worker.SUBREAPER, 1, 0, 0, 0)
    trainer = os.fork()
    if trainer == 0:
        try:
            os.setsid()
            prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
            requests.close()
            asked = json.loads(begin)
            sys.path[:] = asked["path"]
            reward_worker.write(replies, _answered(asked))
        finally:
            os._exit(0)
    replies.close()  # whoever asked sees an end without an answer when the trainer has ended
    select.select([requests.fileno(), os.pidfd_open(trainer)], [], [])
    reward_worker.end(trainer, set())
    return 0


def _answered(asked: Mapping[str, Any]) -> dict[str, Any]:
    spec = str(asked["spec"])
    try:
        trainer = _trainer(spec, asked["options"])
        return _trained(trainer, asked) if "rows" in asked else {}
    except RewardError as problem:  # ours, which quotes nothing
        return {"error": str(problem)}
    except BaseException as problem:  # noqa: BLE001 - an owner's trainer may raise anything, and none of it may show
        return {"error": f"trainer {_named(spec)!r} raised {type(problem).__name__}{_place(spec, problem)}"}


def _trainer(spec: str, options: Mapping[str, Any]) -> Trainer:
    if spec != TRL:
        loaded: Any = reward_call.load(spec, "trainer")
        return loaded  # type: ignore[no-any-return]  # whatever it returns is checked
    from fgrpo_secure.learning.trainers import trl_trainer  # TRL takes seconds to import

    trl_trainer.check(options)
    return trl_trainer.train


def _trained(trainer: Trainer, asked: Mapping[str, Any]) -> dict[str, Any]:
    import torch
    from safetensors.torch import load

    from fgrpo_secure.config.schema import Adapter, Client, Grpo, Model
    from fgrpo_secure.learning import adapters, models
    from fgrpo_secure.learning.tasks import reward_of

    torch.set_num_threads(asked["threads"])
    client, settings = Client.model_validate(asked["client"]), Adapter.model_validate(asked["adapter"])
    adapted = adapters.attach(models.load(Model.model_validate(asked["model"])), settings, 0)
    start = adapted.full_state()  # of `init_from`, else one that adds nothing to the base
    adapted.load_full_state(load(base64.b64decode(asked["factors"])))
    number = int(asked["training_round"])
    received = adapted.get_vector(number)
    adapted.trainable(number)
    limits = Limits(**asked["limits"])
    rewards = {str(spec or client.task): _limited(reward_of(client, spec), limits) for spec in client.rewards}
    lesson = Lesson(
        adapted.model,
        adapted.base.tokenizer,
        asked["rows"],
        rewards,
        client.reward_weights,
        Grpo.model_validate(asked["grpo"]),
        int(asked["steps"]),
        asked["options"],
        int(asked["seed"]),
        start,
    )
    seen = trainer(lesson)
    update = adapted.get_vector(number) - received
    return {"update": base64.b64encode(update.tobytes()).decode(), "rewards": _numbers(seen), "log": _logged(lesson)}


def _limited(function: RewardFunction, limits: Limits) -> RewardFunction:
    return function.within(limits) if isinstance(function, IsolatedReward) else function


def _numbers(seen: Any) -> list[float]:
    """Rewards that a trainer returns, those that are finite."""
    return [number for each in (() if seen is None else seen) if math.isfinite(number := float(each))]


def _logged(lesson: Lesson) -> dict[str, float]:
    """Of figures that only its owner looks at, those that are some: a wrong one costs no round."""
    found = {name: lesson.log.get(name) for name in LOGGED}
    return {name: each for name, each in found.items() if isinstance(each, float) and math.isfinite(each)}


def _named(spec: str) -> str:
    """Without the folder that it lies in."""
    return spec.rpartition("/")[2]


def _place(spec: str, problem: BaseException) -> str:
    """The line of the owner's own file that led there, if one did; else where it was raised."""
    own = spec.rpartition(":")[0]
    frames = [frame for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == own]
    return f" in {Path(own).name}, line {frames[-1].lineno}" if frames else reward_call.place(problem)


if __name__ == "__main__":
    sys.exit(main())
