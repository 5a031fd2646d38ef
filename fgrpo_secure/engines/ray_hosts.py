"""Hosts as Ray actors: the owners of a simulation over the machines of a cluster (`engine.kind = "ray"`).

    driver   this process: the server's stages and files, and a `RayHost` for each actor
    actor    a process that Ray starts somewhere: it starts a worker process there and passes its frames on

Frames cross as bytes; Ray sees inside none. Whoever runs the cluster can read every owner's store, as with the embedded
engine. Where a machine has disks of its own, the stores of its owners are there while the run goes on: see
`ray_stores`. Ray is an extra: `pip install fgrpo-secure[ray]`.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from fgrpo_secure.config.schema import Config
from fgrpo_secure.engines import messages as frames
from fgrpo_secure.engines import ray_cluster, ray_stores
from fgrpo_secure.engines.messages import Reply, Request
from fgrpo_secure.engines.worker_process import EngineError, WorkerProcess, imported_from
from fgrpo_secure.storage import owners_folder
from fgrpo_secure.storage.owners_folder import Away
from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError

READY = 600  # seconds until a cluster has room for a host
IN_FLIGHT = 8  # replies of one host that wait to be read: uploads of a large adapter must not pile up in Ray's memory


class HostActor:
    """In a process of Ray's: one worker process, ended with it. What goes wrong is said, not raised: Ray would add its
    own pages to one sentence."""

    def __init__(self, directory: RunDirectory, index: int, count: int, path: list[str]) -> None:
        self._directory, self._index, self._count, self._path = directory, index, count, path
        self._worker: WorkerProcess | None = None

    def elsewhere(self, mark: str) -> str | None:
        """None where this machine has the driver's folder of owners, by the mark that the driver left in it; else its
        address."""
        return None if ray_stores.has_mark(self._directory, mark) else ray_cluster.own_address()

    def keep(self, shared: dict[str, bytes], own: dict[str, bytes] | None, move: str) -> str | None:
        """See `ray_stores.lay_out`. Gives what keeps it from that."""
        try:
            ray_stores.lay_out(self._directory, self._index, shared, own, move)
        except (RunDirectoryError, OSError) as problem:
            return str(problem)
        return None

    def open(self) -> str | None:
        """Start the worker; gives what keeps it from being ready."""
        self._worker = WorkerProcess(self._directory, self._index, self._count, self._path)
        try:
            self._worker.wait_until_ready()
        except EngineError as problem:
            return str(problem)
        return None

    def handle(self, request: bytes) -> Iterator[bytes]:
        """The encoded replies to an encoded request; the last is `Failed` where the worker ended over it."""
        try:
            if self._worker is None:
                raise EngineError("it was asked before it was opened")
            for reply in self._worker.handle(frames.decode_request(request)):
                yield frames.encode(reply)
        except EngineError as problem:
            yield frames.encode(frames.Failed(str(problem)))

    def close(self) -> dict[str, bytes]:
        """End the worker in order; its owners' stores as they are then."""
        if self._worker is not None:
            self._worker.close()
        return ray_stores.own_files(self._directory, self._index)

    def drop(self) -> None:
        """The stores are the driver's again."""
        ray_stores.drop(self._directory, self._index)


class RayHost:
    """A host on some machine of the cluster; on the one that has its owners' stores, where one has."""

    def __init__(self, directory: RunDirectory, config: Config, index: int, count: int) -> None:
        self._ray, self._name = ray_cluster.connected(), f"host {index}"
        self._directory = RunDirectory(directory.root.absolute(), directory.owners.absolute())
        self._index, self._given_up = index, False
        self._there = owners_folder.away(directory.owners, index)
        where = "SPREAD" if self._there is None else ray_cluster.only_on(self._there.machine, self._name)
        options = {"num_cpus": 1, "num_gpus": config.engine.gpus, "scheduling_strategy": where, "max_restarts": 0}
        self._actor = (
            self._ray.remote(HostActor).options(**options).remote(self._directory, index, count, imported_from())
        )

    def wait_until_ready(self) -> None:
        """Blocks until the cluster has room for the host and it has loaded its model and opened its owners' stores."""
        with ray_stores.marked(self._directory) as mark:
            machine = self._ask(self._actor.elsewhere.remote(mark))
        if machine is not None:
            self._move(machine)
        elif self._there is not None:
            raise EngineError(
                f"{self._name}: its owners' files went to {self._there.machine}, which has this folder as well"
            )
        self._said(self._ask(self._actor.open.remote(), None))

    def handle(self, request: Request) -> Iterator[Reply]:
        answering = self._actor.handle.options(_generator_backpressure_num_objects=IN_FLIGHT)
        try:
            for reference in answering.remote(frames.encode(request)):
                reply = frames.decode_reply(self._ray.get(reference))
                if isinstance(reply, frames.Failed):
                    raise EngineError(f"{self._name}: {reply.reason}")
                yield reply
        except self._ray.exceptions.RayError:  # the actor, its machine, or what one of them sent is gone
            raise self._gone() from None

    def give_up(self) -> None:
        """End the actor at once; its worker process ends with it. Stores that are elsewhere stay there."""
        self._given_up = True
        self._ray.kill(self._actor, no_restart=True)

    def close(self) -> None:
        if self._given_up:
            return
        with suppress(self._ray.exceptions.RayError):  # it ended before
            files = self._ray.get(self._actor.close.remote())
            if self._there is not None:
                ray_stores.take_home(self._directory, self._index, files)
                self._ray.get(self._actor.drop.remote())
        self.give_up()

    def _move(self, machine: str) -> None:
        """What the host reads goes to its machine; its owners' stores do if they are still here."""
        own = ray_stores.own_files(self._directory, self._index) if self._there is None else None
        where = self._there or Away(machine, ray_stores.new_name())
        self._said(self._ask(self._actor.keep.remote(ray_stores.shared_files(self._directory), own, where.move), None))
        if self._there is None:
            self._there = where
            ray_stores.leave(self._directory, self._index, where)

    def _ask(self, reference: Any, seconds: float | None = READY) -> Any:
        try:
            return self._ray.get(reference, timeout=seconds)
        except self._ray.exceptions.GetTimeoutError:
            raise EngineError(
                f"{self._name} found no room in the Ray cluster in {READY} seconds: engine.processes hosts need one "
                "processor each, and engine.gpus accelerators; ask for fewer or add machines"
            ) from None
        except self._ray.exceptions.RayError:
            raise self._gone() from None

    def _said(self, problem: str | None) -> None:
        if problem is not None:
            raise EngineError(f"{self._name}: {problem}")

    def _gone(self) -> EngineError:
        return EngineError(f"{self._name} ended unexpectedly, with its Ray actor or that actor's machine")
