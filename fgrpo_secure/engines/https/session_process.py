"""The process that holds an owner's books, model and data while there is something to do; asked over a pipe.

The daemon itself loads neither torch nor numpy: a client that waits for its next round costs what a connection costs.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

from fgrpo_secure.engines import messages as frames
from fgrpo_secure.engines.messages import Reply, Request


class SessionEnded(Exception):
    """The process is gone, or cannot go on; its records are as after any crash."""


class SessionProcess:
    """`python -P -m MODULE ARGUMENT ...`, started when it is first asked."""

    def __init__(self, module: str, arguments: Sequence[str]) -> None:
        self._command = [sys.executable, "-P", "-m", module, *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    def ask(self, request: Request) -> list[Reply]:
        """The replies to one request. Raises SessionEnded; the next call starts a new process."""
        process = self._process or self._start()
        try:
            if process.stdin is None:
                raise SessionEnded("the process has no pipe")
            frames.write(process.stdin, request)
            return self._replies(process)
        except (OSError, SessionEnded):
            self.end()
            raise SessionEnded("the session's process ended unexpectedly; its last words are in the log") from None

    def end(self) -> None:
        """Close the pipe, which ends the process, and wait for that."""
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    continue  # what was written last could not be sent: it is gone already
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path}
        environment["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # to look for accelerators without beginning to use one
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )
        self._replies(self._process)  # it says when it is ready
        return self._process

    @staticmethod
    def _replies(process: subprocess.Popen[bytes]) -> list[Reply]:
        replies: list[Reply] = []
        while True:
            reply = None if process.stdout is None else frames.read_reply(process.stdout)
            if reply is None or isinstance(reply, frames.Failed):
                raise SessionEnded("the process ended")
            if isinstance(reply, frames.Done):
                return replies
            replies.append(reply)
