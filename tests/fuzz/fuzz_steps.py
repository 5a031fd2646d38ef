"""Every step of a client and of the server as a target, and whole sessions.

Steps run under the real signature check and once more under one that accepts everything: that is an
adversary who holds every key, and whom only the checks behind the signatures stop.
"""

import copy
import functools
from collections.abc import Iterator
from random import Random

import fuzz_messages
import numpy as np
from fuzz_world import DENSEST, WORLDS, Broken, Recording, Target, build, check_reason, entropy, recording

from protocols import wire
from protocols.drive import ClientDriver, conduct
from protocols.errors import FaultyClient, FaultyClientOrServer, Ignored, ProtocolError
from protocols.server import Recovered
from protocols.wire import Step
from threat_model.world import World

ROOMY = {"clients": 9, "max_dropout": 0.33}  # whole sessions have three clients to lose
SESSION_ROOM = lambda size: DENSEST * size + (1 << 20)  # noqa: E731  # every hundredth message ends a session too
EPISODE = 100  # messages that one session of the server is fed before it goes on with honest ones

# --- one step of a client ---


def clients() -> Iterator[Target]:
    """Every step of a client, under the real and under no signature check."""
    for name in WORLDS:
        for lenient in (False, True):
            seen = recording(name, lenient)
            for step in Step:
                feed = functools.partial(_ask_client, seen, step)
                label = f"client {step.value} ({name}{', all keys' if lenient else ''})"
                yield Target(label, list(seen.requests[step].values()), seen.messages(), feed)


def _ask_client(seen: Recording, step: Step, data: bytes) -> str:
    """The driver and the store stand around the step, as they do in use."""
    world, me = seen.world, seen.world.ids[0]
    store = copy.copy(seen.stores[step][me])
    for field_name, value in vars(store).items():
        setattr(store, field_name, dict(value))
    before = {key: dict(value) for key, value in vars(store).items()}
    driver = ClientDriver(world.member(me), store, entropy(me), lambda: world.context)
    try:
        answer = driver.handle(step, data, lambda plan: world.values[me])
    except ProtocolError as error:
        check_reason(error)
        if vars(store) != before:
            raise Broken("a refused request left a trace in the store") from error
        return "refused"
    if driver.handle(step, data, _never) != answer:
        raise Broken("a retry was answered differently")
    return "taken"


def _never(plan: wire.RoundPlan) -> dict[str, np.ndarray]:
    raise Broken("a retry asked for another contribution")


# --- one step of the server ---


class Server:
    """A session stopped before one step: changed messages come in, then the others answer honestly to the end."""

    def __init__(self, seen: Recording, step: Step, exact: bool) -> None:
        self.seen, self.step, self.exact = seen, step, exact
        self.fed = 0
        self.begin()

    def begin(self) -> None:
        self.state = copy.deepcopy(self.seen.states[self.step])

    def feed(self, data: bytes) -> str:
        victim = self.seen.world.ids[self.fed % len(self.seen.world.ids)]
        self.fed += 1
        outcome = "taken"
        try:
            self.state.receive(victim, data)
        except (FaultyClient, FaultyClientOrServer, Ignored) as error:
            check_reason(error)
            if error.client != victim:
                raise Broken("somebody else is blamed") from error
            if self.exact and not isinstance(error, Ignored):
                raise Broken("a client is held to what it did not sign") from error
            outcome = "refused"
        if self.fed % EPISODE == 0:
            self.finish()
            self.begin()
        return outcome

    def finish(self) -> None:
        """Everybody whose answer still counts answers honestly, in every step to come."""
        world, state = self.seen.world, self.state
        drivers = self.seen.drivers(self.step)
        gone = {world.ids[self.fed // EPISODE % len(world.ids)]} if self.fed // EPISODE % 2 else set()
        try:
            while not isinstance(state, Recovered):
                for client in state.outgoing:
                    if client not in gone:
                        self._answer(state, drivers, client)
                state = state.close()
        except ProtocolError as error:
            check_reason(error)
            return
        if self.exact:
            check_sum(world, state)

    def _answer(self, state: object, drivers: dict[int, ClientDriver], client: int) -> None:
        """What a client refuses because of what it is shown, and what the server refuses, is a client lost."""
        try:
            answer = drivers[client].handle(
                state.step, state.outgoing[client], lambda plan: self.seen.world.values[client]
            )
            state.receive(client, answer)
        except ProtocolError as error:
            check_reason(error)


def check_sum(world: World, recovered: Recovered) -> None:
    """Broken unless the result is the exact sum of enough survivors."""
    if len(recovered.survivors) < world.plan.floor:
        raise Broken("a sum over fewer survivors than the floor")
    for name, total in world.plain_sum(recovered.survivors).items():
        if not np.array_equal(recovered.totals[name], total):
            raise Broken(f"the sum of '{name}' is wrong")


def servers() -> Iterator[Target]:
    """Every step of the server, under the real and under no signature check."""
    for name in WORLDS:
        for lenient in (False, True):
            seen = recording(name, lenient)
            for step in Step:
                label = f"server {step.value} ({name}{', all keys' if lenient else ''})"
                server = Server(seen, step, exact=not lenient)
                right = [*seen.answers[step].values(), *(complaints(seen, step) if lenient else ())]
                yield Target(label, right, seen.messages(), server.feed, SESSION_ROOM)


def complaints(seen: Recording, step: Step) -> Iterator[bytes]:
    """What clients of a hybrid session may send instead of an upload: here each accuses the first one, falsely."""
    world = seen.world
    if step is Step.MASK and world.plan.post_quantum:
        for client in world.ids[1:]:
            yield world.sealed(client, step, wire.Complaint(client, world.ids[0], seen.states[step].state.s2))


# --- whole sessions ---


class Garbling:
    """A link between honest ends that changes messages in both directions, and repeats old ones in anybody's name."""

    def __init__(self, world: World, share: int, rng: Random) -> None:
        self.world, self.share, self.rng = world, share, rng
        self.fed = 0
        self.pool: list[bytes] = [b"\x90"]

    def exchange(self, step: Step, outgoing: object) -> Iterator[tuple[int, bytes]]:
        for client in outgoing:
            request = self._passed(outgoing[client])
            try:
                answer = self.world.ask(client, step, request)
            except ProtocolError as error:
                check_reason(error)
                continue
            if self.rng.randrange(60) == 0:
                yield client, self.rng.choice(self.pool)
            yield client, self._passed(answer)

    def _passed(self, data: bytes) -> bytes:
        self.pool.append(data)
        if self.rng.randrange(self.share):
            return data
        self.fed += 1
        return fuzz_messages.changed(data, self.pool, self.rng)


def run_session(name: str, rng: Random) -> tuple[int, str]:
    """A whole session in which some messages are changed: (how many, "sum" or the name of the error that ended it)."""
    world = build(name, False, **ROOMY)
    link = Garbling(world, 10 + rng.randrange(40), rng)
    try:
        recovered, _ = conduct(world.server, world.plan, world.roster, link, world.verify)
    except ProtocolError as error:
        check_reason(error)
        return link.fed, type(error).__name__
    check_sum(world, recovered)
    session = wire.session_of(world.plan)
    for driver in world.drivers.values():
        settled = driver.outcome(session)
        if settled and settled.survivors != recovered.survivors:
            raise Broken("a client settled on another outcome")
    return link.fed, "sum"


def sessions() -> Iterator[Target]:
    """Whole sessions: here a 'message' is the seed of one, so that coverage guides whole courses of events."""
    for name in WORLDS:
        feed = functools.partial(_session, name)
        yield Target(f"session ({name})", [b"seed"], [b"x"], feed, lambda size: 16 << 20)


def _session(name: str, data: bytes) -> str:
    return "taken" if run_session(name, Random(data))[1] == "sum" else "refused"
