"""Drivers: the only loop around the pure steps, the same for every engine. A `Link` moves the bytes, a
`Store` keeps a client's answers.

The store is what makes "once" true: an answer is put into it before it is sent, a repeated request gets
the same bytes again, and another request for an answered step is refused. Whoever implements it must
make `put` and `accept` durable before they return (or before anything they allowed is sent).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from protocols import client, server, wire
from protocols.collect import Inbox, Record
from protocols.errors import FaultyClient, FaultyClientOrServer, FaultyServer, Ignored, Malformed
from protocols.identity import Identity, Verify, verify_signature
from protocols.member import Member, open_plan
from protocols.roster import Roster
from protocols.server import Recovered
from protocols.states import Agreed, Announced, Masked, Settled, Shared, State, Stopped, decode_state, encode_state
from protocols.wire import RoundPlan, Step

Contribute = Callable[[RoundPlan], Mapping[str, NDArray[np.int64]]]


class Link(Protocol):
    """Sends each client its message and gives back the answers that came, in any order; who is missing has
    dropped.
    """

    def exchange(self, step: Step, outgoing: Mapping[int, bytes]) -> Iterable[tuple[int, bytes]]:
        """One step. `outgoing` makes a message each time it is asked for one, so ask once per client."""
        ...


class Store(Protocol):
    """One durable record per (identity, session), whose status only moves forward.

        accepted -> masked -> settled        and from either of the first two -> closed

    A closed session has no further step. What a step needed of the one before is replaced by what it leaves.
    """

    def last_session(self, identity: bytes, server: bytes, run: bytes) -> int:
        """The highest session number that this identity accepted from this server in this run, or -1."""
        ...

    def accept(self, identity: bytes, server: bytes, plan: RoundPlan) -> None:
        """Begins the record of a plan's session. Raises ValueError unless its number is above `last_session`."""
        ...

    def status(self, identity: bytes, session: bytes) -> Status | None:
        """Where the session stands; None if it was never accepted."""
        ...

    def reply(self, identity: bytes, session: bytes, step: Step) -> tuple[bytes, bytes] | None:
        """(digest of the request, reply) of an answered step."""
        ...

    def state(self, identity: bytes, session: bytes) -> bytes | None:
        """The state that the last answered step of the session left. Secret. None once it is closed."""
        ...

    def put(
        self, identity: bytes, session: bytes, step: Step, request_digest: bytes, state: bytes, reply: bytes
    ) -> None:
        """Keeps a step's one answer, and the state after it in place of the one before (compare-and-swap).

        Raises ValueError if the step is answered or the session does not stand where the step may be answered.
        """
        ...


class Status(StrEnum):
    """Where a session stands at a client."""

    ACCEPTED = "accepted"  # charged; no masked vector left
    MASKED = "masked"  # a masked vector may have left: nothing gives its charge back
    SETTLED = "settled"  # a quorum signed who survived
    CLOSED = "closed"  # no step of it is ever answered again


BEFORE = {  # the status in which a step may be answered
    Step.ANNOUNCE: Status.ACCEPTED,
    Step.SHARE: Status.ACCEPTED,
    Step.MASK: Status.ACCEPTED,
    Step.AGREE: Status.MASKED,
    Step.UNMASK: Status.MASKED,
}
AFTER = BEFORE | {Step.MASK: Status.MASKED, Step.UNMASK: Status.SETTLED}


class MemoryStore:
    """A store for one process's life: for simulations and tests."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[bytes, bytes, bytes], int] = {}
        self._status: dict[tuple[bytes, bytes], Status] = {}
        self._replies: dict[tuple[bytes, bytes, Step], tuple[bytes, bytes]] = {}
        self._states: dict[tuple[bytes, bytes], bytes] = {}

    def last_session(self, identity: bytes, server: bytes, run: bytes) -> int:
        """See Store."""
        return self._numbers.get((identity, server, run), -1)

    def accept(self, identity: bytes, server: bytes, plan: RoundPlan) -> None:
        """See Store."""
        if plan.session_number <= self.last_session(identity, server, plan.run):
            raise ValueError("session numbers only grow")
        self._numbers[identity, server, plan.run] = plan.session_number
        self._status[identity, wire.session_of(plan)] = Status.ACCEPTED

    def status(self, identity: bytes, session: bytes) -> Status | None:
        """See Store."""
        return self._status.get((identity, session))

    def close(self, identity: bytes, session: bytes) -> None:
        """No step of the session is answered again."""
        self._status[identity, session] = Status.CLOSED
        self._states.pop((identity, session), None)

    def reply(self, identity: bytes, session: bytes, step: Step) -> tuple[bytes, bytes] | None:
        """See Store."""
        return self._replies.get((identity, session, step))

    def state(self, identity: bytes, session: bytes) -> bytes | None:
        """See Store."""
        return self._states.get((identity, session))

    def put(
        self, identity: bytes, session: bytes, step: Step, request_digest: bytes, state: bytes, reply: bytes
    ) -> None:
        """See Store."""
        if (identity, session, step) in self._replies or self._status.get((identity, session)) != BEFORE[step]:
            raise ValueError("the step is already answered, or the session does not stand there")
        self._replies[identity, session, step] = (request_digest, reply)
        self._states[identity, session] = state
        self._status[identity, session] = AFTER[step]


_KINDS: dict[Step, type[msgspec.Struct]] = {
    Step.SHARE: wire.Announcements,
    Step.MASK: wire.Deliveries,
    Step.AGREE: wire.Uploads,
    Step.UNMASK: wire.Quorum,
}


def answered(store: Store, identity: bytes, step: Step, incoming: bytes) -> bytes | None:
    """The same bytes as before where this very request was answered; None where it is new.

    Raises FaultyServer for another request to an answered step.
    """
    known = store.reply(identity, session_in(step, incoming), step)
    if known is None:
        return None
    # Two answers to one step would be two openings: both shares of one dealer, and its vector bare (`both-shares`).
    if known[0] != hashlib.sha256(incoming).digest():
        raise FaultyServer(f"asks for a second, different answer to step {step.value}")
    return known[1]


def outcome(store: Store, identity: bytes, session: bytes) -> Settled | None:
    """What a quorum signed of a session, after its `unmask` step; None before, or where it never came to that."""
    data = store.state(identity, session)
    state = None if data is None else decode_state(data)
    return state if isinstance(state, Settled) else None


class ClientDriver:
    """One client's life: answers each step of each session at most once, from its store before anything else.

    `context` gives the digests of what is loaded when a plan arrives; `entropy` gives that many fresh random bytes.
    Nothing of a session lives here: it is all in the store, under the session's name.
    """

    def __init__(
        self,
        member: Member,
        store: Store,
        entropy: Callable[[int], bytes],
        context: Callable[[], Mapping[str, bytes]],
    ) -> None:
        self.member = member
        self._store = store
        self._entropy = entropy
        self._context = context

    def open_plan(self, incoming: bytes) -> RoundPlan:
        """The plan in a request to announce, if this client may take part in it; see `member.open_plan`.

        A plan whose session was accepted before may be asked about again, until it is closed.
        """
        identity, server = self.member.identity.public, self.member.server_key
        last = max(self.member.limits.last_session, self._store.last_session(identity, server, self.member.limits.run))
        session = session_in(Step.ANNOUNCE, incoming)
        status = self._store.status(identity, session)
        # Once it was masked or closed, an announcement again would begin it anew, with a vector that was charged once.
        if status not in (None, Status.ACCEPTED):
            raise FaultyServer("asks about a session that is closed")
        if status is Status.ACCEPTED:
            # The rule that numbers only grow would refuse the very plan that is on record: its own number counts as the
            # next.
            last = wire.decode(wire.SignedPlan, incoming, wire.MAX_PLAN).plan.session_number - 1
        return open_plan(self._limited(last), incoming, self._context())

    def announce(self, plan: RoundPlan, incoming: bytes) -> bytes:
        """The announcement for a plan that `open_plan` gave and the store accepted."""
        state, answer = client.announce_for(self.member, plan, self._entropy(client.RANDOM_BYTES))
        self._put(Step.ANNOUNCE, state.session, incoming, state, answer)
        return answer

    def outcome(self, session: bytes) -> Settled | None:
        """See `outcome`."""
        return outcome(self._store, self.member.identity.public, session)

    def handle(
        self,
        step: Step,
        incoming: bytes,
        contribute: Contribute,
        admit: Callable[[RoundPlan], None] = lambda plan: None,
    ) -> bytes:
        """The answer to one request. `contribute` is called in the mask step, on the accepted plan, and only there;
        `admit` has its say on a plan before it is accepted.

        Raises Refused, FaultyServer, FaultyClient or FaultyClientOrServer; nothing is sent then.
        """
        known = answered(self._store, self.member.identity.public, step, incoming)
        if known is not None:
            return known
        if step is Step.ANNOUNCE:
            plan = self.open_plan(incoming)
            if self._store.status(self.member.identity.public, wire.session_of(plan)) is None:
                # Charged and on record before the first key: what was announced may be summed, and must not be free.
                admit(plan)
                self._store.accept(self.member.identity.public, self.member.server_key, plan)
            return self.announce(plan, incoming)
        session = session_in(step, incoming)
        # Stored before it is returned: a crash between the two repeats the bytes, the other order would draw a second
        # answer.
        state, answer = self._answer(step, session, incoming, contribute)
        self._put(step, session, incoming, state, answer)
        return answer

    def _answer(self, step: Step, session: bytes, incoming: bytes, contribute: Contribute) -> tuple[State, bytes]:
        state = self._state(session)
        if step is Step.SHARE and isinstance(state, Announced):
            return client.share(self.member, state, incoming, self._entropy(client.RANDOM_BYTES))
        if step is Step.MASK and isinstance(state, Shared):
            return client.mask(self.member, state, incoming, contribute)
        if step is Step.AGREE and isinstance(state, Masked):
            return client.agree(self.member, state, incoming)
        if step is Step.UNMASK and isinstance(state, Agreed):
            return client.unmask(self.member, state, incoming)
        raise FaultyServer(f"asks for step {step.value} out of order")

    def _put(self, step: Step, session: bytes, incoming: bytes, state: State, answer: bytes) -> None:
        digest = hashlib.sha256(incoming).digest()
        self._store.put(self.member.identity.public, session, step, digest, encode_state(state), answer)

    def _limited(self, last: int) -> Member:
        return replace(self.member, limits=replace(self.member.limits, last_session=last))

    def _state(self, session: bytes) -> State:
        data = self._store.state(self.member.identity.public, session)
        if data is None:
            raise FaultyServer("asks about a session that this client did not begin, or that is closed")
        state = decode_state(data)
        # A session ends under the roster that it began with: under another, others would be believed.
        if not isinstance(state, Settled | Stopped) and state.plan.roster_digest != self.member.roster.digest:
            raise FaultyServer("goes on with a session of another roster")
        return state


def session_in(step: Step, incoming: bytes) -> bytes:
    """The session that a request names; the step functions check everything else. FaultyServer if it names none."""
    try:
        if step is Step.ANNOUNCE:
            return wire.session_of(wire.decode(wire.SignedPlan, incoming, wire.MAX_PLAN).plan)
        return wire.session_in(_KINDS[step], incoming)
    except Malformed as error:
        raise FaultyServer(f"sent a malformed message: {error}") from None


@dataclass
class Traffic:
    """Bytes that left and reached the server, per step, and how many clients were asked and answered."""

    down: dict[Step, int] = field(default_factory=dict)
    up: dict[Step, int] = field(default_factory=dict)
    asked: dict[Step, int] = field(default_factory=dict)
    answered: dict[Step, int] = field(default_factory=dict)


class _Metered(Mapping[int, bytes]):
    """Counts what is taken from a mapping of messages."""

    def __init__(self, messages: Mapping[int, bytes]) -> None:
        self._messages = messages
        self.total = 0

    def __getitem__(self, key: int) -> bytes:
        message = self._messages[key]
        self.total += len(message)
        return message

    def __iter__(self) -> Iterator[int]:
        return iter(self._messages)

    def __len__(self) -> int:
        return len(self._messages)


def conduct(
    identity: Identity,
    plan: RoundPlan,
    roster: Roster,
    link: Link,
    verify: Verify = verify_signature,
    on_step: Callable[[Step, int, int], None] | None = None,
    record: Record | None = None,
) -> tuple[Recovered, Traffic]:
    """Runs one session to its sum. `on_step` is told (step, clients asked, clients that answered well); `record` is
    given every signed message, which is the session's transcript whether it ends in a sum or not.

    Clients whose answers are bad count as dropped; the result says whom to blame for what. Raises
    TooFewClients, or FaultyClient for a dealer whose inconsistent deal makes the sum unrecoverable; both
    carry no partial result.
    """
    inbox: Inbox | Recovered = server.open_session(identity, plan, roster, verify, record)
    traffic = Traffic()
    while not isinstance(inbox, Recovered):
        _run_step(inbox, link, traffic)
        if on_step is not None:
            on_step(inbox.step, traffic.asked[inbox.step], traffic.answered[inbox.step])
        inbox = inbox.close()
    return inbox, traffic


def _run_step(inbox: Inbox, link: Link, traffic: Traffic) -> None:
    outgoing = _Metered(inbox.outgoing)
    received, good, bad = 0, set(), set()
    for sender, data in link.exchange(inbox.step, outgoing):
        received += len(data)
        if sender in bad:
            continue  # a client signs one answer for each step, and this one's was wrong
        try:
            inbox.receive(sender, data)
            good.update({sender} & inbox.answers.keys())  # a complaint is taken, and is no upload
        except Ignored:
            continue  # not this client's word: its own answer may still come
        except (FaultyClient, FaultyClientOrServer):
            bad.add(sender)
    traffic.down[inbox.step], traffic.up[inbox.step] = outgoing.total, received
    traffic.asked[inbox.step], traffic.answered[inbox.step] = len(outgoing), len(good)
