"""An owner's reward function as the rest of the code sees it: a callable whose code runs elsewhere, within limits.

See `reward_worker`. Built-in rewards of our own code run where they are called; those of other libraries, which take
what a model wrote apart, run here.
"""

import json
import os
import select
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from fgrpo_secure.learning.grpo import reward_worker
from fgrpo_secure.learning.grpo.reward_call import LOGS, STATE, RewardError

LOADING_SECONDS = 300.0  # for a module that imports a model's libraries; before the run, so nobody learns how long
GRACE_SECONDS = 30.0  # beyond a call's own limit, before the worker itself counts as lost


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call of a reward function may use: an owner's own choice, whatever a server says."""

    seconds: float = 60.0
    memory_mib: int = 8192


class Worker:
    """The process of one reward function. It ends with this object, or with this process."""

    def __init__(self, spec: str, folder: str) -> None:
        self._spec = spec
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        path = [entry for entry in sys.path if entry]  # the empty one is the working folder, whatever lies there
        self._process = subprocess.Popen(
            [sys.executable, "-B", "-P", "-m", "fgrpo_secure.learning.grpo.reward_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=environment | {"PYTHONPATH": os.pathsep.join(path)},
            start_new_session=True,  # a Ctrl-C is for the run, which ends its workers
        )
        self._requests, self._replies = _pipe(self._process.stdin), _pipe(self._process.stdout)
        weakref.finalize(self, _close, self._process)
        loaded = self._answer(
            lambda: reward_worker.write(self._requests, {"spec": spec, "path": path}), LOADING_SECONDS
        )
        self.asks = frozenset(loaded["asks"])

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def call(self, arguments: Mapping[str, Any], limits: Limits) -> list[float | None]:
        """The function's rewards. Raises RewardError: also if there are none in time, which ends the worker."""
        seconds, most = limits.seconds, limits.memory_mib
        answer = self._answer(lambda: reward_worker.write_call(self._requests, arguments, seconds, most), seconds)
        rewards: list[float | None] = answer["rewards"]
        return rewards

    def _answer(self, ask: Callable[[], None], seconds: float) -> dict[str, Any]:
        try:
            ask()
            waiting = not select.select([self._replies], [], [], seconds + GRACE_SECONDS)[0]
            data = None if waiting else reward_worker.read(self._replies)
        except OSError:
            data = None
        if data is None:
            self._process.kill()
            self._process.wait()  # until then it would count as alive
            raise RewardError(f"reward {self._spec!r}: its process ended")
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise RewardError("the reward function wrote into its own answer")
        if "error" in answer:
            raise RewardError(str(answer["error"]))
        return answer


_workers: "weakref.WeakValueDictionary[tuple[str, str], Worker]" = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class IsolatedReward:
    """See the module. Raises RewardError and nothing else."""

    spec: str
    folder: str
    limits: Limits = Limits()
    options: Mapping[str, float | str] = field(default_factory=dict)  # arguments that are the same in every call
    divides_its_time: bool = False  # among completions: it is told `call_seconds`
    worker: list[Worker] = field(default_factory=list, repr=False, compare=False)  # one, replaced when it is lost

    @staticmethod
    def open(spec: str) -> "IsolatedReward":
        """The function that "module:function" or "/path/module.py:function" names."""
        made = IsolatedReward(spec, str(Path.cwd()))
        made.worker.append(_worker(spec, made.folder))
        return made

    @property
    def asks(self) -> frozenset[str]:
        """The arguments that the function needs of every row, by name."""
        return self.worker[0].asks - set(self._same_in_every_call())

    def within(self, limits: Limits) -> "IsolatedReward":
        """The same function, in the same process, with other limits."""
        return replace(self, limits=limits)

    def __call__(self, /, **arguments: Any) -> list[float | None]:
        if not self.worker[0].alive:
            self.worker[0] = _worker(self.spec, self.folder)
        given = {**arguments, **self._same_in_every_call()}
        sent = {name: value for name, value in given.items() if name not in LOGS}  # the call's process has its own
        if STATE in sent:
            sent[STATE] = vars(sent[STATE])
        return self.worker[0].call(sent, self.limits)

    def _same_in_every_call(self) -> dict[str, float | str]:
        return {**self.options, **({"call_seconds": self.limits.seconds} if self.divides_its_time else {})}


def _worker(spec: str, folder: str) -> Worker:
    """All owners of a process share one worker per function: no call leaves anything behind in it."""
    found = _workers.get((spec, folder))
    if found is None or not found.alive:
        found = _workers[spec, folder] = Worker(spec, folder)
    return found


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("the process was started without pipes")
    return stream


def _close(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:  # what was still to be written has nobody to read it
                continue
