"""A host: some owners of a federation, their model and their stores, in one process.

Answers the engine's requests. What a message says is between an owner's seat and the server; the host commits a
chunk of owners' durable state before any of their replies leaves.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load

from fgrpo_secure import adapters, enrolment, entropy, models, owner_policy, run_plan
from fgrpo_secure.adapters import Policy
from fgrpo_secure.config import Config
from fgrpo_secure.engines.frames import (
    Answer,
    Begin,
    Costs,
    Finish,
    Recover,
    Recovered,
    Reply,
    Request,
    Witness,
)
from fgrpo_secure.engines.frames import Step as StepRequest
from fgrpo_secure.engines.places import Places
from fgrpo_secure.engines.seat import Book, Seat
from fgrpo_secure.engines.signatures import SharedVerifier
from fgrpo_secure.models import BaseModel
from fgrpo_secure.owner import make_owners
from fgrpo_secure.run_directory import RunDirectory
from fgrpo_secure.trust import Trust
from protocols.errors import FaultyServer, ProtocolError, Refused
from protocols.identity import Identity
from protocols.wire import Step

CHUNK = 16  # owners per commit: few commits, and uploads still leave as they are made


class Host:
    """The owners of one process. `handle` is its only way in once it is open."""

    def __init__(self, base: BaseModel, policy: Policy, book: Book, plain: bool) -> None:
        self._plain = plain
        self._base = base
        self._policy = policy
        self._book = book
        self._seats: dict[int, Seat] = {}
        self._context: dict[str, bytes] = {}
        self._verify = SharedVerifier()
        self._objection: Refused | FaultyServer | None = None

    @staticmethod
    def open(directory: RunDirectory, config: Config, index: int, count: int) -> "Host":
        """Host `index` of `count`: loads the model, the roster and the stores of its owners."""
        torch.set_num_threads(1)  # tiny models lose more to threads than they gain
        base = models.load(config.model)
        policy = adapters.attach(base, config.adapter, config.run.seed)
        host = Host(base, policy, Book.open(directory, index), config.aggregation.mode == "plain")
        ids = set(range(index, config.clients_total, count))
        host._seat_owners(directory, config, ids, directory.owners / f"host-{index}")
        return host

    def close(self) -> None:
        """Close the stores."""
        self._book.close()

    def handle(self, request: Request) -> Iterator[Reply]:
        """Answer one request of the engine."""
        match request:
            case Begin():
                self._begin(request)
            case StepRequest():
                yield from self._step(Step(request.step), request.messages)
            case Witness():
                with self._book.transaction():
                    shown = request.exhibits.items()
                    said = [self._seats[client].witness(request.session, exhibit) for client, exhibit in shown]
                yield from said
            case Finish():
                yield self._costs()
            case Recover():
                with self._book.transaction():
                    masked = sum(seat.recover(request.sessions) for seat in self._seats.values())
                yield Recovered(masked)

    def _seat_owners(self, directory: RunDirectory, config: Config, ids: set[int], folder: Path) -> None:
        pins = enrolment.pins(directory)
        with self._book.transaction():
            trust = Trust(self._book.store, pins.authority, pins.server, directory.roster.read_bytes())
        plan = run_plan.plan(config, self._policy)
        self._places = Places(config, directory, self._policy, plan, trust, pins.server, self._verify)
        source = entropy.from_kind(config.run.entropy, config.run.seed).child("owners")
        unit, most = config.privacy.unit, config.units_per_client
        for owner in make_owners(config.client, config.run.seed, ids, folder, unit, most).values():
            identity = Identity.from_seed(self._book.store.identity_seed(owner.id))
            own = owner_policy.load(directory.owners, owner.name)
            self._seats[owner.id] = Seat(
                replace(owner, max_weight=own.rounds.max_weight),
                own,
                identity,
                pins.server,
                self._book,
                None if self._plain else plan.claim,
                config.unit_blocks,
                source.child(owner.id),
                self._verify,
                lambda: self._context,
            )

    def _begin(self, request: Begin) -> None:
        self._policy.load_full_state(load(request.adapter))
        self._context = run_plan.context(self._base, self._policy)
        self._verify.forget()
        with self._book.transaction():
            for seat in self._seats.values():
                seat.begin(request.attempt)
            self._objection = self._places.give_out(self._seats, request.roster)

    def _step(self, step: Step, messages: Mapping[int, bytes]) -> Iterator[Answer]:
        clients = sorted(messages)
        for start in range(0, len(clients), CHUNK):
            chunk = clients[start : start + CHUNK]
            with self._book.transaction():
                answers = [self._answer(step, client, messages[client]) for client in chunk]
            yield from (answer for answer in answers if answer is not None)

    def _answer(self, step: Step, client: int, message: bytes) -> Answer | None:
        """One owner's answer; None where it keeps silent because somebody cheated."""
        seat = self._seats[client]
        try:
            if self._objection is not None:
                raise type(self._objection)(self._objection.reason)
            if self._plain:
                return Answer(client, seat.answer_in_the_clear(message, self._policy))
            return Answer(client, seat.handle(step, message, self._policy))
        except Refused as refusal:
            seat.complain(refusal)
            return Answer(client, None, refusal.reason)
        except ProtocolError as problem:
            seat.complain(problem)
            return None

    def _costs(self) -> Costs:
        seats = self._seats.values()
        training, privacy = [s.training_seconds for s in seats], [s.privacy_seconds for s in seats]
        alone = max(s.privacy_seconds + s.saved_seconds for s in seats)
        rollouts = sum(seat.rollouts_seconds for seat in seats)
        return Costs(rollouts, sum(training), max(training), sum(privacy), alone)
