"""Exactly what each adversary sees, and what follows from it without any secret.

`ServerView`: every byte that passes the server. `held_by`: what a colluder's own memory adds. `sizes`: what is left for
somebody who sees the network when a transport encrypts. Who reads a disk gets a store's states (`states_of`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from protocols import envelope, keys, labels, masks, ring, shares, wire
from protocols.server import Inbox, Recovered, open_session
from protocols.states import Masked, decode_state
from protocols.states import State as ClientState
from protocols.wire import Announcement, Deliveries, Opening, RoundPlan, Step
from threat_model.world import Values, Wire, World

LIMIT = 1 << 22


@dataclass
class ServerView:
    """The requests and answers of an honest run up to the request of one step, by step and client."""

    plan: RoundPlan
    requests: dict[Step, dict[int, bytes]] = field(default_factory=dict, repr=False)
    answers: dict[Step, dict[int, bytes]] = field(default_factory=dict, repr=False)

    @property
    def session(self) -> bytes:
        """The session's name."""
        return wire.session_of(self.plan)

    @property
    def announced(self) -> dict[int, Announcement]:
        """The announcements by client."""
        return {i: envelope.unverified(Announcement, data) for i, data in self.answers[Step.ANNOUNCE].items()}

    @property
    def s1(self) -> bytes:
        """The hash of the announcements."""
        return labels.digest(labels.HASH_ANNOUNCED, next(iter(self.requests[Step.SHARE].values())))

    @property
    def s2(self) -> bytes:
        """The hash of the announcements and the signed roots."""
        message = wire.decode(Deliveries, next(iter(self.requests[Step.MASK].values())), LIMIT)
        return labels.digest(labels.HASH_DEALT, self.s1, message.roots)

    def upload(self, client: int) -> wire.Upload:
        """A client's masked vectors."""
        return envelope.unverified(wire.Upload, self.answers[Step.MASK][client])


def watch(world: World, until: Step) -> ServerView:
    """Conducts the world's session honestly up to the requests of step `until`, which are not sent."""
    view = ServerView(world.plan)
    state: Inbox | Recovered = open_session(world.server, world.plan, world.roster)
    while not isinstance(state, Recovered):
        view.requests[state.step] = {client: state.outgoing[client] for client in state.outgoing}
        if state.step is until:
            return view
        view.answers[state.step] = {}
        for client, message in view.requests[state.step].items():
            view.answers[state.step][client] = world.ask(client, state.step, message)
            state.receive(client, view.answers[state.step][client])
        state = state.close()
    return view


def of_wire(plan: RoundPlan, link: Wire) -> ServerView:
    """The same of a whole session that went over a wire."""
    view = ServerView(plan)
    for kept, passed in ((view.requests, link.down), (view.answers, link.up)):
        for step, client, message in passed:
            kept.setdefault(step, {})[client] = message
    return view


def states_of(world: World, client: int) -> ClientState:
    """What a reader of that client's disk finds of the current session."""
    data = world.stores[client].state(world.identities[client].public, wire.session_of(world.plan))
    if data is None:
        raise ValueError(f"client {client} is in no session")
    return decode_state(data)


@dataclass(frozen=True)
class HeldShares:
    """Shares of one secret, by the holder's point."""

    points: dict[int, int] = field(default_factory=dict, repr=False)

    def add(self, plan: RoundPlan, holder: int, share: bytes) -> None:
        """One more share, by who holds it."""
        self.points[plan.cohort.index(holder) + 1] = shares.parse(share)

    def secret(self, threshold: int) -> bytes | None:
        """The secret, if there are enough shares."""
        chosen = sorted(self.points)[:threshold]
        return None if len(chosen) < threshold else shares.rebuild(chosen, [self.points[point] for point in chosen])


def opened(plan: RoundPlan, openings: Iterable[bytes], dealer: int) -> HeldShares:
    """The shares of one dealer's secret in clients' answers to the unmask step."""
    found = {}
    for opening in (envelope.unverified(Opening, data) for data in openings):
        for entry in opening.shares:
            if entry.dealer == dealer and entry.share:
                found[plan.cohort.index(opening.holder) + 1] = shares.parse(entry.share)
    return HeldShares(found)


def held_by(world: World, colluder: int, dealer: int) -> tuple[HeldShares, HeldShares]:
    """The (seed, mask key) shares of one dealer that a colluder held before it was asked to choose one."""
    state = states_of(world, colluder)
    if not isinstance(state, Masked):
        raise ValueError("a colluder holds both shares between the mask and the agree step")
    point = world.plan.cohort.index(colluder) + 1
    held = next(entry for entry in state.held if entry.dealer == dealer)
    return (
        HeldShares({point: shares.parse(held.seed_share)} if held.seed_share else {}),
        HeldShares({point: shares.parse(held.key_share)} if held.key_share else {}),
    )


def pair_secrets(mask_secret: bytes, announced: Mapping[int, Announcement], others: Iterable[int]) -> dict[int, bytes]:
    """What a client's mask secret agrees with each other client."""
    return {other: keys.agree(mask_secret, announced[other].mask_key) for other in others}


def unmasked(plan: RoundPlan, upload: wire.Upload, seed: bytes, pairs: Mapping[int, bytes], s2: bytes) -> Values:
    """A client's values, for whoever has its seed and the secret of each of its pairs."""
    victim, values = upload.client, {}
    for (name, length), data in zip(plan.vectors, upload.vectors, strict=True):
        total = ring.unpack(data, length, plan.ring_bits)
        masks.add_mask(total, keys.self_key(seed, s2, victim, name), -1)
        for other, shared in pairs.items():
            masks.add_mask(total, keys.pair_key(shared, s2, victim, other, name), -1 if victim < other else 1)
        values[name] = ring.to_signed(ring.reduce(total, plan.ring_bits), plan.ring_bits)
    return values


def reads(world: World, victim: int, values: Values) -> bool:
    """Whether these are the victim's true values, all of them."""
    truth = world.values[victim]
    return set(values) == set(truth) and all(np.array_equal(values[name], truth[name]) for name in truth)


def sizes(messages: Mapping[int, bytes]) -> dict[int, int]:
    """The length of each client's message: what encryption in transit does not hide."""
    return {client: len(message) for client, message in messages.items()}
