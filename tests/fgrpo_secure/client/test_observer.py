"""No order of messages brings an owner's ledger below what left it, by somebody who sees only the bytes that left.

The observer shares no code with the books: neither the ledger, nor the records, nor the settlement. A masked vector
costs mu^2 = B^2 / (V - 4), with V the variance of the shares that honest survivors added to its sum. B is the bound of
conditional rounding (Kairouz, Liu, Steinke 2021, Theorem 1, at beta = exp(-1/2)) for a vector that was clipped to
5 lattice steps a coordinate, with two scores of a tenth of the clip norm each.

A lying server holds the server's key and sends any message that it can make, in any order, of any number of
interleaved sessions; between them owners crash, start again, are told to recover, and take part in a run without
privacy. A federation's budget is used up after some hundred steps, so that a long play is one of many federations.
OBSERVER_STEPS=100000 runs it long, OBSERVER_SEED=... repeats one; both are printed.
"""

import contextlib
import json
import math
import os
from fractions import Fraction
from random import Random
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from safetensors.torch import save

from fgrpo_secure.client import round as client_round
from fgrpo_secure.client.participant import Participant
from fgrpo_secure.client.session_records import SessionRecords
from fgrpo_secure.engines import messages
from fgrpo_secure.engines.host import Host
from fgrpo_secure.gain import Observation
from fgrpo_secure.plan import terms
from fgrpo_secure.privacy.clip import Update
from protocols import drive, wire
from protocols.errors import ProtocolError
from protocols.server import Recovered, open_session
from protocols.wire import Step

STEPS = int(os.environ.get("OBSERVER_STEPS", "250"))
SEED = int(os.environ.get("OBSERVER_SEED", "0")) or None
EPISODE = 500  # steps with one federation: by then most of its owners' budgets are spent
ROUNDS = 40
TEXT = """
[run]
entropy = "seeded"
[adapter]
rank = 1
targets = ["down_proj"]
[federation]
rounds = 40
[evaluation]
prompts = 1
[privacy]
epsilon = 60.0
[aggregation]
adversary = "lying_server"
max_dropout = 0.25
[[client]]
name = "adders"
task = "add"
count = 6
"""


SCORES = 2


def bound(dimension):
    radius = 5 * math.sqrt(dimension * (1 + SCORES * 0.1**2))
    length = dimension + SCORES
    triangle = (radius + math.sqrt(length)) ** 2
    conditional = radius**2 + length / 4 + radius + math.sqrt(length) / 2
    return math.isqrt(math.floor(min(triangle, conditional)))


class Observer:
    """Of one owner: the plans that anybody may have shown it, by session, and what left it."""

    def __init__(self):
        self.plans = {}
        self.masked = set()
        self.survivors = {}

    def shown(self, plan):
        self.plans[wire.session_of(plan)] = plan

    def saw(self, step, session, survivors):
        """An answer left. `survivors`: how many are on the list that this client signed, where it opens its shares."""
        if step is Step.MASK:
            self.masked.add(session)
        if step is Step.UNMASK:
            self.survivors[session] = survivors

    def cost(self):
        """The sum of mu^2 over all that left."""
        return sum((self._of(session) for session in self.masked), Fraction(0))

    def _of(self, session):
        plan = self.plans[session]
        settings = json.loads(plan.settings)
        if settings["unit"] == "none":
            return Fraction(0)
        honest = self.survivors.get(session, plan.floor) - plan.colluders
        return Fraction(bound(dict(plan.vectors)["update"]) ** 2, honest * settings["share_variance"] - 4)


@pytest.fixture
def no_training(monkeypatch):
    """What is learned does not matter here; that it is learned in between does."""

    def learn(adapted, owner, settings):
        return client_round.Learned(Update(np.ones(adapted.dimension(settings.training_round))), Observation(0.5, 0.1))

    monkeypatch.setattr(client_round, "learn", learn)


class Adversary:
    """The server of a small federation, which does as it likes."""

    def __init__(self, federation, rng):
        self.federation, self.rng = federation, rng
        self.host = federation.engine.hosts[0]
        self.adapter = federation.adapted
        self.observers = {client: Observer() for client in self.host._participants}
        self.states, self.plans, self.known = {}, {}, []
        self.number = 0
        self.begin()

    def begin(self):
        roster = self.federation.directory.roster.read_bytes()
        list(self.host.handle(messages.Begin(save(dict(self.adapter.full_state())), self.number, roster)))

    # ------------------------------------------------------------------------------------------------- what it can do

    def plans_a_session(self):
        """An honest plan, or one with a figure changed; signed by the server all the same."""
        plan = self.federation.open_round(self.rng.randrange(ROUNDS)).sessions[0].plan
        self.number += self.rng.choice([1, 1, 1, 5])
        plan = msgspec.structs.replace(plan, session_number=self.number)
        settings = json.loads(plan.settings)
        for _ in range(self.rng.choice([0, 1])):
            key, value = self.rng.choice(
                [
                    *[("share_variance", settings["share_variance"] * self.rng.choice([1000, 100, 2]))] * 8,
                    ("share_variance", settings["share_variance"] // 8),
                    ("unit", "none"),
                    ("local_steps", 8),
                    ("training_round", self.rng.randrange(ROUNDS)),
                ]
            )
            settings[key] = value
            plan = msgspec.structs.replace(plan, ring_bits=48)  # room for whatever noise
        if self.rng.random() < 0.1:
            plan = msgspec.structs.replace(plan, run=bytes(16))
        written = json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()
        plan = msgspec.structs.replace(plan, settings=written)
        state = open_session(self.federation.identity, plan, self.federation.roster)
        session = wire.session_of(plan)
        self.plans[session], self.states[session] = plan, state
        for observer in self.observers.values():
            observer.shown(plan)
        self._know(session, state)

    def sends(self):
        """A message that it knows, to the clients that it is for or to some of them; answers go into the session."""
        if not self.known:
            return
        self._send(*self.rng.choice(self.known[-8:] if self.rng.random() < 0.8 else self.known), share=0.9)

    def goes_on(self):
        """One of the newest sessions, as an honest server would."""
        for session, state in list(self.states.items())[-self.rng.choice([1, 1, 2, 2, 3]) :][:1]:
            if isinstance(state, Recovered):
                continue
            self._send(state.step, session, dict(state.outgoing), share=0.99)
            self._close(session)

    def _send(self, step, session, outgoing, share):
        chosen = {client: message for client, message in outgoing.items() if self.rng.random() < share}
        for answer in self.host.handle(messages.Step(step.value, chosen)):
            if answer.payload is None:
                continue
            survivors = len(self._survivors(session)) if step is Step.UNMASK else None
            self.observers[answer.client].saw(step, session, survivors)
            state = self.states.get(session)
            if state is not None and not isinstance(state, Recovered) and state.step is step:
                try:
                    state.receive(answer.client, answer.payload)
                except ProtocolError:
                    continue

    def closes_a_step(self):
        for session in list(self.states)[-2:]:
            self._close(session)

    def _close(self, session):
        state = self.states[session]
        if isinstance(state, Recovered):
            return
        try:
            self.states[session] = state.close()
        except ProtocolError:
            return
        if not isinstance(self.states[session], Recovered):
            self._know(session, self.states[session])

    def asks_to_recover(self):
        sessions = list(self.plans)[-self.rng.choice([1, 2, 5]) :]
        list(self.host.handle(messages.Recover(sessions)))

    def crashes_its_clients(self):
        """Nothing is closed in order: what is not on disk is gone."""
        self.host._book.close()
        self.host = Host.open(self.federation.directory, self.federation.config, 0, 1)
        self.federation.engine.hosts[0] = self.host
        if self.rng.random() < 0.5:
            self.begin()

    def shows_the_adapter_again(self):
        self.begin()

    # ---------------------------------------------------------------------------------------------------------- checks

    def check(self):
        for client, observer in self.observers.items():
            (ledger,) = self.host._participants[client].ledgers
            assert ledger.spent() >= observer.cost() * (1 - Fraction(1, 10**6)), f"client {client} paid less"

    def _know(self, session, state):
        self.known.append((state.step, session, dict(state.outgoing)))

    def _survivors(self, session):
        for step, known, outgoing in self.known:
            if step is Step.AGREE and known == session:
                uploads = wire.decode(wire.Uploads, next(iter(outgoing.values())), 1 << 20)
                return uploads.entries
        return ()


ACTS = (
    *["goes_on"] * 14, *["plans_a_session"] * 3, *["sends"] * 4, "closes_a_step",
    "asks_to_recover", "crashes_its_clients", "shows_the_adapter_again",
)  # fmt: skip


def play(federation, steps, seed):
    rng = Random(seed)
    adversary = Adversary(federation, rng)
    for number in range(steps):
        getattr(adversary, rng.choice(ACTS))()
        try:
            adversary.check()
        except AssertionError as found:
            raise AssertionError(f"seed {seed}, step {number}: {found}") from None
    return adversary


@pytest.fixture
def make_federation(trial, no_training):
    trial.sessions.append(SimpleNamespace(learned={}, encoded={}, noised={}))  # where the trial writes what passes by

    def make(number=0):
        while trial.engines:
            trial.engines.pop().close()
        return trial.federation(text=TEXT, name=f"run-{number}")

    return make


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_no_order_of_messages_brings_a_ledger_below_what_left(make_federation, capsys):
    seed, left, settled = SEED or 20261129, 0, 0
    for episode, start in enumerate(range(0, STEPS, EPISODE)):
        adversary = play(make_federation(episode), min(EPISODE, STEPS - start), seed + episode)
        left += sum(len(observer.masked) for observer in adversary.observers.values())
        settled += sum(len(observer.survivors) for observer in adversary.observers.values())
    with capsys.disabled():
        print(f"\nobserver: seed {seed}, {STEPS} steps, {left} vectors left, {settled} settled")  # noqa: T201
    assert left > STEPS // 50
    assert settled > 0


def several_open(monkeypatch):
    """Records that let a run have several open sessions, and a client that closes none for a new one."""
    original = SessionRecords.accept

    def accept(records, *given):
        records.open_sessions = lambda *_: []
        try:
            original(records, *given)
        finally:
            del records.open_sessions

    monkeypatch.setattr(SessionRecords, "accept", accept)
    monkeypatch.setattr(Participant, "close_open", lambda participant, run: None)


def refunded(monkeypatch):
    """Recovery that gives the charge back and leaves the session open, as it was once."""
    several_open(monkeypatch)

    def recover(participant, run, sessions):
        for session in sessions:
            for ledger in participant._ledgers:
                if ledger.is_open(session) and not participant._records.left(participant._identity.public, session):
                    ledger.abort(session, refund=True)
        return False

    def vectors(participant, plan):
        made = participant._contribution(plan)
        return terms.vectors(made.vector, participant._admitted(plan).lattice.dimension)

    monkeypatch.setattr(Participant, "recover", recover)
    monkeypatch.setattr(Participant, "_vectors", vectors)


def another_sessions_price(monkeypatch):
    """Settling at the terms of the plan that was accepted last, as it was once, where the plan names the noise."""
    several_open(monkeypatch)
    monkeypatch.setattr(terms.RunTerms, "_check_settings", lambda own, settings, dimension: None)
    original, last = Participant._admit, {}

    def admit(participant, plan, adapted):
        original(participant, plan, adapted)
        last[participant.name] = plan

    def settle(participant, session):
        outcome = drive.outcome(participant._records, participant._identity.public, session)
        (ledger,) = participant._ledgers
        if outcome is not None and ledger.is_open(session):
            charge = terms.read(last[participant.name], None).settled(len(outcome.survivors))
            with contextlib.suppress(ValueError):  # a dearer plan's price is no settlement
                ledger.settle(session, len(outcome.survivors), charge)

    monkeypatch.setattr(Participant, "_admit", admit)
    monkeypatch.setattr(Participant, "_settle", settle)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [refunded, another_sessions_price])
def test_the_observer_finds_books_that_are_bent(make_federation, monkeypatch, fault):
    """The control: with the fault the same adversary is caught within a few hundred steps."""
    fault(monkeypatch)
    with pytest.raises(AssertionError, match="paid less"):
        play(make_federation(), 1500, 7)
