"""Clients as parties: real participants over real files, with ledgers, records and policies, around a given training.

The server is the adversary: it has the server's key and sends what it likes, in what order it likes. What it is
measured by is what left a client, at the price of the plan under which it left, against what that client's ledger says.
"""

import json
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from fgrpo_secure.client import policy as client_policy
from fgrpo_secure.client.book import Book
from fgrpo_secure.client.owner import Trained
from fgrpo_secure.client.participant import Membership, Participant
from fgrpo_secure.client.store import ClientStore
from fgrpo_secure.config.files import parse
from fgrpo_secure.gain import Observation
from fgrpo_secure.ledger.store import Ledgers
from fgrpo_secure.plan import run_plan
from fgrpo_secure.plan.adapter_shape import AdapterShape
from fgrpo_secure.plan.cost import PrivacyPlan
from fgrpo_secure.plan.round_settings import RoundSettings
from fgrpo_secure.privacy.encode import Lattice
from protocols.collect import Inbox, Record
from protocols.errors import ProtocolError
from protocols.identity import Identity, verify_signature
from protocols.member import Member
from protocols.roster import Entry, Roster
from protocols.server import Recovered, open_session
from protocols.wire import RoundPlan, Step
from threat_model.world import SEED, TODAY, invented

DIMENSION = 6
RUN = invented("run")[:16]
CONTEXT = {name: invented("context", name) for name in ("model", "tokenizer", "adapter", "frozen")}


@dataclass(frozen=True)
class Owner:
    """As much of a data owner as a participant asks for: its update is drawn from its name and the training round."""

    id: int
    name: str
    repeats: int = 0
    moments: bytes = b""  # its update is drawn: no optimiser remembers anything
    reward_functions: tuple[()] = ()  # its update is drawn: nothing is rewarded
    dealt_by: str = ""  # it has no units

    def opened(self) -> "Owner":
        """There is nothing to open."""
        return self

    def train(self, _adapted: object, settings: RoundSettings) -> Trained:
        """An update that differs where a round without noise is repeated, and never otherwise."""
        drawn = SEED.bytes(8 * DIMENSION, "update", self.id, settings.training_round, self.repeats)
        return Trained(np.frombuffer(drawn, np.int64) / 2.0**62, Observation(0.5, 0.1))

    def note(self, _settings: RoundSettings, _reason: ValueError) -> None:
        """Its own log is its own."""

    def write_log(self, _line: str) -> None:
        """Its own log is its own."""


class Model:
    """The adapter's length; nothing else is asked of it here."""

    def dimension(self, _round: int) -> int:
        """Coordinates of a round's update."""
        return DIMENSION


@dataclass
class Parties:
    """Six participants (or `count`) in one folder, and what their server needs to lie to them."""

    folder: Path
    unit: str = "client"
    count: int = 6
    participants: dict[int, Participant] = field(default_factory=dict)
    small: PrivacyPlan | None = None  # how a round is divided, where it can be

    def __post_init__(self) -> None:
        privacy = {"unit": self.unit} | ({"epsilon": 60.0} if self.unit != "none" else {})
        aggregation = {"adversary": "lying_server", "max_dropout": 0.25}
        clients = [{"name": "a", "task": "add", "count": self.count}]
        table = {"client": clients, "privacy": privacy, "aggregation": aggregation, "federation": {"rounds": 12}}
        self.config = parse(table, "the threat model")
        factors = {"x.lora_A.default.weight": (1, 3), "x.lora_B.default.weight": (DIMENSION, 1)}
        self.privacy = run_plan.plan(self.config, AdapterShape(factors, self.config.adapter))
        self.server, self.authority = (Identity.from_seed(invented(name)) for name in ("server", "authority"))
        self.identities = {client: Identity.from_seed(invented("identity", client)) for client in range(self.count)}
        entries = tuple(Entry(client, f"a-{client}", each.public) for client, each in self.identities.items())
        self.roster = Roster(1, self.authority.public, entries)
        self.start()

    def start(self) -> None:
        """Starts every client's program over its files: nothing that was only in memory is left."""
        self.book = Book(ClientStore(self.folder / "state.sqlite"), Ledgers(self.folder / "ledgers.sqlite"))
        demands, everybody = run_plan.demands(self.config, self.privacy), tuple(self.identities)
        found = run_plan.divided(self.config, self.privacy, self.count, self.count)
        self.small, divided = (None, None) if found is None else found
        own = client_policy.from_plan(self.config, self.privacy, demands, self.authority.public, CONTEXT["model"])
        for client, identity in self.identities.items():
            made = Participant(
                Owner(client, f"a-{client}"),  # type: ignore[arg-type]  # as much of one as is asked for
                own,
                identity,
                self.server.public,
                self.book,
                self.privacy.claim,
                1,
                SEED.child("party", client),
                verify_signature,
                lambda: CONTEXT,
            )
            limits = (divided or demands).limits(RUN, TODAY)
            member = Member(client, identity, self.roster, self.server.public, limits)
            own_set = partial(run_plan.check_shard, self.config, self.roster, everybody, client, self.small)
            made.assign(Membership(member, demands, divided, own_set, True))
            self.participants[client] = made

    def stop(self) -> None:
        """The programs end as a crash ends them: nothing is closed in order."""
        self.book.close()

    def plan(
        self,
        number: int,
        training_round: int = 0,
        run: bytes = RUN,
        shard: tuple[int, ...] | None = None,
        **settings: object,
    ) -> RoundPlan:
        """The honest plan of session `number`, of everybody or of a shard, with some of its settings changed."""
        cohort, privacy = (tuple(self.identities), self.privacy) if shard is None else (shard, self.small)
        plan = run_plan.open_round(
            self.config, privacy or self.privacy, self.roster, CONTEXT, training_round, number, DIMENSION, cohort, run
        )
        changed = json.loads(plan.settings) | settings
        written = json.dumps(changed, sort_keys=True, separators=(",", ":")).encode()
        return msgspec.structs.replace(plan, settings=written, ring_bits=plan.ring_bits + 20 * bool(settings))

    def open(self, plan: RoundPlan, record: Record | None = None) -> Inbox:
        """The server's side of a session."""
        return open_session(self.server, plan, self.roster, record=record)

    def ask(self, client: int, step: Step, message: bytes) -> bytes:
        """One request to one client, committed before its answer is given. Raises what the client raises."""
        party = self.participants[client]
        with self.book.charging():
            if (known := party.answered(step, message)) is not None:
                return known
        if step is not Step.ANNOUNCE:
            with self.book.charging():
                return party.handle(step, message)
        with self.book.charging():
            plan = party.accept(message, Model())  # type: ignore[arg-type]  # its length is all that is asked
        party.train(plan, Model())  # type: ignore[arg-type]  # likewise
        with self.book.charging():
            return party.announce(plan, message)

    def go(self, inbox: Inbox, until: Step | None = None) -> Inbox | Recovered:
        """An honest server's steps up to and without `until`. Raises what ends a session."""
        state: Inbox | Recovered = inbox
        while isinstance(state, Inbox) and state.step is not until:
            for client, message in state.outgoing.items():
                try:
                    state.receive(client, self.ask(client, state.step, message))
                except ProtocolError:
                    continue
            state = state.close()
        return state

    def spent(self, client: int) -> Fraction:
        """What the client's ledger says it paid, as mu squared."""
        return sum((ledger.spent() for ledger in self.participants[client].ledgers), Fraction(0))

    def price(self, plan: RoundPlan, survivors: int) -> Fraction:
        """mu squared of a vector that left under a plan, in a sum over `survivors`."""
        settings = RoundSettings.decode(plan.settings)
        bound = Lattice.build(DIMENSION, settings.clip_norm).integer_bound
        return Fraction(bound**2, (survivors - plan.colluders) * settings.share_variance - 4)
