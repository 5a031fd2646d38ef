"""An owner's trainer as the rest of the code sees it: a request that goes out, an answer that comes back.

See `trainer_worker`. Imports no torch: plans check trainers, too.
"""

import importlib.util
import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from typing import IO, Any

from fgrpo_secure import entropy
from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.learning.grpo import reward_worker
from fgrpo_secure.learning.grpo.isolated_reward import GRACE_SECONDS, LOADING_SECONDS

TRL = "trl"


class TrainerError(UnusableInput):
    """A trainer cannot be found or failed; the sentence names type and place, and quotes nothing."""


def check(spec: str, options: Mapping[str, Any], seconds: float = LOADING_SECONDS) -> None:
    """Returns if the trainer can be imported, in `seconds`, and takes these options. Raises TrainerError."""
    if spec == TRL and importlib.util.find_spec("trl") is None:
        raise TrainerError("trainer 'trl' needs TRL: pip install 'fgrpo-secure[trl]'")
    call({"spec": spec, "options": dict(options)}, seconds)


def call(request: Mapping[str, Any], seconds: float | None) -> dict[str, Any]:
    """The worker's answer to one request, in a process that ends with it. Raises TrainerError, also if there is none
    within `seconds`; None: however long it takes.

    The process and what it started live no longer than this one: it reads on from its pipe, and ends when nobody holds
    the other end.
    """
    path = [entry for entry in sys.path if entry]  # the empty one is the working folder, whatever lies there
    process = subprocess.Popen(
        [sys.executable, "-B", "-P", "-m", "fgrpo_secure.learning.trainers.trainer_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path), "TOKENIZERS_PARALLELISM": "false"},
        start_new_session=True,
    )
    with process:
        try:
            if process.stdin is None or process.stdout is None:
                raise TrainerError("the process was started without pipes")
            reward_worker.write(process.stdin, {**request, "path": path})
            data = _received(process.stdout, seconds)
        except TimeoutError:
            raise TrainerError(f"trainer {request['spec']!r} took longer than {seconds:g} seconds") from None
        except OSError:
            data = None
        finally:
            _end(process)
    return _answer(request["spec"], data)


def _end(process: subprocess.Popen[bytes]) -> None:
    """It ends the trainer and itself when the pipe closes; a trainer may have stopped it from doing so."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _received(stream: IO[bytes], seconds: float | None) -> bytes | None:
    """The answer's bytes; None if the process ended before. Raises TimeoutError, however the time was spent."""
    started, data, wanted = entropy.stopwatch(), bytearray(), reward_worker.HEADER
    while len(data) < wanted:
        left = None if seconds is None else max(0.0, seconds - (entropy.stopwatch() - started))
        if not select.select([stream], [], [], left)[0]:
            raise TimeoutError
        piece = os.read(stream.fileno(), min(wanted - len(data), reward_worker.PIECE))
        data += piece
        if len(data) == reward_worker.HEADER:
            wanted += int.from_bytes(data, "little")
        if not piece or wanted > reward_worker.LONGEST:
            return None
    return bytes(data[reward_worker.HEADER :])


def _answer(spec: str, data: bytes | None) -> dict[str, Any]:
    try:
        answer = None if data is None else json.loads(data)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise TrainerError(f"trainer {spec!r} ended its process, or needed more memory than there is")
    if "error" in answer:
        raise TrainerError(str(answer["error"]))
    return answer
