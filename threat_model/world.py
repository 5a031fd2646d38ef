"""An honest federation in memory, of which an adversary may replace any party or message.

Clients are the real drivers over real stores, the server is the real one, and everything between them passes through
`Wire`, where it can be changed, held back or repeated. All randomness comes from fixed seeds: an attack that
fails today fails tomorrow. The tests of `protocols` and the fuzzing have the same world.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import msgspec
import numpy as np
from numpy.typing import NDArray

from fgrpo_secure.entropy import SeededEntropy
from protocols import drive, envelope, labels, params, wire
from protocols.collect import Record
from protocols.drive import ClientDriver, MemoryStore, Traffic
from protocols.errors import ProtocolError
from protocols.identity import Identity, Verify, verify_signature
from protocols.member import Limits, Member
from protocols.params import Adversary
from protocols.roster import Entry, Roster
from protocols.server import Recovered
from protocols.wire import RoundPlan, Step

SEED = SeededEntropy(b"threat model")
Values = dict[str, NDArray[np.int64]]
VECTORS = (("update", 5), ("scores", 2))
RING_BITS = 40
TODAY = 20_000


def invented(*label: str | int) -> bytes:
    """32 bytes of the test world, the same for the same label."""
    return SEED.bytes(32, *label)


def invented_values(client: int, vectors: tuple[tuple[str, int], ...], reach: int, seed: int = 0) -> Values:
    """What a client would contribute: integers below `reach` in size."""
    return {
        name: np.frombuffer(_source(seed).bytes(8 * length, "values", client, name), np.int64) % (2 * reach) - reach
        for name, length in vectors
    }


@dataclass
class World:
    """Clients with ids that are not positions, one server, one plan. `values` are the secrets that attackers want.

    `context` is what the plan names, `loaded` what each client really has.
    """

    ids: tuple[int, ...]
    authority: Identity
    server: Identity
    identities: dict[int, Identity]
    roster: Roster
    plan: RoundPlan
    limits: Limits
    context: dict[str, bytes]
    loaded: dict[int, dict[str, bytes]]
    values: dict[int, Values]
    verify: Verify = verify_signature
    seed: int = 0
    stores: dict[int, MemoryStore] = field(default_factory=dict)
    drivers: dict[int, ClientDriver] = field(default_factory=dict)
    admits: Callable[[int, RoundPlan], None] | None = None

    @property
    def colluder(self) -> int:
        """The client that shares all it has with the adversary."""
        return self.ids[-1]

    def member(self, client: int, **limits: object) -> Member:
        """The client as the protocol sees it; `limits` change its policy."""
        policy = replace(self.limits, **limits)  # type: ignore[arg-type]  # field names of Limits
        return Member(client, self.identities[client], self.roster, self.server.public, policy, self.verify)

    def join(self, client: int, **limits: object) -> None:
        """Puts the client's real driver over an empty store; `limits` change its policy."""
        self.stores[client] = MemoryStore()
        draws = count()
        source = _source(self.seed).child("client", client)
        self.drivers[client] = ClientDriver(
            self.member(client, **limits),
            self.stores[client],
            lambda size: source.bytes(size, next(draws)),
            lambda: self.loaded[client],
        )

    def change_plan(self, **fields: object) -> RoundPlan:
        """Has the server plan something else."""
        self.plan = msgspec.structs.replace(self.plan, **fields)
        return self.plan

    def signed(self, plan: RoundPlan) -> bytes:
        """The server's request of the announce step."""
        return wire.encode(wire.SignedPlan(plan, self.server.sign("sign plan", wire.encode(plan))))

    def sealed(self, client: int, step: Step, message: wire.Answer) -> bytes:
        """A message of this client in its envelope: what a client that lies would send."""
        return envelope.sign(self.identities[client], wire.session_of(self.plan), client, step, message)

    def sealed_bytes(self, client: int, step: Step, body: bytes) -> bytes:
        """Any bytes in a client's own envelope."""
        session, digest = wire.session_of(self.plan), envelope.content_digest(body)
        return wire.encode(
            wire.Signed(body, envelope.signature(self.identities[client], session, client, step, digest))
        )

    def ask(self, client: int, step: Step, message: bytes) -> bytes:
        """One request to one client, whose answer or ProtocolError comes back. `admits` has its say on a plan first."""
        if step is Step.ANNOUNCE and self.admits is not None:
            self.admits(client, wire.decode(wire.SignedPlan, message, wire.MAX_PLAN).plan)
        return self.drivers[client].handle(step, message, lambda plan: self.values[client])

    def run(
        self,
        link: drive.Link | None = None,
        on_step: Callable[[Step, int, int], None] | None = None,
        record: Record | None = None,
    ) -> tuple[Recovered, Traffic]:
        """An honest server conducts the planned session; see `drive.conduct`."""
        return drive.conduct(self.server, self.plan, self.roster, link or Wire(self), self.verify, on_step, record)

    def run_quietly(self, link: drive.Link) -> ProtocolError | None:
        """Runs as far as it goes; the error that ends it, if any."""
        try:
            self.run(link)
        except ProtocolError as error:
            return error
        return None

    def plain_sum(self, survivors: Iterable[int]) -> Values:
        """What the server should learn of these clients."""
        zeros = {name: np.zeros(length, np.int64) for name, length in self.plan.vectors}
        return {name: sum((self.values[i][name] for i in survivors), zeros[name]) for name in zeros}


Tamper = Callable[[Step, int, bool, bytes], bytes | None]


@dataclass
class Wire:
    """Carries messages to the drivers, and keeps them. `tamper(step, client, up, message)` gives what arrives, None for
    nothing; `lost` maps a step to clients that are gone from then on."""

    world: World
    lost: Mapping[Step, set[int]] = field(default_factory=dict)
    tamper: Tamper = lambda step, client, up, message: message
    down: list[tuple[Step, int, bytes]] = field(default_factory=list, repr=False)
    up: list[tuple[Step, int, bytes]] = field(default_factory=list, repr=False)
    refusals: dict[int, ProtocolError] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)

    def exchange(self, step: Step, outgoing: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
        """See protocols.drive.Link."""
        self.gone |= self.lost.get(step, set())
        for client in outgoing:
            message = None if client in self.gone else self.tamper(step, client, False, outgoing[client])
            if message is None:
                continue
            self.down.append((step, client, message))
            try:
                answer = self.world.ask(client, step, message)
            except ProtocolError as refusal:
                self.refusals[client] = refusal
                continue
            changed = self.tamper(step, client, True, answer)
            if changed is not None:
                self.up.append((step, client, changed))
                yield client, changed


def build(
    clients: int = 6,
    adversary: Adversary = Adversary.LYING_SERVER,
    max_corrupt: float = 0.1,
    max_dropout: float = 0.34,
    post_quantum: bool = False,
    enrolled: int = 0,
    vectors: tuple[tuple[str, int], ...] = VECTORS,
    ring_bits: int = RING_BITS,
    session_number: int = 1,
    seed: int = 0,
    verify: Verify = verify_signature,
) -> World:
    """An honest federation before its first round; everyone's policy names the same adversary as the plan.

    `enrolled` clients are on the roster, if more than those that take part. Another `seed`: other values, other draws.
    """
    ids = tuple(3 * place + 2 for place in range(max(clients, enrolled)))
    identities = {client: _identity("client", client) for client in ids}
    entries = tuple(Entry(client, f"client {client}", identities[client].public) for client in ids)
    authority = _identity("authority")
    roster = Roster(1, authority.public, entries)
    context = {name: invented("context", name) for name in ("adapter", "model")}
    numbers = params.derive(adversary, len(ids), clients, max_corrupt, max_dropout)
    plan = plan_for(roster, ids[:clients], numbers, context, post_quantum, vectors)
    plan = msgspec.structs.replace(plan, ring_bits=ring_bits, session_number=session_number)
    limits = Limits(adversary, max_corrupt, max_dropout, clients, plan.floor, 0, TODAY, plan.run, post_quantum)
    reach = 2 ** (ring_bits - 1) // clients
    values = {client: invented_values(client, vectors, reach, seed) for client in ids}
    world = World(
        ids[:clients],
        authority,
        _identity("server"),
        identities,
        roster,
        plan,
        limits,
        context,
        {client: dict(context) for client in ids},
        values,
        verify,
        seed,
    )
    for client in ids:
        world.join(client)
    return world


def plan_for(
    roster: Roster,
    cohort: Sequence[int],
    numbers: params.Parameters,
    context: Mapping[str, bytes],
    post_quantum: bool = False,
    vectors: tuple[tuple[str, int], ...] = VECTORS,
) -> RoundPlan:
    """The plan of round 1 for this cohort."""
    kind = wire.HybridPlan if post_quantum else RoundPlan
    return kind(
        labels.VERSION,
        invented("run")[:16],
        1,
        roster.digest,
        roster.version,
        tuple(cohort),
        tuple(sorted(context.items())),
        b"{}",
        vectors,
        RING_BITS,
        numbers.adversary,
        numbers.colluders,
        numbers.quorum,
        numbers.threshold,
        numbers.floor,
        numbers.neighbours,
    )


def _source(seed: int) -> SeededEntropy:
    return SEED.child("seed", seed) if seed else SEED


def _identity(*label: str | int) -> Identity:
    return Identity.from_seed(invented("identity", *label))
