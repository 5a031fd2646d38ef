"""The engine of simulations: every client of a federation under one operator, the real messages through the real codec.

The owners live in one or more hosts: in this process, in worker processes (`engine.processes`), or over the machines of
a Ray cluster (`engine.kind = "ray"`).
The engine moves bytes between them and the server, and never sees inside a message.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue

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
from fgrpo_secure.engines.ray_hosts import RayHost
from fgrpo_secure.engines.worker_process import EngineError, HostPort, RemoteHost, WorkerProcess
from fgrpo_secure.ledger.witnessed import Witnessed
from fgrpo_secure.storage.run_directory import RunDirectory


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
        on_ray = config.engine.kind == "ray"
        if count == 1 and not on_ray:
            return Embedded([Host.open(directory, config, 0, 1)])
        hosts: list[RemoteHost] = [
            RayHost(directory, config, index, count) if on_ray else WorkerProcess(directory, index, count)
            for index in range(count)
        ]
        try:
            for host in hosts:
                host.wait_until_ready()
        except (EngineError, KeyboardInterrupt):
            for host in hosts:
                host.give_up()
                host.close()
            raise
        return Embedded(list(hosts))

    def give_up(self) -> None:
        """End all hosts at once. What they were doing is undone as after a crash."""
        for host in self.hosts:
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
            pumps = [pool.submit(pump, host, request) for host, request in zip(self.hosts, requests, strict=True)]
            open_hosts = len(self.hosts)
            while open_hosts:
                item = arrived.get()
                if item is None:
                    open_hosts -= 1
                elif isinstance(item, EngineError):
                    raise item
                else:
                    yield item
            for each in pumps:
                each.result()  # raises what no host should: never taken for owners that kept silent
