"""The embedded engine: every client of a federation on one machine, the real messages through the real codec.

The owners live in one or more hosts: in this process, or each in a worker process of its own (`engine.processes`).
The engine moves bytes between them and the server, and never sees inside a message.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import IO, Protocol

from fgrpo_secure.config.schema import Config
from fgrpo_secure.engines import messages as frames
from fgrpo_secure.engines.host import Host
from fgrpo_secure.engines.messages import (
    Answer,
    Begin,
    Costs,
    Finish,
    Recover,
    Recovered,
    Reply,
    Request,
    Witness,
)
from fgrpo_secure.errors import CheckFailed
from fgrpo_secure.ledger.witnessed import Witnessed
from fgrpo_secure.storage.run_directory import RunDirectory


class EngineError(CheckFailed, RuntimeError):
    """A host process ended or failed; the sentence says which and why."""


class HostPort(Protocol):
    """Something that holds owners and answers requests about them."""

    def handle(self, request: Request) -> Iterator[Reply]: ...

    def close(self) -> None: ...


class WorkerProcess:
    """A host in a process of its own, spoken to over pipes."""

    def __init__(self, directory: RunDirectory, index: int, count: int) -> None:
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
        path = os.pathsep.join(entry for entry in sys.path if entry)  # the worker imports what this process does
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path}
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
        frames.write(self._pipe(self._process.stdin), request)
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


@dataclass
class Embedded:
    """All hosts of a run. `refusals` are clients that said no to a plan, with their public reasons.

    `on_trained` hears how many clients of how many have trained. It is no part of the port: where clients have machines
    of their own nobody is told when one is done.
    """

    hosts: list[HostPort]
    refusals: dict[int, str] = field(default_factory=dict)
    number: int = 0
    on_trained: Callable[[int, int], None] | None = None

    @staticmethod
    def start(directory: RunDirectory, config: Config) -> "Embedded":
        """Open the hosts. Raises EngineError or what a host's own data raises."""
        count = min(config.engine.processes, config.clients_total)
        if count == 1:
            return Embedded([Host.open(directory, config, 0, 1)])
        workers = [WorkerProcess(directory, index, count) for index in range(count)]
        try:
            for worker in workers:
                worker.wait_until_ready()
        except (EngineError, KeyboardInterrupt):
            for worker in workers:
                worker.give_up()
                worker.close()
            raise
        return Embedded(list(workers))

    def give_up(self) -> None:
        """End all workers at once. What they were doing is undone as after a crash."""
        for host in self.hosts:
            if isinstance(host, WorkerProcess):
                host.give_up()

    def close(self) -> None:
        """End all hosts."""
        for host in self.hosts:
            host.close()

    def recover(self, sessions: list[bytes]) -> int:
        """See Engine. All owners answer: they are here."""
        replies = self._ask_all(Recover(sessions))
        return sum(reply.masked for reply in replies if isinstance(reply, Recovered))

    def invite(self, number: int, adapter: bytes, roster: bytes) -> None:
        """See Engine. Every owner has the model and the roster when this returns."""
        self.refusals.clear()
        self.number = number
        for _ in self._ask_all(Begin(adapter, number, roster)):
            pass

    def witness(
        self,
        session: bytes,
        exhibits: Mapping[int, bytes],
        seconds: float,  # noqa: ARG002
        holds: Callable[[Witnessed], bool],  # noqa: ARG002
    ) -> list[Witnessed]:
        """See Engine. Owners are in the call: no deadline is needed."""
        batches: list[dict[int, bytes]] = [{} for _ in self.hosts]
        for client, exhibit in exhibits.items():
            batches[client % len(batches)][client] = exhibit
        replies = self._ask([Witness(session, batch) for batch in batches])
        return sorted((reply for reply in replies if isinstance(reply, Witnessed)), key=lambda reply: reply.client)

    def costs(self) -> Costs:
        """What the round cost its owners. No part of the port: no other engine can know it."""
        costs = [reply for reply in self._ask_all(Finish()) if isinstance(reply, Costs)]
        return Costs(
            rollouts_total=sum(cost.rollouts_total for cost in costs),
            training_total=sum(cost.training_total for cost in costs),
            training_slowest=max(cost.training_slowest for cost in costs),
            privacy_total=sum(cost.privacy_total for cost in costs),
            privacy_slowest=max(cost.privacy_slowest for cost in costs),
        )

    def exchange(
        self,
        step: str,
        outgoing: Mapping[int, bytes],
        seconds: float,  # noqa: ARG002 - owners are in the call, which ends when they have answered
    ) -> Iterator[tuple[int, bytes]]:
        """See Engine."""
        batches: list[dict[int, bytes]] = [{} for _ in self.hosts]
        for client in outgoing:  # each message is made when it is asked for: ask once
            batches[client % len(batches)][client] = outgoing[client]
        requests = [frames.Step(step, batch, watched=self.on_trained is not None) for batch in batches]
        trained = 0
        for reply in self._ask(requests):
            if isinstance(reply, frames.Trained):
                trained += 1
                if self.on_trained is not None:
                    self.on_trained(trained, len(outgoing))
                continue
            if not isinstance(reply, Answer):
                raise EngineError(f"a host answered a protocol step with {type(reply).__name__}")
            if reply.payload is None:
                self.refusals[reply.client] = reply.refusal or "no reason given"
            else:
                yield reply.client, reply.payload

    def _ask_all(self, request: Request) -> Iterable[Reply]:
        return self._ask([request] * len(self.hosts))

    def _ask(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """Ask all hosts at once; replies interleave in the order in which they arrive."""
        if len(self.hosts) == 1:
            yield from self.hosts[0].handle(requests[0])
            return
        arrived: SimpleQueue[Reply | EngineError | None] = SimpleQueue()

        def pump(host: HostPort, request: Request) -> None:
            try:
                for reply in host.handle(request):
                    arrived.put(reply)
            except EngineError as problem:
                arrived.put(problem)
            finally:
                arrived.put(None)

        with ThreadPoolExecutor(len(self.hosts)) as pool:
            for host, request in zip(self.hosts, requests, strict=True):
                pool.submit(pump, host, request)
            open_hosts = len(self.hosts)
            while open_hosts:
                item = arrived.get()
                if item is None:
                    open_hosts -= 1
                elif isinstance(item, EngineError):
                    raise item
                else:
                    yield item
