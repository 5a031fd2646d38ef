"""The worlds that are fuzzed: a few clients and a server, one honest session of theirs, and what a target is.

A target takes one changed message and says what became of it: "refused" or "taken". It raises Broken if
anything came out that `protocols/errors.py` does not allow, if a refusal left a trace, or if a session ended
in anything but the exact sum over its survivors.
"""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import fuzz_messages

from fgrpo_secure.shared_verifier import SharedVerifier
from protocols import params
from protocols.drive import ClientDriver
from protocols.server import Recovered, open_session
from protocols.wire import Step
from threat_model import world
from threat_model.world import World

DENSEST = 24  # bytes of memory that one byte of a message may cost its receiver: docs/explanation/fuzzing.md
RING_BITS = 20
LONGEST_REASON = 400  # characters of an error: it must not carry a peer's megabytes into a log

WORLDS = {
    "lying": {"clients": 5, "max_dropout": 0.2},
    "curious": {"clients": 6, "max_dropout": 0.34, "adversary": params.Adversary.HONEST_BUT_CURIOUS},
    "hybrid": {"clients": 5, "max_dropout": 0.2, "post_quantum": True},
}


class Broken(AssertionError):
    """The protocol did something that it promises not to do."""


@dataclass
class Target:
    """One thing that is fed with changed messages. `corpus` are right ones, `pool` what to splice from."""

    name: str
    corpus: list[bytes]
    pool: list[bytes]
    feed: Callable[[bytes], str]
    room: Callable[[int], int] = field(default=lambda size: DENSEST * size + (256 << 10))
    """The most bytes that a message of `size` bytes may make its receiver allocate."""

    def mutated(self, rng: Random) -> bytes:
        """A changed message of this target's kind."""
        return fuzz_messages.changed(rng.choice(self.corpus), self.pool, rng)


def accept(public: bytes, label: str, payload: bytes, signature: bytes) -> None:
    """The signature check of a world whose every key the adversary holds."""


def check_reason(error: Exception) -> None:
    """An error is short and printable, whatever the peer wrote."""
    text = str(error)
    if len(text) > LONGEST_REASON or not text.isprintable():
        raise Broken(f"{type(error).__name__} carries {len(text)} characters that a peer chose: {text[:100]!r}")


def build(name: str, lenient: bool, **changes: object) -> World:
    """A world of a few clients with their stores; one that is lenient takes every signature."""
    verify = accept if lenient else SharedVerifier()
    return world.build(**{**WORLDS[name], "ring_bits": RING_BITS, "verify": verify, **changes})


class Recording:
    """One honest session: requests and answers, and every client's store and the server's state before each step."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.requests: dict[Step, dict[int, bytes]] = {}
        self.answers: dict[Step, dict[int, bytes]] = {}
        self.stores: dict[Step, dict[int, object]] = {}
        self.states = {}
        state = open_session(world.server, world.plan, world.roster, world.verify)
        while not isinstance(state, Recovered):
            step = state.step
            self.states[step] = copy.deepcopy(state)
            self.stores[step] = {i: copy.deepcopy(world.drivers[i]._store) for i in world.ids}
            self.requests[step] = {i: state.outgoing[i] for i in state.outgoing}
            self.answers[step] = {i: world.ask(i, step, m) for i, m in self.requests[step].items()}
            for client, answer in self.answers[step].items():
                state.receive(client, answer)
            state = state.close()

    def messages(self) -> list[bytes]:
        both = (*self.requests.values(), *self.answers.values())
        return [message for group in both for message in group.values()]

    def drivers(self, step: Step) -> dict[int, ClientDriver]:
        """Fresh drivers whose stores are as they were before this step."""
        world = self.world
        return {
            i: ClientDriver(world.member(i), copy.deepcopy(self.stores[step][i]), entropy(i), lambda: world.context)
            for i in world.ids
        }


def entropy(client: int) -> Callable[[int], bytes]:
    return lambda size: world.invented("fuzz", client)[:size]


@functools.cache
def recording(name: str, lenient: bool = False) -> Recording:
    """The honest session of a world, made once."""
    return Recording(build(name, lenient))
