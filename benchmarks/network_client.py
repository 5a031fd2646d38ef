"""A client's process of `network.py`: the daemon's own loop, and nothing in memory that an idle client has not."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from fgrpo_secure.engines import messages as frames
from fgrpo_secure.engines.https import client_loop
from fgrpo_secure.engines.https.dialer import Place
from protocols.identity import Identity
from protocols.params import Adversary
from protocols.roster import Entry, Roster

RUN, SECONDS = bytes(16), 600
AUTHORITY, SERVER = Identity.from_seed(b"a" * 32), Identity.from_seed(b"s" * 32)


def own(client: int) -> Identity:
    """The identity of a client, which every process can make: for measurements, not private."""
    return Identity.from_seed(client.to_bytes(4, "big") * 8)


def roster(clients: int) -> Roster:
    """All clients, under an authority of their own."""
    return Roster(1, AUTHORITY.public, tuple(Entry(i, f"client-{i}", own(i).public) for i in range(clients)))


class Echo:
    """In place of a session's process: gives back so many bytes."""

    def __init__(self, client: int, size: int) -> None:
        self._client, self._size = client, size
        self.running = False

    def ask(self, request: frames.Request) -> list[frames.Reply]:
        """See SessionProcess."""
        self.running = True
        return [frames.Answer(self._client, bytes(self._size))] if isinstance(request, frames.Step) else []

    def end(self) -> None:
        """Nothing to end."""


class ProtocolAlone(Echo):
    """The protocol's client with a vector of one coordinate."""

    def __init__(self, client: int, clients: int) -> None:
        super().__init__(client, 0)
        self._clients, self._driver = clients, None

    def ask(self, request: frames.Request) -> list[frames.Reply]:
        """See SessionProcess."""
        self.running = True
        if not isinstance(request, frames.Step):
            return []
        from protocols.wire import Step  # with numpy, as a real session's process has it and an idle daemon has not

        self._driver = self._driver or driver(self._client, self._clients)
        message = request.messages[self._client]
        return [frames.Answer(self._client, self._driver.handle(Step(request.step), message, vector(self._client)))]


def vector(client: int) -> Any:
    """What a client contributes: its own number."""
    import numpy as np

    return lambda _: {"update": np.array([client], np.int64)}


def plan(clients: int, number: int) -> Any:
    """A session of all of them."""
    from protocols import labels, params
    from protocols.wire import RoundPlan

    p = params.derive(Adversary.LYING_SERVER, clients, clients, 0.05, 0.1)
    everybody = roster(clients)
    thresholds = (p.adversary, p.colluders, p.quorum, p.threshold, p.floor, p.neighbours)
    vectors = (("update", 1),)
    return RoundPlan(
        labels.VERSION, RUN, number, everybody.digest, 1, tuple(range(clients)), (), b"", vectors, 32, *thresholds
    )


def driver(client: int, clients: int) -> Any:
    """The protocol's client as its machine runs it."""
    from protocols.drive import ClientDriver, MemoryStore
    from protocols.member import Limits, Member

    limits = Limits(Adversary.LYING_SERVER, 0.05, 0.1, 3, 2, last_session=0, today=0, run=RUN)
    member = Member(client, own(client), roster(clients), SERVER.public, limits)
    return ClientDriver(member, MemoryStore(), os.urandom, dict)


def serve(client: int, clients: int, port: int, folder: Path, size: int, session: bool) -> int:
    """A client's process."""
    place = Place(
        f"https://127.0.0.1:{port}", SERVER.public, RUN, client, own(client), (folder / "tls.pem").read_text()
    )
    inside = ProtocolAlone(client, clients) if session else Echo(client, size)
    client_loop.serve(place, inside, folder / f"client-{client}", lambda _: None, 1 << 31)  # type: ignore[arg-type]
    return 0


if __name__ == "__main__":
    number, clients, port, folder, size, session = sys.argv[1:]
    raise SystemExit(serve(int(number), int(clients), int(port), Path(folder), int(size), session == "session"))
