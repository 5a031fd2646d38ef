"""A host: some owners of a federation, their model and their stores, in one process.

Answers the engine's requests. What a message says is between a client and the server; the host commits a
chunk of owners' durable state before any of their replies leaves.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from fgrpo_secure import entropy
from fgrpo_secure.client import trained
from fgrpo_secure.client.book import Book
from fgrpo_secure.client.membership import Trust
from fgrpo_secure.client.participant import Participant
from fgrpo_secure.config.schema import Config
from fgrpo_secure.engines import joined, training_child
from fgrpo_secure.engines.assignment import Assignment
from fgrpo_secure.engines.joined import Joined
from fgrpo_secure.engines.messages import (
    Answer,
    Begin,
    Costs,
    Finish,
    Over,
    Recover,
    Recovered,
    Reply,
    Request,
    Trained,
    Witness,
)
from fgrpo_secure.engines.messages import Step as StepRequest
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.grpo.isolated_reward import Limits
from fgrpo_secure.plan import adapter_shape, run_plan, terms
from fgrpo_secure.shared_verifier import SharedVerifier
from fgrpo_secure.storage.client_folder import ClientFolder
from fgrpo_secure.storage.run_directory import RunDirectory
from protocols.errors import FaultyServer, ProtocolError, Refused
from protocols.identity import Identity
from protocols.wire import RoundPlan, Step

Given = TypeVar("Given")
CHUNK = 16  # owners per commit: few commits, and uploads still leave as they are made


class Host:
    """The owners of one process. `handle` is its only way in once it is open."""

    def __init__(self, adapted: AdaptedModel, book: Book, run: bytes, plain: bool) -> None:
        self._plain = plain
        self._adapted = adapted
        self._book = book
        self._run = run
        self._participants: dict[int, Participant] = {}
        self._context = adapted.context()
        self._verify = SharedVerifier()
        self._objection: Refused | FaultyServer | None = None
        self._day = 0
        self._ends_run, self._threads, self._device = True, 1, "cpu"

    @staticmethod
    def open(directory: RunDirectory, config: Config, index: int, count: int) -> "Host":
        """Host `index` of `count` of a trial: loads the model, the roster and the stores of its owners.

        RunDirectoryError if the owners did not join this run.
        """
        torch.set_num_threads(1)  # tiny models lose more to threads than they gain
        return Host._entered(Book.open(directory, index), joined.in_trial(directory, config, index, count))

    @staticmethod
    def of_owner(folder: ClientFolder, run: str) -> "Host":
        """The host of one organisation on its own machine, in a run that it joined, by its folder alone."""
        torch.set_num_threads(1)  # threads that had begun would be missing in the child that trains
        found = joined.by_owner(folder, run)
        here = replace(found, model=found.model.model_copy(update={"device": "cpu"}))
        host = Host._entered(Book.at(folder.state, folder.ledgers), here)
        host._ends_run, host._threads, host._device = False, found.threads, found.model.device
        return host

    @staticmethod
    def _entered(book: Book, found: Joined) -> "Host":
        config = found.config
        adapted = adapters.attach(models.load(found.model), config.adapter, config.run.seed)
        host = Host(adapted, book, found.run, config.aggregation.mode == "plain")
        host._enter(found)
        return host

    def close(self) -> None:
        """Close the stores. After a trial they hold no secret of its sessions; an organisation's host ends often,
        within a run, too, and its next session drops what it needs no more."""
        if self._ends_run:
            self._forget()
        self._book.close()

    def give_up(self) -> None:
        """Nothing: it ends with the process that it is in."""

    def _forget(self) -> None:
        with self._book.refunding():
            for participant in self._participants.values():
                participant.forget()

    def handle(self, request: Request) -> Iterator[Reply]:
        """Answer one request of the engine."""
        match request:
            case Begin():
                self._begin(request)
            case StepRequest():
                yield from self._step(request)
            case Witness():
                with self._book.charging():
                    shown = [(self._participants[client], exhibit) for client, exhibit in request.exhibits.items()]
                    ask, seen = (self._run, request.session), self._assignment.roster
                    said = [participant.witness(*ask, exhibit, seen) for participant, exhibit in shown]
                yield from said
            case Finish():
                yield self._costs()
            case Over():
                self._forget()
            case Recover():
                with self._book.refunding():
                    everybody = self._participants.values()
                    masked = sum(participant.recover(self._run, request.sessions) for participant in everybody)
                yield Recovered(masked)

    def _enter(self, found: Joined) -> None:
        config, pins = found.config, found.pins
        with self._book.charging():
            trust = Trust(self._book.store, pins.authority, pins.server, found.roster)
        plan = run_plan.plan(config, adapter_shape.of(self._adapted))
        self._assignment = Assignment(
            config, found.next_key, self._adapted, plan, trust, pins.server, self._verify, self._run
        )
        for owner, own in found.owners:
            # A seed that a server chose would be its key to this owner's noise and masks: only the owner can allow it.
            kind = config.run.entropy if own.privacy.entropy == "seeded" else "os"
            source = entropy.from_kind(kind, config.run.seed).child("owners")
            self._participants[owner.id] = Participant(
                owner.limited(Limits(**dict(own.rewards))),
                own,
                Identity.from_seed(self._book.store.identity_seed(owner.id)),
                pins.server,
                self._book,
                None if self._plain else plan.claim,
                config.unit_blocks,
                source.child(owner.id),
                self._verify,
                lambda: self._context,
            )
        with self._book.refunding():
            for participant in self._participants.values():
                participant.close_orphans()
            self._assign()

    def _begin(self, request: Begin) -> None:
        """Take up the adapter and the roster of the sessions that come. Books stay as they are, however often."""
        refused = self._load(request.adapter)
        self._verify.forget()
        with self._book.charging():
            self._assign(request.roster)
        self._objection = self._objection or refused
        for participant in self._participants.values():
            participant.reset_times()

    def _assign(self, shown: bytes | None = None) -> None:
        """Who takes part, by today's date: an enrolment ends with its day, whatever the server sends or does not."""
        self._day = entropy.today()
        self._objection = self._assignment.assign(self._participants, shown)

    def _load(self, adapter: bytes) -> FaultyServer | None:
        """Take up the adapter; what its owners object to if the bytes are none of this run's."""
        try:
            self._adapted.load_full_state(load(adapter))
        except (SafetensorError, ValueError):
            return FaultyServer("sent bytes that are no adapter of this run")
        self._context = self._adapted.context()
        return None

    def _step(self, request: StepRequest) -> Iterator[Answer | Trained]:
        """Chunk by chunk: accept and charge, commit; train, which holds no lock; answer, commit; send."""
        step, messages = Step(request.step), request.messages
        now = entropy.stopwatch()
        times = None if request.seconds is None else (now + request.seconds, now - request.waited)
        clients = sorted(messages)
        opens = step is Step.ANNOUNCE or self._plain
        if opens and self._day != entropy.today():
            with self._book.charging():
                self._assign()
        for start in range(0, len(clients), CHUNK):
            chunk = {client: messages[client] for client in clients[start : start + CHUNK]}
            plans: dict[int, RoundPlan | Answer | None] = {}
            if opens:
                with self._book.charging():
                    began = {client for client in chunk if self._participants[client].began(chunk[client])}
                    plans = {client: self._guarded(client, self._accept, chunk[client]) for client in chunk}
                for client, plan in plans.items():
                    if isinstance(plan, RoundPlan):
                        # By the record: whatever a server asked for in between, what ended a process once is not
                        # begun again.
                        trains = request.trains and (client not in began or request.again)
                        self._train(self._participants[client], plan, times, trains)
                        if request.watched:
                            yield Trained(client)
            with self._book.charging():
                answers = [
                    self._guarded(client, self._answer, step, message, plans[client] if opens else None)
                    for client, message in chunk.items()
                    if not opens or plans[client] is not None
                ]
            yield from (answer for answer in answers if answer is not None)

    def _train(
        self, participant: Participant, plan: RoundPlan, times: tuple[float, float] | None, trains: bool
    ) -> None:
        """Until it is done; or in a child until the deadline, where nothing that comes in time is nothing but noise.

        `times` are the server's deadline and when this client was asked first.
        """
        if times is None:
            participant.train(plan, self._adapted)
            return
        settings = terms.settings_of(plan)
        latest = times[1] + (settings.training_seconds or 0)  # the same after whatever ended meanwhile: nobody sees it
        ends = min(times[0], latest)  # a server that names a day in the next century is given the plan's time
        if settings.units is not None:
            # A server that shortens the time must not make one slow unit cost all others their contribution.
            ends = latest
        work = participant.training(plan, self._adapted) if trains else None
        if not trains:
            participant.note("what trained ended with its process before: this round is noise alone")
        if work is None:
            participant.prepare(plan)
            entropy.sleep(max(0.0, ends - entropy.stopwatch()))
            return

        def train() -> bytes:
            torch.set_num_threads(self._threads)
            # Here and not before: a copied process cannot use an accelerator that the one before it has begun to use.
            self._adapted.model.to(self._device)
            return trained.write(work())

        def take(found: bytes | None) -> None:
            if found is None:
                participant.note("training did not end in time, or its process died: this round is noise alone")
            else:
                participant.keep(plan, trained.read(found))
            participant.prepare(plan)

        training_child.run_until(ends, train, take)

    def _accept(self, client: int, message: bytes) -> RoundPlan | Answer:
        """The plan that the owner accepts, or what it answered before."""
        participant = self._participants[client]
        if not self._plain and (known := participant.answered(Step.ANNOUNCE, message)) is not None:
            return Answer(client, known)
        self._object()
        accept = participant.accept_in_the_clear if self._plain else participant.accept
        return self._measured(participant, lambda: accept(message, self._adapted))

    def _answer(self, client: int, step: Step, message: bytes, plan: RoundPlan | Answer | None) -> Answer:
        """One owner's answer, from its record before anything else."""
        participant = self._participants[client]
        if isinstance(plan, Answer):
            return plan
        if plan is not None:
            reply = participant.answer_in_the_clear if self._plain else partial(participant.announce, message=message)
            return Answer(client, self._measured(participant, lambda: reply(plan)))
        if (known := participant.answered(step, message)) is not None:
            return Answer(client, known)
        self._object()
        return Answer(client, self._measured(participant, lambda: participant.handle(step, message)))

    def _object(self) -> None:
        """Raise what all owners of this host object to: a roster that is no good, or too few clients on it."""
        if self._objection is not None:
            raise type(self._objection)(self._objection.reason)

    def _guarded(self, client: int, act: Callable[..., Given], *given: Any) -> Given | Answer | None:
        """What `act` gives; the refusal, which is public, or None where the owner keeps silent: somebody cheated."""
        try:
            return act(client, *given)
        except Refused as refusal:
            self._participants[client].note(str(refusal))
            return Answer(client, None, refusal.reason)
        except ProtocolError as problem:
            self._participants[client].note(str(problem))
            return None

    def _measured(self, participant: Participant, act: Callable[[], Given]) -> Given:
        """What an owner spends on privacy and aggregation is known in a simulation alone."""
        started = entropy.processor_time()
        try:
            return act()
        finally:
            participant.privacy_seconds += entropy.processor_time() - started
            participant.saved_seconds += self._verify.saved_seconds()

    def _costs(self) -> Costs:
        everybody = self._participants.values()
        training, privacy = [each.training_seconds for each in everybody], [each.privacy_seconds for each in everybody]
        alone = max(each.privacy_seconds + each.saved_seconds for each in everybody)
        rollouts = sum(each.rollouts_seconds for each in everybody)
        return Costs(rollouts, sum(training), max(training), sum(privacy), alone)
