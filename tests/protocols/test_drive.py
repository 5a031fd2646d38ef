import dataclasses

import numpy as np
import pytest

from protocols import wire
from protocols.drive import ClientDriver, MemoryStore, Traffic
from protocols.errors import FaultyServer, Refused, TooFewClients
from protocols.member import MAX_SESSION_STEP
from protocols.states import Settled
from protocols.wire import Step


@pytest.fixture
def recorded(make_world):
    """A world after a whole session, with every request and answer of its clients."""
    world = make_world()
    seen = {}

    class Recording:
        def exchange(self, step, outgoing):
            for client in outgoing:
                request = outgoing[client]
                answer = world.ask(client, step, request)
                seen[client, step] = (request, answer)
                yield client, answer

    world.run(Recording())
    return world, seen


def test_a_repeated_request_gets_the_same_bytes_and_asks_for_no_new_contribution(recorded):
    world, seen = recorded

    def forbidden(plan):
        raise AssertionError("contributed twice")

    for (client, step), (request, answer) in seen.items():
        assert world.drivers[client].handle(step, request, forbidden) == answer


@pytest.mark.parametrize("step", list(Step)[1:])
def test_a_different_request_for_an_answered_step_is_refused(step, recorded):
    world, seen = recorded
    request, _ = seen[world.ids[0], step]
    with pytest.raises(FaultyServer, match="second, different answer"):
        world.ask(world.ids[0], step, request[:-1] + bytes([request[-1] ^ 1]))


@pytest.mark.parametrize("step", list(Step)[1:])
def test_a_step_of_a_session_never_begun_is_refused(step, recorded, make_world):
    _, seen = recorded
    world = make_world()
    with pytest.raises(FaultyServer, match="did not begin"):
        world.ask(world.ids[0], step, seen[world.ids[0], step][0])


def test_steps_out_of_order_are_refused(recorded, make_world):
    _, seen = recorded
    order = list(Step)
    for done in range(1, 5):
        for asked in order[1:]:
            world = make_world()
            me = world.ids[0]
            for step in order[:done]:
                world.ask(me, step, seen[me, step][0])
            if asked is not order[done] and asked not in order[:done]:
                with pytest.raises(FaultyServer, match="out of order"):
                    world.ask(me, asked, seen[me, asked][0])


@pytest.mark.parametrize("step", list(Step))
def test_bytes_that_are_no_message_are_the_servers_fault(step, make_world):
    world = make_world()
    for data in (b"", b"\x93", bytes(100)):
        with pytest.raises(FaultyServer, match="malformed"):
            world.ask(world.ids[0], step, data)


def test_the_round_counter_only_grows_whatever_the_session(recorded):
    world, _ = recorded
    world.change_plan(settings=b"[]")
    with pytest.raises(Refused, match="does not come after"):
        world.ask(world.ids[0], Step.ANNOUNCE, world.signed(world.plan))
    world.change_plan(session_number=2)
    world.ask(world.ids[0], Step.ANNOUNCE, world.signed(world.plan))
    member = world.drivers[world.ids[0]].member
    store = world.drivers[world.ids[0]]._store
    assert store.last_session(member.identity.public, member.server_key, world.plan.run) == 2


def test_a_plan_of_another_run_is_refused_and_counts_for_nothing(recorded):
    """Two names for one federation would be two ledgers, each signed by everybody."""
    world, _ = recorded
    world.change_plan(session_number=2, run=bytes(16))
    with pytest.raises(Refused, match="has not joined"):
        world.ask(world.ids[0], Step.ANNOUNCE, world.signed(world.plan))


def test_a_huge_session_number_does_not_use_up_the_others(recorded):
    world, _ = recorded
    run, me = world.plan.run, world.ids[0]
    for number in (2**48, 1 + MAX_SESSION_STEP + 1):
        world.change_plan(session_number=number)
        with pytest.raises(Refused, match=f"is more than {MAX_SESSION_STEP} after session 1"):
            world.ask(me, Step.ANNOUNCE, world.signed(world.plan))
    world.change_plan(session_number=1 + MAX_SESSION_STEP, run=run)
    world.ask(me, Step.ANNOUNCE, world.signed(world.plan))


def test_a_refused_plan_moves_no_number(recorded):
    world, _ = recorded
    me = world.ids[0]

    def refuse(plan):
        raise Refused("the owner says no")

    world.change_plan(session_number=9)
    with pytest.raises(Refused, match="says no"):
        world.drivers[me].handle(Step.ANNOUNCE, world.signed(world.plan), dict, refuse)
    world.change_plan(session_number=2)
    world.ask(me, Step.ANNOUNCE, world.signed(world.plan))


@pytest.mark.parametrize("last", [Step.ANNOUNCE, Step.SHARE, Step.MASK, Step.AGREE])
def test_no_step_of_a_closed_session_is_answered(recorded, make_world, last):
    """Whichever step it had reached. A refund is safe only because of this."""
    _, seen = recorded
    world = make_world()
    me = world.ids[0]
    steps = list(Step)
    for step in steps[: steps.index(last) + 1]:
        world.ask(me, step, seen[me, step][0])
    session = wire.session_of(world.plan)
    world.drivers[me]._store.close(world.identities[me].public, session)
    for step in steps[steps.index(last) + 1 :]:
        with pytest.raises(FaultyServer, match="closed"):
            world.ask(me, step, seen[me, step][0])


def test_a_session_does_not_go_on_under_another_roster(recorded, make_world):
    _, seen = recorded
    world = make_world()
    me = world.ids[0]
    world.ask(me, Step.ANNOUNCE, seen[me, Step.ANNOUNCE][0])
    driver = world.drivers[me]
    roster = dataclasses.replace(world.roster, version=world.roster.version + 1)
    driver.member = dataclasses.replace(driver.member, roster=roster)
    with pytest.raises(FaultyServer, match="another roster"):
        world.ask(me, Step.SHARE, seen[me, Step.SHARE][0])


def test_the_clients_own_last_session_counts_as_well(make_world):
    world = make_world(session_number=5)
    driver = world.drivers[world.ids[0]]
    driver.member = world.member(world.ids[0], last_session=5)
    with pytest.raises(Refused, match="does not come after session 5"):
        world.ask(world.ids[0], Step.ANNOUNCE, world.signed(world.plan))


def test_a_refused_plan_leaves_no_trace(make_world):
    world = make_world()
    me = world.ids[0]
    good = world.plan
    world.change_plan(quorum=1, session_number=9)
    with pytest.raises(Refused):
        world.ask(me, Step.ANNOUNCE, world.signed(world.plan))
    world.plan = good
    world.ask(me, Step.ANNOUNCE, world.signed(world.plan))


def test_nothing_is_answered_that_could_not_be_stored(make_world):
    world = make_world()
    driver = world.drivers[world.ids[0]]

    class Full(MemoryStore):
        def put(self, *arguments):
            raise OSError("disk full")

    driver._store = Full()
    with pytest.raises(OSError, match="disk full"):
        world.ask(world.ids[0], Step.ANNOUNCE, world.signed(world.plan))


def test_after_a_restart_a_driver_goes_on_from_its_store(recorded, make_world):
    """A new driver over the same store, at every step, ends in the same sum."""
    world = make_world()

    class Restarting:
        def exchange(self, step, outgoing):
            for client in outgoing:
                old = world.drivers[client]
                world.drivers[client] = ClientDriver(old.member, old._store, old._entropy, old._context)
                yield client, world.ask(client, step, outgoing[client])

    result, _ = world.run(Restarting())
    for name, total in world.plain_sum(world.ids).items():
        assert np.array_equal(result.totals[name], total)
    session = wire.session_of(world.plan)
    assert all(world.drivers[i].outcome(session) is not None for i in world.ids)


def test_settled_is_known_after_unmask_and_not_before(make_world, make_link):
    world = make_world()
    me, gone, session = world.ids[0], world.ids[5], wire.session_of(world.plan)
    seen = []

    def tamper(step, who, up, data):
        if who == me:
            seen.append((step, up, world.drivers[me].outcome(session)))
        return data

    world.run(make_link(world, {Step.MASK: {gone}}, tamper))
    assert all(settled is None for step, up, settled in seen if (step, up) != (Step.UNMASK, True))
    settled = world.drivers[me].outcome(session)
    assert isinstance(settled, Settled)
    assert settled.survivors == world.ids[:5]
    assert settled.dropped == (gone,)
    assert world.drivers[gone].outcome(session) is None


def test_traffic_counts_bytes_and_clients_per_step(make_world, make_link):
    world = make_world()
    link = make_link(world, {Step.MASK: {world.ids[0]}})
    told = []
    _, traffic = world.run(link, on_step=lambda step, asked, answered: told.append((step, asked, answered)))
    assert told == [
        (Step.ANNOUNCE, 6, 6),
        (Step.SHARE, 6, 6),
        (Step.MASK, 6, 5),
        (Step.AGREE, 5, 5),
        (Step.UNMASK, 5, 5),
    ]
    assert isinstance(traffic, Traffic)
    assert sum(traffic.up.values()) == sum(len(data) for _, _, data in link.up)
    assert sum(traffic.down.values()) == sum(len(data) for _, _, data in link.down)


def test_after_a_signed_wrong_answer_nothing_more_of_that_client_counts_in_the_step(make_world):
    """Not even a right one: whoever signs a wrong one first could choose what to be judged by."""
    world = make_world()
    culprit = world.ids[0]

    class Twice:
        def exchange(self, step, outgoing):
            for client in outgoing:
                answer = world.ask(client, step, outgoing[client])
                if client == culprit and step is Step.SHARE:
                    yield client, world.sealed_bytes(client, step, b"garbage")
                yield client, answer

    recovered, _ = world.run(Twice())
    assert culprit not in recovered.survivors
    assert set(recovered.blamed) == {culprit}


def test_answers_of_strangers_are_not_counted(make_world):
    world = make_world()

    class Strangers:
        def exchange(self, step, outgoing):
            yield 999, b"hello"
            for client in outgoing:
                yield client, world.ask(client, step, outgoing[client])

    recovered, traffic = world.run(Strangers())
    assert recovered.blamed == {}
    assert traffic.answered[Step.MASK] == 6


def test_an_ended_session_says_who_was_blamed(make_world, make_link):
    world = make_world()
    bad = set(world.ids[:3])
    signed = {who: world.sealed_bytes(who, Step.ANNOUNCE, b"x") for who in bad}
    link = make_link(world, tamper=lambda s, who, up, data: signed[who] if up and who in bad else data)
    with pytest.raises(TooFewClients) as caught:
        world.run(link)
    assert set(caught.value.blamed) == bad


def test_the_store_swaps_only_what_it_expects(make_world):
    store, plan = MemoryStore(), make_world().plan
    session = wire.session_of(plan)
    assert store.last_session(b"i", b"server", plan.run) == -1
    store.accept(b"i", b"server", plan)
    with pytest.raises(ValueError, match="only grow"):
        store.accept(b"i", b"server", plan)
    assert store.last_session(b"i", b"server", plan.run) == plan.session_number
    assert store.last_session(b"i", b"another server", plan.run) == -1
    store.put(b"i", session, Step.SHARE, b"d", b"state", b"reply")
    assert store.reply(b"i", session, Step.SHARE) == (b"d", b"reply")
    assert store.state(b"i", session) == b"state"
    for step in (Step.SHARE, Step.AGREE, Step.UNMASK):  # answered before; a vector must have left first
        with pytest.raises(ValueError, match="already answered"):
            store.put(b"i", session, step, b"d", b"state", b"reply")
    assert store.reply(b"j", session, Step.SHARE) is None
    assert store.status(b"j", session) is None


def test_a_session_has_the_outcome_of_no_other(recorded):
    """Else a ledger could settle a round on the survivors of the one before."""
    world, _ = recorded
    me, before = world.ids[0], wire.session_of(world.plan)
    world.change_plan(session_number=2)
    world.ask(me, Step.ANNOUNCE, world.signed(world.plan))
    assert world.drivers[me].outcome(before).survivors == world.ids
    assert world.drivers[me].outcome(wire.session_of(world.plan)) is None


def test_a_request_that_is_refused_costs_no_contribution(recorded, make_world):
    """Training takes minutes: a server that sends garbage must not get it for nothing, again and again."""
    _, seen = recorded
    world, asked = make_world(), []
    me = world.ids[0]
    for step in (Step.ANNOUNCE, Step.SHARE):
        world.ask(me, step, seen[me, step][0])
    request = seen[me, Step.MASK][0]
    for garbled in (request[:-1], request[:60] + bytes([request[60] ^ 1]) + request[61:], request + b"\0"):
        with pytest.raises(FaultyServer):
            world.drivers[me].handle(Step.MASK, garbled, asked.append)
    assert asked == []
