"""What is the same in the server's five steps: whom it asked, whose signed answer it took, and who is to blame.

The states of server.py are frozen and judge one answer at a time; an `Inbox` is the one thing that changes while a step
is under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from protocols import envelope, labels, recovery, wire
from protocols.errors import BadSignature, FaultyClient, FaultyClientOrServer, Ignored, Malformed, TooFewClients
from protocols.identity import Verify
from protocols.recovery import Recovered
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


IsNew = Callable[[bytes, bytes], bool]
"""(digest of the content, signature of the envelope) -> whether this is the client's first answer: `Inbox.is_new`."""

Message = TypeVar("Message", wire.Announcement, wire.Deal, wire.Complaint, wire.Agreement, wire.Opening)


@dataclass(frozen=True)
class Session:
    """What every state knows from the beginning."""

    plan: RoundPlan
    roster: Roster
    verify: Verify
    id: bytes

    def open(self, client: int, kind: type[Message], data: bytes, is_new: IsNew) -> Message | None:
        """The message in a client's envelope; None for a repetition. Ignored unless the client signed it, FaultyClient
        if what it signed is no such message.
        """
        limit = wire.limit(kind, self.plan)
        try:
            body, signature = envelope.split(data, limit)
        except Malformed as error:
            raise Ignored(client, str(error)) from None
        # The signature comes before the decoder: a stranger's bytes are never parsed, and whatever fails from here on
        # its client signed.
        if not is_new(envelope.content_digest(body), signature):
            return None
        try:
            return wire.decode(kind, bytes(body), limit)
        except Malformed as error:
            raise FaultyClient(client, f"sent a malformed message: {error}") from None

    def check(self, client: int, claimed: int, label: str, payload: bytes, signature: bytes) -> None:
        """FaultyClient for a client that answers under another's name. FaultyClientOrServer for a signature within the
        message that does not fit the server's view: who changed the request on its way could have made it so.
        """
        # One client's word under another's name: colluders would speak for a victim, and have it blamed or counted
        # twice.
        if claimed != client:
            raise FaultyClient(client, "answered under another name")
        try:
            self.verify(self.roster.public(client), label, payload, signature)
        except BadSignature:
            raise FaultyClientOrServer(client, f"holds another view of the session ('{label}')") from None


@dataclass(frozen=True)
class Judged:
    """What one answer is worth: what counts of it, or None; what else in it its client is to blame for, or nothing; and
    the dealer that its client accuses, or None.
    """

    answer: Any
    fault: str = ""
    accused: int | None = None


class State(Protocol):
    """One of the server's five states: frozen, a function of the one before it and of the answers taken there."""

    @property
    def step(self) -> Step:
        """The exchange under way."""
        ...

    @property
    def session(self) -> Session:
        """What does not change."""
        ...

    @property
    def outgoing(self) -> Mapping[int, bytes]:
        """Whom to ask, and the message to each."""
        ...

    @property
    def least(self) -> int:
        """The fewest answers that the session can go on with."""
        ...

    def judge(self, client: int, data: bytes, is_new: IsNew) -> Judged | None:
        """What counts of one answer; None for a repetition. Raises as `Inbox.receive`."""
        ...

    def close(self, answers: dict[int, Any]) -> State | Recovered:
        """The next state. Raises as `Inbox.close`."""
        ...


Record = Callable[[Step, int, bytes], None]
"""Is given each message that its client signed, once, in the order in which they were judged: see transcript.py."""


class Inbox:
    """One step of the server under way. Used once: `close` gives the inbox of the next step, or the result."""

    def __init__(
        self,
        state: State,
        blamed: dict[int, str] | None = None,
        record: Record | None = None,
        disputes: tuple[tuple[int, int], ...] = (),
    ) -> None:
        self.state = state
        self.blamed = {} if blamed is None else blamed
        self.disputes = disputes  # (dealer, holder): one of the two is lying
        self.answers: dict[int, Any] = {}
        self._record = record
        self._signed: dict[int, bytes] = {}
        self._equivocated: set[int] = set()

    @property
    def step(self) -> Step:
        """The exchange under way."""
        return self.state.step

    @property
    def outgoing(self) -> Mapping[int, bytes]:
        """Whom to ask, and the message to each."""
        return self.state.outgoing

    def receive(self, client: int, data: bytes) -> None:
        """Takes one client's answer; a repetition changes nothing.

        Raises Ignored for bytes that the client was not asked for or did not sign for this step: nobody is blamed, and
        its own answer still counts. FaultyClient for a signed answer that is wrong, or a second, different one; the
        blame is remembered. FaultyClientOrServer if nobody can tell whose fault it is. After either of the two the
        client counts as dropped, unless a right answer was taken before.
        """
        # Who missed a step stays out of the session: its mask key may be rebuilt by now, and a vector that came later
        # would lie bare.
        if client not in self.outgoing:
            raise Ignored(client, "it is not part of this step")
        try:
            judged = self.state.judge(client, data, partial(self._is_new, client, data))
        except FaultyClient as error:
            raise self._blame(error.client, error.reason) from None
        if judged is None:
            return
        # An answer may count and be blamed at once: a holder with one wrong share still opened the others.
        if judged.answer is not None:
            self.answers[client] = judged.answer
        if judged.accused is not None:
            self._accuse(judged.accused, client)
        if judged.fault:
            raise self._blame(client, judged.fault)

    def close(self) -> Inbox | Recovered:
        """The next step. TooFewClients if the session cannot go on with those who answered, FaultyClient if a dealer's
        own deal makes the sum unrecoverable.
        """
        # Before anything is computed: no later step may be entered with fewer than may be summed over.
        if len(self.answers) < self.state.least:
            raise self._too_few(len(self.answers), self.state.least)
        try:
            after = self.state.close(self.answers)
        except FaultyClient as error:
            raise self._blame(error.client, error.reason) from None
        except TooFewClients as error:
            raise self._too_few(error.have, error.need) from None
        if isinstance(after, Recovered):
            return replace(after, blamed=dict(self.blamed), disputes=(*self.disputes, *after.disputes))
        return Inbox(after, self.blamed, self._record, self.disputes)

    def _is_new(self, client: int, data: bytes, digest: bytes, signature: bytes) -> bool:
        """Whether this is the client's first answer, under its signature; False for a repetition of it.

        FaultyClient for a second, different answer under its signature, which an honest client never makes.
        """
        session, known = self.state.session, self._signed.get(client)
        if known == digest:
            return False
        payload = envelope.payload(session.id, client, self.step, digest)
        try:
            session.verify(session.roster.public(client), labels.SIGN_MESSAGE, payload, signature)
        except BadSignature:
            # Whoever is on the way could have sent it: no blame, and nothing is remembered that could grow.
            raise Ignored(client, "it is not signed by that client for this step") from None
        if self._record is not None and client not in self._equivocated:
            self._record(self.step, client, data)
        if known is not None:
            self._equivocated.add(client)  # the second one is proof enough; a thousandth would only fill a record
            raise FaultyClient(client, "signed two different answers to one step")
        # Before its content is judged: a right answer after a wrong one is a second one.
        self._signed[client] = digest
        return True

    def _accuse(self, dealer: int, holder: int) -> None:
        # Kept even while nobody can be blamed: over several sessions disputes name the liar (culprits.py).
        self.disputes = (*self.disputes, (dealer, holder))
        accusers = sum(accused == dealer for accused, _ in self.disputes)
        if accusers > self.state.session.plan.colluders:  # then one of them is honest
            self.blamed.setdefault(dealer, "sealed pads that do not open")

    def _too_few(self, have: int, need: int) -> TooFewClients:
        openings = self.answers if self.step is Step.UNMASK else {}
        return TooFewClients(self.step.value, have, need, self.blamed, (*self.disputes, *recovery.disputes(openings)))

    def _blame(self, client: int, reason: str) -> FaultyClient:
        self.blamed.setdefault(client, reason)
        return FaultyClient(client, reason)
