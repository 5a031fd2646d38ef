"""Where the owners of a simulation are held: hosts that answer an engine's requests, such as a worker process."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO, Protocol

from fgrpo_secure.engines import messages as frames
from fgrpo_secure.engines.messages import Reply, Request
from fgrpo_secure.errors import CheckFailed
from fgrpo_secure.storage.run_directory import RunDirectory


class EngineError(CheckFailed, RuntimeError):
    """A host process ended or failed; the sentence says which and why."""


class HostPort(Protocol):
    """Something that holds owners and answers requests about them."""

    def handle(self, request: Request) -> Iterator[Reply]: ...

    def give_up(self) -> None:
        """End at once, whatever it is doing: whoever waits for its reply gets an EngineError."""

    def close(self) -> None: ...


def imported_from() -> list[str]:
    """Where this process imports from, but not the working folder, whatever that is."""
    return [entry for entry in sys.path if entry]


class RemoteHost(HostPort, Protocol):
    """One that is started first, and ready later."""

    def wait_until_ready(self) -> None:
        """Blocks while the host loads its model and opens its owners' stores. Raises EngineError."""


class WorkerProcess:
    """A host in a process of its own, spoken to over pipes. It imports from `path`, or as this process does."""

    def __init__(self, directory: RunDirectory, index: int, count: int, path: Sequence[str] | None = None) -> None:
        self._name = f"worker {index}"
        command = [
            sys.executable,
            "-P",  # not from the working folder: protocols.py of an owner would hide ours
            "-m",
            "fgrpo_secure.engines.worker",
            str(directory.root),
            str(index),
            str(count),
        ]
        paths = os.pathsep.join(imported_from() if path is None else path)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": paths}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # a Ctrl-C is for the run, which ends its workers
        )

    def wait_until_ready(self) -> None:
        """Blocks while the process loads its model and opens its owners' stores."""
        for _ in self._replies():
            pass

    def handle(self, request: Request) -> Iterator[Reply]:
        try:
            frames.write(self._pipe(self._process.stdin), request)
        except BrokenPipeError:
            raise EngineError(f"{self._name} ended unexpectedly; its last words are above") from None
        yield from self._replies()

    def give_up(self) -> None:
        """End the process at once, whatever it is doing: whoever waits for its reply gets an EngineError."""
        self._process.kill()

    def close(self) -> None:
        """Ask the process to end, and wait for it."""
        with suppress(BrokenPipeError):  # it ended before it took what was written
            self._pipe(self._process.stdin).close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._pipe(self._process.stdout).close()

    def _replies(self) -> Iterator[Reply]:
        while True:
            reply = frames.read_reply(self._pipe(self._process.stdout))
            if reply is None:
                raise EngineError(f"{self._name} ended unexpectedly; its last words are above")
            if isinstance(reply, frames.Failed):
                raise EngineError(f"{self._name}: {reply.reason}")
            if isinstance(reply, frames.Done):
                return
            yield reply

    @staticmethod
    def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
        if stream is None:
            raise EngineError("a worker has no pipe")
        return stream
