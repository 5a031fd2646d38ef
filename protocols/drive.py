"""Drivers: the only loop around the pure steps, the same for every engine. A `Link` moves the bytes, a
`Store` keeps a client's answers.

The store is what makes "once" true: an answer is put into it before it is sent, a repeated request gets
the same bytes again, and another request for an answered step is refused. Whoever implements it must
make `put` and `advance` durable before they return (or before anything they allowed is sent).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from protocols import client, server, wire
from protocols.errors import FaultyClient, FaultyServer, Malformed
from protocols.identity import Identity, Verify, verify_signature
from protocols.member import Member
from protocols.roster import Roster
from protocols.server import Recovered
from protocols.states import Agreed, Announced, Masked, Settled, Shared, State, decode_state, encode_state
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
    """One durable row per (identity, session, step), and per identity the highest round ever begun."""

    def last_round(self, identity: bytes) -> int:
        """The highest round that `advance` was given, or -1."""
        ...

    def advance(self, identity: bytes, round_number: int) -> None:
        """Raises ValueError unless the number is above `last_round`."""
        ...

    def reply(self, identity: bytes, session: bytes, step: Step) -> tuple[bytes, bytes] | None:
        """(digest of the request, reply) of an answered step."""
        ...

    def state(self, identity: bytes, session: bytes) -> bytes | None:
        """The state that the last answered step of the session left. Secret."""
        ...

    def put(
        self, identity: bytes, session: bytes, step: Step, request_digest: bytes, state: bytes, reply: bytes
    ) -> None:
        """Adds the row, or raises ValueError if there is one already (compare-and-swap)."""
        ...


class MemoryStore:
    """A store for one process's life: for simulations and tests. Keeps only the latest state of a session."""

    def __init__(self) -> None:
        self._rounds: dict[bytes, int] = {}
        self._replies: dict[tuple[bytes, bytes, Step], tuple[bytes, bytes]] = {}
        self._states: dict[tuple[bytes, bytes], bytes] = {}

    def last_round(self, identity: bytes) -> int:
        """See Store."""
        return self._rounds.get(identity, -1)

    def advance(self, identity: bytes, round_number: int) -> None:
        """See Store."""
        if round_number <= self.last_round(identity):
            raise ValueError("the round counter only grows")
        self._rounds[identity] = round_number

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
        if (identity, session, step) in self._replies:
            raise ValueError("the step is already answered")
        self._replies[identity, session, step] = (request_digest, reply)
        self._states[identity, session] = state


_KINDS: dict[Step, type[msgspec.Struct]] = {
    Step.SHARE: wire.Announcements,
    Step.MASK: wire.Deliveries,
    Step.AGREE: wire.Uploads,
    Step.UNMASK: wire.Quorum,
}


class ClientDriver:
    """One client's life: answers each step of each session at most once.

    `context` gives the digests of what is loaded when a plan arrives; `entropy` gives that many fresh
    random bytes. `settled` is the outcome that a quorum signed, after an `unmask` step, until the next
    `announce`.
    """

    def __init__(
        self,
        member: Member,
        store: Store,
        entropy: Callable[[int], bytes],
        context: Callable[[], Mapping[str, bytes]],
    ) -> None:
        self.member = member
        self.settled: Settled | None = None
        self._store = store
        self._entropy = entropy
        self._context = context

    def handle(self, step: Step, incoming: bytes, contribute: Contribute) -> bytes:
        """The answer to one request. `contribute` is called in the mask step, on the accepted plan, and
        only there.

        Raises Refused, FaultyServer, FaultyClient or FaultyClientOrServer; nothing is sent then.
        """
        identity = self.member.identity.public
        digest = hashlib.sha256(incoming).digest()
        session = _session_in(step, incoming)
        known = self._store.reply(identity, session, step)
        if known is None:
            state, answer = self._answer(step, session, incoming, contribute)
            self._store.put(identity, session, step, digest, encode_state(state), answer)
        elif known[0] == digest:
            answer = known[1]
        else:
            raise FaultyServer(f"asks for a second, different answer to step {step.value}")
        self._note_settled(step, session)
        return answer

    def _answer(self, step: Step, session: bytes, incoming: bytes, contribute: Contribute) -> tuple[State, bytes]:
        if step is Step.ANNOUNCE:
            return self._announce(incoming)
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

    def _announce(self, incoming: bytes) -> tuple[State, bytes]:
        """The round counter moves first: a crash after it costs a round, one before it would allow two."""
        identity = self.member.identity.public
        last = max(self.member.limits.last_round, self._store.last_round(identity))
        member = replace(self.member, limits=replace(self.member.limits, last_round=last))
        randomness = self._entropy(client.RANDOM_BYTES)
        state, answer = client.announce(member, incoming, self._context(), randomness)
        self._store.advance(identity, state.plan.round)
        return state, answer

    def _state(self, session: bytes) -> State:
        data = self._store.state(self.member.identity.public, session)
        if data is None:
            raise FaultyServer("asks about a session that this client did not begin")
        return decode_state(data)

    def _note_settled(self, step: Step, session: bytes) -> None:
        if step is Step.ANNOUNCE:
            self.settled = None
        elif step is Step.UNMASK:
            state = self._state(session)
            self.settled = state if isinstance(state, Settled) else None


def _session_in(step: Step, incoming: bytes) -> bytes:
    """The session that a request names; the step functions check everything else."""
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
) -> tuple[Recovered, Traffic]:
    """Runs one session to its sum. `on_step` is told (step, clients asked, clients that answered well).

    Clients whose answers are bad count as dropped; the result says whom to blame for what. Raises
    TooFewClients, or FaultyClient for a dealer whose inconsistent deal makes the sum unrecoverable; both
    carry no partial result.
    """
    state: server.State | Recovered = server.open_session(identity, plan, roster, verify)
    traffic = Traffic()
    while not isinstance(state, Recovered):
        _run_step(state, link, traffic)
        if on_step is not None:
            on_step(state.step, traffic.asked[state.step], traffic.answered[state.step])
        state = state.close()
    return state, traffic


def _run_step(state: server.State, link: Link, traffic: Traffic) -> None:
    outgoing = _Metered(state.outgoing)
    received, good, bad = 0, set(), set()
    for sender, data in link.exchange(state.step, outgoing):
        received += len(data)
        if sender in bad:
            continue
        try:
            state.receive(sender, data)
            good.add(sender)
        except FaultyClient:
            bad.add(sender)
    traffic.down[state.step], traffic.up[state.step] = outgoing.total, received
    traffic.asked[state.step], traffic.answered[state.step] = len(outgoing), len(good)
