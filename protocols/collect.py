"""What the server's five states share: lazily made messages, and the bookkeeping of answers and blame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from protocols import wire
from protocols.errors import BadSignature, FaultyClient, Malformed, TooFewClients
from protocols.identity import Verify
from protocols.roster import Roster
from protocols.wire import RoundPlan, Step


class Outgoing(Mapping[int, bytes]):
    """One message per client, made when it is asked for: deals alone would fill memory on a large complete
    graph.
    """

    def __init__(self, clients: tuple[int, ...], make: Callable[[int], bytes]) -> None:
        self._clients = dict.fromkeys(clients)
        self._make = make

    def __getitem__(self, client: int) -> bytes:
        if client not in self._clients:
            raise KeyError(client)
        return self._make(client)

    def __iter__(self) -> Iterator[int]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)


Message = TypeVar("Message", wire.Announcement, wire.Deal, wire.Upload, wire.Agreement, wire.Opening)


@dataclass
class Collector:
    """What every state needs: who is asked, whose answers were taken, and who is to blame."""

    plan: RoundPlan
    roster: Roster
    verify: Verify
    session: bytes
    asked: frozenset[int]
    blamed: dict[int, str]
    taken: dict[int, int] = field(default_factory=dict)

    def after(self, clients: tuple[int, ...]) -> Collector:
        """The collector of the next step."""
        return Collector(self.plan, self.roster, self.verify, self.session, frozenset(clients), self.blamed)

    def blame(self, client: int, reason: str) -> FaultyClient:
        """The error to raise, remembered."""
        self.blamed.setdefault(client, reason)
        return FaultyClient(client, reason)

    def is_new(self, client: int, data: bytes) -> bool:
        """False for an exact repetition. FaultyClient if this client is not asked or answered something
        else.
        """
        if client not in self.asked:
            raise self.blame(client, "answered a step that it is not part of")
        known = self.taken.get(client)
        if known is None:
            return True
        if known != hash(data):
            raise self.blame(client, "answered twice, differently")
        return False

    def take(self, client: int, data: bytes) -> None:
        """Marks a client's answer as accepted. Its hash only tells a repetition from an equivocation."""
        self.taken[client] = hash(data)

    def decode(self, client: int, kind: type[Message], data: bytes) -> Message:
        """The message, or blame."""
        try:
            return wire.decode(kind, data, wire.limit(kind, self.plan))
        except Malformed as error:
            raise self.blame(client, f"sent a malformed message: {error}") from None

    def check(self, client: int, claimed: int, label: str, payload: bytes, signature: bytes) -> None:
        """Blames a client that answers under another's name or with a wrong signature."""
        if claimed != client:
            raise self.blame(client, "answered under another name")
        try:
            self.verify(self.roster.public(client), label, payload, signature)
        except BadSignature:
            raise self.blame(client, f"sent no valid signature ('{label}')") from None

    def need(self, step: Step, count: int, least: int) -> None:
        """TooFewClients if fewer than `least` remain."""
        if count < least:
            raise TooFewClients(step.value, count, least, self.blamed)
