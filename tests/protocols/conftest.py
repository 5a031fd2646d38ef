"""A small world of enrolled clients and a server, links that misbehave, the slow second implementation."""

import hashlib
import importlib.util
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from protocols import envelope, labels, params, wire
from protocols.drive import ClientDriver, MemoryStore, conduct
from protocols.errors import ProtocolError
from protocols.identity import Identity, verify_signature
from protocols.member import Limits, Member
from protocols.params import Adversary
from protocols.roster import Entry, Roster
from protocols.transcript import Recorder
from protocols.wire import Step

TESTS = Path(__file__).parent.parent


def fixed_bytes(*names):
    return hashlib.sha256(repr(names).encode()).digest()


def remembering(verify):
    """Each distinct valid signature is checked once per world: it is the same arithmetic for every client."""
    good = set()

    def check(public, label, payload, signature):
        known = (public, label, payload, signature)
        if known not in good:
            verify(public, label, payload, signature)
            good.add(known)

    return check


@dataclass
class World:
    """Clients with ids that are not positions, their drivers, one server and one plan."""

    adversary: Adversary
    ids: tuple[int, ...]
    authority: Identity
    server: Identity
    identities: dict
    roster: Roster
    plan: wire.RoundPlan
    limits: Limits
    context: dict
    values: dict
    verify: object
    drivers: dict = field(default_factory=dict)

    def member(self, client, **limits):
        return Member(
            client,
            self.identities[client],
            self.roster,
            self.server.public,
            replace(self.limits, **limits),
            self.verify,
        )

    def change_plan(self, **fields):
        self.plan = msgspec.structs.replace(self.plan, **fields)
        return self.plan

    def signed(self, plan):
        return wire.encode(wire.SignedPlan(plan, self.server.sign("sign plan", wire.encode(plan))))

    def sealed(self, client, step, message):
        """A message of this client in its envelope: what a client that lies would send."""
        return envelope.sign(self.identities[client], wire.session_of(self.plan), client, step, message)

    def sealed_bytes(self, client, step, body):
        """Any bytes in a client's own envelope."""
        session = wire.session_of(self.plan)
        signature = envelope.signature(self.identities[client], session, client, step, envelope.content_digest(body))
        return wire.encode(wire.Signed(body, signature))

    def answer(self, client, step, message):
        return self.drivers[client].handle(step, message, lambda plan: self.values[client])

    def run(self, link=None, **kwargs):
        return conduct(self.server, self.plan, self.roster, link or Link(self), self.verify, **kwargs)

    def run_quietly(self, link):
        """Runs as far as it goes; the error that ends it, if any."""
        try:
            self.run(link)
        except ProtocolError as error:
            return error
        return None

    def plain_sum(self, survivors):
        return {
            name: sum((self.values[i][name] for i in survivors), np.zeros(length, np.int64))
            for name, length in self.plan.vectors
        }


class Link:
    """Calls the drivers directly. `lost` maps steps to clients that vanish in them; `tamper` changes bytes.

    `tamper(step, client, up, data)` gives the bytes that arrive instead, or None for nothing; `up` tells
    direction. Everything on the wire is kept in `wire_up` and `wire_down`, refusals by clients in
    `refusals`.
    """

    def __init__(self, world, lost=None, tamper=None):
        self.world = world
        self.lost = {step: set(clients) for step, clients in (lost or {}).items()}
        self.tamper = tamper or (lambda step, client, up, data: data)
        self.gone = set()
        self.wire_up, self.wire_down, self.refusals = [], [], {}

    def exchange(self, step, outgoing):
        self.gone |= self.lost.get(step, set())
        for client in outgoing:
            if client in self.gone:
                continue
            message = self.tamper(step, client, False, outgoing[client])
            if message is None:
                continue
            self.wire_down.append(message)
            try:
                answer = self.world.answer(client, step, message)
            except ProtocolError as error:
                self.refusals[client] = error
                continue
            answer = self.tamper(step, client, True, answer)
            if answer is not None:
                self.wire_up.append(answer)
                yield client, answer


def build_world(
    n=6,
    adversary=Adversary.LYING_SERVER,
    max_corrupt=0.1,
    max_dropout=0.34,
    vectors=(("update", 5), ("scores", 2)),
    bits=20,
    round_number=1,
    seed=0,
    post_quantum=False,
):
    ids = tuple(3 * i + 2 for i in range(n))
    authority, server = (
        Identity.from_seed(fixed_bytes("authority")),
        Identity.from_seed(fixed_bytes("server")),
    )
    identities = {i: Identity.from_seed(fixed_bytes("client", i)) for i in ids}
    roster = Roster(1, authority.public, tuple(Entry(i, f"client {i}", identities[i].public) for i in ids))
    p = params.derive(adversary, n, n, max_corrupt, max_dropout)
    context = {"model": fixed_bytes("model"), "adapter": fixed_bytes("adapter")}
    kind = wire.HybridPlan if post_quantum else wire.RoundPlan
    plan = kind(
        labels.VERSION,
        b"run of the tests",
        round_number,
        roster.digest,
        roster.version,
        ids,
        tuple(sorted(context.items())),
        b"{}",
        tuple(vectors),
        bits,
        adversary,
        p.colluders,
        p.quorum,
        p.threshold,
        p.floor,
        p.neighbours,
    )
    rng = np.random.default_rng(seed)
    reach = 2 ** (bits - 1) // n
    values = {i: {name: rng.integers(-reach, reach, length) for name, length in vectors} for i in ids}
    limits = Limits(
        adversary, max_corrupt, max_dropout, n, p.floor, 0, today=20_000, run=plan.run, post_quantum=post_quantum
    )
    verify = remembering(verify_signature)
    world = World(adversary, ids, authority, server, identities, roster, plan, limits, context, values, verify)
    for i in ids:
        world.drivers[i] = ClientDriver(world.member(i), MemoryStore(), _entropy(seed, i), lambda: world.context)
    return world


def _entropy(seed, client):
    counter = iter(range(1 << 30))
    return lambda size: fixed_bytes("entropy", seed, client, next(counter))[:size]


@pytest.fixture
def make_world():
    return build_world


@pytest.fixture
def make_link():
    return Link


def load_module(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def vector_maker():
    return load_module("reference_make_vectors", TESTS / "reference" / "make_vectors.py")


@pytest.fixture(scope="session")
def reference(vector_maker):
    return vector_maker.ref


@pytest.fixture(scope="session")
def vectors():
    return {path.stem: json.loads(path.read_text()) for path in (TESTS / "vectors").glob("*.json")}


@pytest.fixture
def steps():
    return tuple(Step)


@pytest.fixture(scope="session")
def replay():
    """See replay.py."""
    return load_module("replay", Path(__file__).parent / "replay.py")


@pytest.fixture(scope="session")
def liars():
    """See liars.py."""
    return load_module("liars", Path(__file__).parent / "liars.py")


@pytest.fixture(scope="session")
def shared_sessions():
    """(world, transcript of its session, transcript of the round before): honest clients, one lost when masking."""
    found = []
    for number in (1, 2):
        world, recorder = build_world(n=7, round_number=number), Recorder()
        world.run(Link(world, {Step.MASK: {world.ids[2]}}), record=recorder)
        found.append(recorder.transcript.entries)
    return world, found[1], found[0]
