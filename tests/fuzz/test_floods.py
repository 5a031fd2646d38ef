"""Nothing that a peer sends ends, hangs or grows the process of the other side.

Beside the single changed messages of test_fuzz.py: floods of them, everything in every other step and under every
other name, the largest numbers in every place, and nests as deep as a message is long.
"""

import functools
import gc
import time
import tracemalloc
from contextlib import suppress
from random import Random

import msgspec
import numpy as np
import pytest
from fuzz_messages import EDGES, flat, parts, tree
from fuzz_steps import Server
from fuzz_targets import targets
from fuzz_world import WORLDS, build, check_reason, entropy, recording
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import params, tails, wire
from protocols.drive import ClientDriver, MemoryStore
from protocols.errors import FaultyClient, FaultyClientOrServer, Ignored, Malformed, ProtocolError, Refused
from protocols.params import Adversary, Parameters
from protocols.wire import Step

TARGETS = {target.name: target for target in targets()}
PARTIES = [name for name in TARGETS if name.startswith(("client ", "server "))]
FLOOD = 100


def kept(feed, messages):
    """Bytes that three floods leave, beyond what one leaves: caches are filled by then."""
    for data in messages:
        feed(data)
    tracemalloc.start()
    for data in messages:
        feed(data)
    gc.collect()
    once = tracemalloc.get_traced_memory()[0]
    for data in messages * 3:
        feed(data)
    gc.collect()
    left = tracemalloc.get_traced_memory()[0] - once
    tracemalloc.stop()
    return left


@pytest.fixture(scope="module", autouse=True)
def known_before():
    """What other tests of this process left is not looked through again by every collection: that took seconds each."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("name", PARTIES)
def test_a_flood_of_changed_messages_leaves_nothing_behind(name):
    """All of it comes to one session of the server, or to one client in one state."""
    target, rng = TARGETS[name], Random(name)
    feed = target.feed
    if name.startswith("server"):
        server = target.feed.__self__
        server.begin()
        feed = functools.partial(hand_in, server.state, server.seen.world.ids[:2])
    assert kept(feed, [target.mutated(rng) for _ in range(FLOOD)]) < GROWTH


def hand_in(inbox, clients, data):
    for client in clients:
        with suppress(FaultyClient, FaultyClientOrServer, Ignored):
            inbox.receive(client, data)


def test_a_receiver_that_keeps_something_of_each_message_is_noticed():
    """The positive control: 64 bytes of each would do."""
    heap = []
    assert kept(lambda data: heap.append(bytes(64)), [b"x"] * FLOOD) > GROWTH


GROWTH = 24 << 10


def everything(seen):
    """Every message of a session, requests and answers of all clients and steps."""
    for step in Step:
        for client in seen.world.ids:
            for messages in (seen.requests[step], seen.answers[step]):
                if client in messages:
                    yield step, client, messages[client]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("step", list(Step))
def test_every_message_in_every_other_step_and_under_every_other_name_is_refused_by_the_server(world, step):
    """Replays and reorderings: no honest client is blamed for them, and each right answer still counts."""
    seen = recording(world)
    server = Server(seen, step, exact=True)
    for _, _, data in everything(seen):
        for client in (*seen.world.ids, 999):
            if seen.answers[step].get(client) == data:
                continue
            with pytest.raises(Ignored):
                server.state.receive(client, data)
    assert server.state.blamed == {}
    for client, answer in seen.answers[step].items():
        server.state.receive(client, answer)
    assert len(server.state.answers) == len(seen.answers[step])


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("step", list(Step))
def test_every_message_in_every_other_step_is_refused_by_a_client(world, step):
    """Requests of other steps, and answers, its own too; afterwards the right request is answered as if nothing was."""
    seen = recording(world)
    me = seen.world.ids[0]
    driver = seen.drivers(step)[me]
    for _, _, data in everything(seen):
        for asked in Step:
            if data not in seen.requests[asked].values():
                with pytest.raises(ProtocolError) as caught:
                    driver.handle(asked, data, lambda plan: seen.world.values[me])
                check_reason(caught.value)
    for asked in list(Step)[: list(Step).index(step)]:
        assert driver.handle(asked, seen.requests[asked][me], lambda plan: {}) == seen.answers[asked][me]
    assert driver.handle(step, seen.requests[step][me], lambda plan: seen.world.values[me])


HUGE = [edge for edge in EDGES if edge > 2**15] + [2**64 - 1]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("step", list(Step))
@settings(max_examples=25)
@given(rng=st.randoms(use_true_random=False))
def test_the_largest_numbers_in_every_place_end_in_a_typed_error_at_once(world, step, rng):
    """Under every key: the peer signs what it likes. Plans by their server, answers by their client."""
    seen = recording(world, lenient=True)
    me = seen.world.ids[0]
    for data, feed in (
        (seen.requests[step][me], lambda d: client_of(seen, step).handle(step, d, lambda plan: seen.world.values[me])),
        (seen.answers[step][me], lambda d: Server(seen, step, exact=False).state.receive(me, d)),
    ):
        top = tree(data)
        places = [(group, at) for group, at in parts(top) if type(group[at]) is int]
        for group, at in rng.sample(places, min(3, len(places))):
            group[at] = rng.choice(HUGE)
        started = time.process_time()
        try:
            feed(flat(top))
        except (ProtocolError, FaultyClient, FaultyClientOrServer) as error:
            check_reason(error)
        assert time.process_time() - started < 2


def client_of(seen, step):
    return seen.drivers(step)[seen.world.ids[0]]


@pytest.mark.parametrize("head", [b"\x91", b"\x81\x01", b"\xdd\x00\x00\x00\x01", b"\xdc\xff\xff"])
def test_nests_as_deep_as_the_message_is_long_are_malformed_at_once(head):
    started = time.process_time()
    for kind in (wire.SignedPlan, wire.Announcements, wire.Deliveries, wire.Opening, wire.Signed):
        for before in (b"", b"\x93\xa6opened\x01", b"\x94\xa7opening\x01"):
            with pytest.raises(Malformed):
                wire.decode(kind, before + head * 100_000, 1 << 20)
    assert time.process_time() - started < 2


@settings(max_examples=40)
@given(
    neighbours=st.sampled_from([0, 1, 2, 998, 1000, 1002, 5000, 10_000, 19_998, 19_999, 2**48]),
    threshold=st.sampled_from([0, 1, 2, 500, 9000, 2**48]),
    floor=st.sampled_from([0, 3, 15_000, 20_000, 2**48]),
)
def test_no_plan_makes_a_client_of_a_large_roster_sum_tails_for_long(neighbours, threshold, floor):
    """5,000 neighbours of 20,000 took a client 5 seconds, 10,000 of them a minute."""
    offered = Parameters(Adversary.HONEST_BUT_CURIOUS, 20_000, 1000, 10_501, threshold, neighbours, floor)
    tails.smallest_degree.cache_clear()
    started = time.process_time()
    try:
        params.refuse_weaker(offered, 20_000, 0.05, 0.3)
    except Refused as error:
        check_reason(error)
    assert time.process_time() - started < 1


def test_a_signed_plan_of_a_million_bytes_is_judged_at_once():
    """As many vectors, or as many clients, as fit: a server may sign what it likes."""
    world = build("lying", lenient=False)
    me = world.ids[0]
    driver = ClientDriver(world.member(me), MemoryStore(), entropy(me), lambda: world.context)
    names = tuple((f"{i:x}", 2**32) for i in range(90_000))
    for fields in (
        {"vectors": names},
        {"cohort": tuple(range(150_000))},
        {"settings": bytes(60_000), "vectors": names},
    ):
        signed = world.signed(msgspec.structs.replace(world.plan, **fields))
        started = time.process_time()
        try:
            driver.handle(Step.ANNOUNCE, signed[: wire.MAX_PLAN + 1], lambda plan: {"update": np.zeros(0)})
        except ProtocolError as error:
            check_reason(error)
        assert time.process_time() - started < 2
