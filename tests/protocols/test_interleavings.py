"""Random sessions: messages are lost, doubled, replayed (of other steps and sessions too) and garbled in both
directions, at any step; clients restart from their stores.

Whatever happens, the server ends with the exact sum over the survivors that the clients signed, or with a typed
error; nobody is blamed for what happened to its messages on the way; and all clients that open anything opened the
same outcome.
"""

import msgspec
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from protocols import envelope, wire
from protocols.drive import ClientDriver, MemoryStore
from protocols.errors import FaultyClientOrServer, Ignored, ProtocolError, TooFewClients
from protocols.params import Adversary
from protocols.server import Recovered, open_session
from protocols.wire import Step

CLIENT = st.integers(0, 5)


class Sessions(RuleBasedStateMachine):
    build = None  # set by the test: the fixture that makes a world

    @initialize(seed=st.integers(0, 3), adversary=st.sampled_from(Adversary))
    def begin(self, seed, adversary):
        self.world, self.old, self.asked = type(self).build(seed=seed, adversary=adversary), [], []
        self.open()

    def open(self):
        self.state = open_session(self.world.server, self.world.plan, self.world.roster, self.world.verify)
        self.ended = False

    def running(self):
        return not self.ended

    @precondition(lambda self: self.ended)
    @rule()
    def the_next_round_begins(self):
        """The same clients and stores; everything old may still be replayed."""
        self.world.change_plan(session_number=self.world.plan.session_number + 1)
        self.open()

    def deliver(self, place, change=None, times=1):
        client = self.world.ids[place]
        if client not in self.state.outgoing:
            return
        request = self.state.outgoing[client]
        for _ in range(times):
            try:
                answer = self.world.ask(client, self.state.step, request)
            except ProtocolError:
                return
            self.old.append((client, answer))
            self.asked.append((client, self.state.step, request, answer))
            self.hand_in(client, change(answer) if change else answer)

    def hand_in(self, client, answer):
        try:
            self.state.receive(client, answer)
        except (Ignored, FaultyClientOrServer):
            return  # FaultyClient ends the test: every client here is honest, whatever becomes of its messages

    @precondition(running)
    @rule(place=CLIENT, times=st.integers(1, 3))
    def one_answers_perhaps_often(self, place, times):
        self.deliver(place, times=times)

    @precondition(running)
    @rule(place=CLIENT, at=st.integers(0, 10**6), flip=st.integers(1, 255))
    def an_answer_is_garbled(self, place, at, flip):
        def change(answer):
            at_ = at % len(answer)
            return answer[:at_] + bytes([answer[at_] ^ flip]) + answer[at_ + 1 :]

        self.deliver(place, change)

    @precondition(lambda self: self.running() and self.old)
    @rule(which=st.integers(0, 10**6), other=st.none() | CLIENT)
    def an_old_answer_is_replayed(self, which, other):
        client, answer = self.old[which % len(self.old)]
        self.hand_in(client if other is None else self.world.ids[other], answer)

    @rule(place=CLIENT)
    def a_client_restarts_from_its_store(self, place):
        """Nothing but the stored bytes is left: states were encoded, and are decoded again."""
        client = self.world.ids[place]
        old = self.world.drivers[client]
        store = MemoryStore()
        for name, rows in vars(old._store).items():
            setattr(store, name, dict(rows))
        self.world.drivers[client] = ClientDriver(old.member, store, old._entropy, old._context)

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 10**6), step=st.none() | st.sampled_from(Step), other=st.none() | CLIENT)
    def an_old_request_is_replayed(self, which, step, other):
        """Of any session and any step: it is answered as it was, or not at all."""
        client, its_step, request, _ = self.asked[which % len(self.asked)]
        step, client = step or its_step, client if other is None else self.world.ids[other]
        try:
            again = self.world.ask(client, step, request)
        except ProtocolError:
            return
        known = [row[3] for row in self.asked if row[:3] == (client, step, request)]
        if known:
            assert {again} == set(known)
        else:
            self.asked.append((client, step, request, again))
            self.old.append((client, again))

    @precondition(running)
    @rule(place=CLIENT, at=st.integers(0, 10**6), flip=st.integers(1, 255))
    def a_request_is_garbled(self, place, at, flip):
        client = self.world.ids[place]
        if client not in self.state.outgoing:
            return
        request = self.state.outgoing[client]
        at %= len(request)
        garbled = request[:at] + bytes([request[at] ^ flip]) + request[at + 1 :]
        try:
            answer = self.world.ask(client, self.state.step, garbled)
        except ProtocolError:
            return
        self.hand_in(client, answer)

    @precondition(running)
    @rule(lost=st.sets(CLIENT, max_size=2))
    def the_others_answer_and_the_server_goes_on(self, lost):
        for place in set(range(6)) - lost:
            self.deliver(place)
        self.go_on()

    def go_on(self):
        blamed = dict(self.state.blamed)
        try:
            self.state = self.state.close()
        except TooFewClients as error:
            self.ended = True
            short = error.need - error.have
            assert short > 0
        assert blamed == {}
        if isinstance(self.state, Recovered):
            self.ended = True
            self.check_end()

    def check_end(self):
        for name, total in self.world.plain_sum(self.state.survivors).items():
            assert np.array_equal(self.state.totals[name], total)
        session = wire.session_of(self.world.plan)
        settled = [each for driver in self.world.drivers.values() if (each := driver.outcome(session))]
        assert len(settled) >= self.world.plan.threshold
        for outcome in settled:
            assert outcome.survivors == self.state.survivors
            assert outcome.dropped == self.state.dropped


def test_random_interleavings_end_in_the_exact_sum_or_a_typed_error(make_world):
    Sessions.build = staticmethod(make_world)
    run_state_machine_as_test(Sessions, settings=settings(max_examples=40, stateful_step_count=40, deadline=None))


class SplitViews(RuleBasedStateMachine):
    """A lying server that shows each client, in each step, any of several views. Two outcomes are never both opened."""

    build = None

    @initialize(seed=st.integers(0, 3))
    def begin(self, seed):
        self.world = type(self).build(seed=seed)
        self.seen = Observer(self.world)

    @rule(
        lists=st.lists(st.sets(CLIENT, min_size=4), min_size=2, max_size=2),
        sides=st.lists(st.integers(0, 1), min_size=6, max_size=6),
    )
    def show_two_lists(self, lists, sides):
        opened = self.seen.split(lists, sides)
        assert len(opened) <= 1


class Observer:
    """Runs to the agree step honestly; then shows different lists of survivors."""

    def __init__(self, world):
        self.world = world
        state = open_session(world.server, world.plan, world.roster, world.verify)
        while state.step.value != "agree":
            for i in state.outgoing:
                state.receive(i, world.ask(i, state.step, state.outgoing[i]))
            state = state.close()
        self.message = state.outgoing[world.ids[0]]

    def split(self, lists, sides):
        """The outcomes, by survivors, for which any client opened."""
        world = self.world
        whole = wire.decode(wire.Uploads, self.message, 1 << 20)
        signed = ({}, {})
        for place, side in enumerate(sides):
            entries = tuple(e for n, e in enumerate(whole.entries) if n in lists[side])
            request = wire.encode(msgspec.structs.replace(whole, entries=entries))
            try:
                answer = world.ask(world.ids[place], Step.AGREE, request)
            except ProtocolError:
                continue
            signed[side][world.ids[place]] = envelope.unverified(wire.Agreement, answer)
        opened = set()
        for side, agreements in enumerate(signed):
            quorum = wire.encode(wire.Quorum(whole.session, tuple(agreements.values())))
            for i in agreements:
                try:
                    world.ask(i, Step.UNMASK, quorum)
                except ProtocolError:
                    continue
                opened.add(tuple(sorted(lists[side])))
        return opened


def test_no_split_of_the_clients_opens_two_outcomes(make_world):
    SplitViews.build = staticmethod(make_world)
    run_state_machine_as_test(SplitViews, settings=settings(max_examples=30, stateful_step_count=2, deadline=None))
