"""Whoever has plan, roster and transcript gets what the server got; what a liar makes of one is worth less."""

import tracemalloc
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import keys, ring, transcript, wire
from protocols.culprits import named, suspects
from protocols.errors import FaultyClient, Malformed, TooFewClients
from protocols.recovery import Recovered
from protocols.transcript import Entry, Failed, Recorder, Transcript, recompute
from protocols.wire import Step


def recorded(world, link):
    """(what the server got or the error, the transcript as anybody gets it: through bytes)."""
    recorder = Recorder()
    try:
        result, _ = world.run(link, record=recorder)
    except (TooFewClients, FaultyClient) as error:
        result = error
    data = wire.encode(recorder.transcript)
    assert len(data) <= transcript.limit(world.plan)
    return result, transcript.decode(data, world.plan).entries


def recomputed(world, entries):
    return recompute(world.plan, world.roster, entries, world.verify)


def assert_same(one, other):
    assert (one.survivors, one.dropped, one.blamed, one.disputes) == (
        other.survivors, other.dropped, other.blamed, other.disputes,
    )  # fmt: skip
    assert all(np.array_equal(total, other.totals[name]) for name, total in one.totals.items())


@pytest.mark.parametrize("post_quantum", [False, True])
def test_anybody_recomputes_the_sum_from_the_clients_messages(post_quantum, make_world, make_link):
    world = make_world(clients=7, post_quantum=post_quantum)
    lost = {Step.MASK: {world.ids[1]}, Step.UNMASK: {world.ids[4]}}
    result, entries = recorded(world, make_link(world, lost))
    assert_same(recomputed(world, entries), result)
    for name, total in world.plain_sum(result.survivors).items():
        assert np.array_equal(recomputed(world, iter(entries)).totals[name], total)


def test_what_clients_are_blamed_for_is_recomputed_with_the_sum(make_world, make_link, liars):
    """One signs garbage, one equivocates, one deals leaves that do not open for two."""
    world = make_world(clients=9, max_dropout=0.2)
    garbler, twice, dealer = world.ids[0], world.ids[3], world.ids[5]
    bad = liars.Dealer(world, dealer, leaf=lambda at, data: liars.broken_leaf(data) if at in (6, 7) else data)
    inner = make_link(world, tamper=bad.tamper)

    class Link:
        def exchange(self, step, outgoing):
            for client, data in inner.exchange(step, outgoing):
                if (client, step) == (garbler, Step.SHARE):
                    yield client, world.sealed_bytes(client, step, b"garbage")
                    continue
                yield client, data
                if (client, step) == (twice, Step.ANNOUNCE):
                    yield client, world.sealed_bytes(client, step, b"one")
                    yield client, world.sealed_bytes(client, step, b"two")

    result, entries = recorded(world, Link())
    assert set(result.blamed) == {garbler, twice}
    # Positions of leaves are those of the announcers: the garbler announced.
    assert result.disputes == ((dealer, world.ids[6]), (dealer, world.ids[7]))
    assert_same(recomputed(world, entries), result)
    pairs = {frozenset(pair) for pair in result.disputes}
    assert suspects(result) == {frozenset([garbler]), frozenset([twice]), *pairs}
    assert sum(entry.client == twice and entry.step is Step.ANNOUNCE for entry in entries) == 2


class TestADealerThatEndsSessions:
    """n = 5, c = 2: survivors - t + 1 = 2 bad leaves end a session, and two holders' word names nobody."""

    @staticmethod
    def session(make_world, make_link, liars, places, round_number):
        world = make_world(clients=5, max_corrupt=0.4, max_dropout=0, session_number=round_number)
        assert (world.plan.colluders, world.plan.threshold) == (2, 4)
        dealer = liars.Dealer(
            world, world.ids[0], leaf=lambda at, data: liars.broken_leaf(data) if at in places else data
        )
        result, entries = recorded(world, make_link(world, tamper=dealer.tamper))
        assert isinstance(result, TooFewClients)
        assert result.blamed == {}
        return world, recomputed(world, entries)

    def test_one_session_shows_pairs_and_names_nobody(self, make_world, make_link, liars):
        world, failed = self.session(make_world, make_link, liars, (1, 2), 1)
        assert isinstance(failed, Failed)
        assert failed.disputes == ((world.ids[0], world.ids[1]), (world.ids[0], world.ids[2]))
        assert named(suspects(failed), 2) == frozenset()

    def test_a_third_holder_in_another_session_names_the_dealer(self, make_world, make_link, liars):
        world, first = self.session(make_world, make_link, liars, (1, 2), 1)
        _, second = self.session(make_world, make_link, liars, (2, 3), 2)
        assert named(suspects(first) | suspects(second), 2) == {world.ids[0]}


def test_a_dealer_of_inconsistent_shares_is_shown_to_anybody(make_world, make_link, liars):
    world = make_world(clients=8, max_dropout=0.25)
    dealer = liars.Dealer(world, world.ids[2], lambda k, at, s: liars.other_share(s) if k == keys.SEED else s)
    result, entries = recorded(world, make_link(world, tamper=dealer.tamper))
    failed = recomputed(world, entries)
    assert isinstance(result, FaultyClient)
    assert isinstance(failed, Failed)
    assert named(suspects(failed), 1) == {world.ids[2]}


@settings(max_examples=120)
@given(seed=st.integers(0, 2**32), changes=st.integers(1, 4))
def test_whatever_a_server_makes_of_a_transcript_accuses_no_honest_client(shared_sessions, seed, changes):
    """Entries left out, doubled, moved, renamed, of another session or garbled: it is refused, or it shows no sum, or
    it shows the exact sum of those who signed it. All clients here are honest; whoever is blamed would be framed.
    """
    world, entries, other = shared_sessions
    rng, forged = Random(seed), list(entries)
    for _ in range(changes):
        forge(rng, forged, other)
    try:
        result = recomputed(world, forged)
    except Malformed:
        return
    assert (result.blamed, result.disputes) == ({}, ())
    if isinstance(result, Recovered):
        for name, total in world.plain_sum(result.survivors).items():
            assert np.array_equal(result.totals[name], total)


def forge(rng, forged, other):
    at, draw = rng.randrange(len(forged)), rng.randrange(7)
    entry = forged[at]
    if draw == 0:
        del forged[at]
    elif draw == 1:
        forged.insert(at, forged[rng.randrange(len(forged))])
    elif draw == 2:
        forged.insert(rng.randrange(len(forged)), forged.pop(at))
    elif draw == 3:
        forged[at] = Entry(entry.step, rng.choice(forged).client, entry.message)
    elif draw == 4:
        forged[at] = rng.choice(other)
    elif draw == 5:
        place = rng.randrange(len(entry.message))
        data = entry.message[:place] + bytes([entry.message[place] ^ 1]) + entry.message[place + 1 :]
        forged[at] = Entry(entry.step, entry.client, data)
    else:
        # The likeliest lie: everything of some clients from some step on, as if they had dropped.
        gone, since = rng.choice(forged).client, list(Step).index(entry.step)
        forged[:] = [e for e in forged if e.client != gone or list(Step).index(e.step) < since] or forged


def test_openings_left_out_end_in_no_sum_and_accuse_nobody(shared_sessions):
    world, entries, _ = shared_sessions
    fewer = [entry for entry in entries if entry.step is not Step.UNMASK]
    result = recomputed(world, fewer)
    assert isinstance(result, Failed)
    assert suspects(result) == frozenset()


def test_a_message_that_its_client_did_not_sign_makes_it_no_transcript(shared_sessions):
    world, entries, other = shared_sessions
    for forged in ([*entries[:-1], other[-1]], [entries[-1], *entries], [*entries, entries[0]]):
        with pytest.raises(Malformed):
            recomputed(world, forged)
    with pytest.raises(ValueError, match="another roster"):
        recompute(world.change_plan(roster_version=9), world.roster, entries)
    world.change_plan(roster_version=1)


def test_bytes_that_are_no_transcript_are_malformed(shared_sessions):
    world, entries, _ = shared_sessions
    right = wire.encode(Transcript(tuple(entries)))
    for data in (b"", right[:-1], right + b"\0", bytes(transcript.limit(world.plan) + 1)):
        with pytest.raises(Malformed):
            transcript.decode(data, world.plan)


def test_recomputing_holds_one_sum_whatever_the_cohort(make_world, make_link):
    """A shard's uploads may be a gigabyte: they are read one by one."""
    world = make_world(clients=8, vectors=(("update", 100_000),))
    _, entries = recorded(world, make_link(world))
    tracemalloc.start()
    recomputed(world, iter(entries))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * ring.packed_size(100_000, 20) + (1 << 20)
