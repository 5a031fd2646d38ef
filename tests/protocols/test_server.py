"""Whom the server blames, for what, and that everybody else's sum still comes out."""

from contextlib import suppress

import msgspec
import numpy as np
import pytest

from protocols import envelope, keys, labels, wire
from protocols.errors import FaultyClient, TooFewClients
from protocols.server import Recovered, open_session
from protocols.states import Agreed, decode_state
from protocols.wire import Step

UP = dict(zip(Step, (wire.Announcement, wire.Deal, wire.Upload, wire.Agreement, wire.Opening), strict=True))


@pytest.fixture
def world(make_world):
    return make_world(clients=8, max_dropout=0.25)


def tampering(step, culprit, change):
    return lambda at, who, up, data: change(data) if (at, who, up) == (step, culprit, True) else data


def assert_sum(world, recovered):
    for name, total in world.plain_sum(recovered.survivors).items():
        assert np.array_equal(recovered.totals[name], total)


@pytest.mark.parametrize("step", list(Step))
@pytest.mark.parametrize(
    "change",
    [
        lambda d: b"",
        lambda d: d + b"\0",
        lambda d: bytes([d[0] ^ 1]) + d[1:],
        lambda d: d[:-1] + bytes([d[-1] ^ 1]),
        lambda d: d * 2,
    ],
)
def test_an_answer_garbled_on_its_way_costs_that_client_and_blames_nobody(step, change, world, make_link):
    """Whoever is on the way could have garbled it."""
    victim = world.ids[3]
    recovered, _ = world.run(make_link(world, tamper=tampering(step, victim, change)))
    assert recovered.blamed == {}
    assert (victim in recovered.survivors) is (step in (Step.AGREE, Step.UNMASK))
    assert_sum(world, recovered)


@pytest.mark.parametrize("step", list(Step))
@pytest.mark.parametrize("kind", ["random", "huge", "another step", "another session", "another client"])
def test_garbage_under_a_clients_name_neither_silences_nor_blames_it(step, kind, world, make_world):
    """Issue: unsigned garbage "from X" silenced and blamed X. Here it comes before every right answer."""
    victim, other = world.ids[3], world.ids[0]
    elsewhere = make_world(clients=8, max_dropout=0.25, session_number=2)

    class Garbage:
        def exchange(self, at, outgoing):
            answers = {i: world.ask(i, at, outgoing[i]) for i in outgoing}
            if at is step:
                foreign = elsewhere.sealed_bytes(victim, at, b"body")
                wrong_step = world.sealed_bytes(victim, next(s for s in Step if s is not at), b"body")
                yield (
                    victim,
                    {
                        "random": b"garbage",
                        "huge": bytes(1 << 20),
                        "another step": wrong_step,
                        "another session": foreign,
                        "another client": answers[other],
                    }[kind],
                )
            yield from answers.items()

    recovered, traffic = world.run(Garbage())
    assert recovered.blamed == {}
    assert recovered.survivors == world.ids
    assert traffic.answered[step] == 8
    assert_sum(world, recovered)


@pytest.mark.parametrize("step", [step for step in Step if step is not Step.MASK])
def test_a_signed_message_that_is_none_blames_its_client(step, world, make_link):
    culprit = world.ids[3]
    link = make_link(world, tamper=tampering(step, culprit, lambda _: world.sealed_bytes(culprit, step, b"body")))
    recovered, _ = world.run(link)
    assert set(recovered.blamed) == {culprit}
    assert "malformed" in recovered.blamed[culprit]
    assert_sum(world, recovered)


@pytest.mark.parametrize("step", list(Step))
def test_only_two_different_signed_answers_to_one_step_are_equivocation(step, world):
    """The first one counts; a repetition of either changes nothing more."""
    culprit, outcome = world.ids[3], {}

    class Twice:
        def exchange(self, at, outgoing):
            for client in outgoing:
                answer = world.ask(client, at, outgoing[client])
                yield from [(client, answer)] * 3
                if (client, at) == (culprit, step):
                    outcome["before"] = dict(self.state.blamed)
                    second = world.sealed_bytes(client, at, b"body")
                    yield client, second if at is not Step.MASK else reuploaded(world, client, answer)

    link = Twice()
    recovered = run_watched(world, link)
    assert outcome["before"] == {}
    assert recovered.blamed == {culprit: "signed two different answers to one step"}
    assert recovered.survivors == world.ids
    assert_sum(world, recovered)


def run_watched(world, link):
    """`conduct`, with the server's state shown to the link."""
    state = open_session(world.server, world.plan, world.roster, world.verify)
    while not isinstance(state, Recovered):
        link.state = state
        for client, data in link.exchange(state.step, state.outgoing):
            with suppress(FaultyClient):
                state.receive(client, data)
        state = state.close()
    return state


def reuploaded(world, client, answer):
    """Another upload of the same size, signed by its client."""
    upload = envelope.unverified(wire.Upload, answer)
    return world.sealed(client, Step.MASK, msgspec.structs.replace(upload, signature=bytes(64)))


@pytest.mark.parametrize("step", list(Step))
def test_a_client_shown_another_view_on_the_way_is_dropped_and_not_blamed(step, world, make_link):
    """What it signs within its message does not fit the server's view; whoever changed the request made it so."""
    victim = world.ids[3]

    def change(data):
        kind = UP[step]
        entry = msgspec.structs.replace(envelope.unverified(kind, data), signature=bytes(64))
        return world.sealed(victim, step, entry)

    recovered, _ = world.run(make_link(world, tamper=tampering(step, victim, change)))
    assert recovered.blamed == {}
    assert (victim in recovered.survivors) is (step in (Step.AGREE, Step.UNMASK))
    assert_sum(world, recovered)


@pytest.mark.parametrize("step", [step for step in Step if step is not Step.MASK])
def test_signing_anothers_message_blames_the_impostor(step, world, make_link):
    culprit, seen = world.ids[3], {}

    def tamper(at, who, up, data):
        if up and at is step:
            seen[who] = data
            if who == culprit:
                return world.sealed(culprit, step, envelope.unverified(UP[step], seen[world.ids[0]]))
        return data

    recovered, _ = world.run(make_link(world, tamper=tamper))
    assert set(recovered.blamed) == {culprit}
    assert "under another name" in recovered.blamed[culprit]
    assert_sum(world, recovered)


@pytest.mark.parametrize("name", ["mask_key", "seal_key"])
def test_keys_of_small_order_are_refused_before_anyone_else_meets_them(name, world, make_link):
    culprit = world.ids[1]
    session = wire.session_of(world.plan)

    def change(data):
        bad = msgspec.structs.replace(envelope.unverified(wire.Announcement, data), **{name: bytes(32)})
        payload = wire.announcement_payload(session, bad)
        signature = world.identities[culprit].sign(labels.SIGN_ANNOUNCEMENT, payload)
        return world.sealed(culprit, Step.ANNOUNCE, msgspec.structs.replace(bad, signature=signature))

    link = make_link(world, tamper=tampering(Step.ANNOUNCE, culprit, change))
    recovered, _ = world.run(link)
    assert recovered.blamed == {culprit: "announced a key of small order"}
    assert link.refusals == {}
    assert_sum(world, recovered)


@pytest.mark.parametrize("kind", [keys.SEED, keys.MASK_KEY])
def test_a_dealer_of_inconsistent_shares_ends_the_session_and_is_blamed(liars, kind, world, make_link):
    """A seed share counts if the dealer survives, a mask key share if it drops."""
    culprit = world.ids[2]
    dealer = liars.Dealer(world, culprit, lambda k, position, share: liars.other_share(share) if k == kind else share)
    lost = {Step.MASK: {culprit}} if kind == keys.MASK_KEY else {}
    with pytest.raises(FaultyClient, match=r"another secret|inconsistent") as caught:
        world.run(make_link(world, lost, tamper=dealer.tamper))
    assert caught.value.client == culprit


def test_shares_of_the_kind_that_is_not_opened_do_no_harm(liars, world, make_link):
    dealer = liars.Dealer(
        world, world.ids[2], lambda k, p, share: liars.other_share(share) if k == keys.MASK_KEY else share
    )
    recovered, _ = world.run(make_link(world, tamper=dealer.tamper))
    assert recovered.blamed == {}
    assert_sum(world, recovered)


def test_a_dealer_that_commits_to_another_seed_is_blamed(liars, world, make_link):
    dealer = liars.Dealer(world, world.ids[2], seed_commitment=bytes(32))
    with pytest.raises(FaultyClient, match="another secret") as caught:
        world.run(make_link(world, tamper=dealer.tamper))
    assert caught.value.client == world.ids[2]


def test_a_dealer_whose_leaves_do_not_open_for_most_is_blamed(liars, world, make_link):
    dealer = liars.Dealer(
        world, world.ids[2], leaf=lambda position, data: liars.broken_leaf(data) if position > 2 else data
    )
    with pytest.raises(FaultyClient, match="do not open") as caught:
        world.run(make_link(world, tamper=dealer.tamper))
    assert caught.value.client == world.ids[2]


def test_leaves_that_do_not_open_for_a_few_do_no_harm(liars, world, make_link):
    """Three of eight complain, five shares are enough: nobody is blamed, and nothing is lost."""
    dealer = liars.Dealer(
        world, world.ids[2], leaf=lambda position, data: liars.broken_leaf(data) if position < 3 else data
    )
    recovered, _ = world.run(make_link(world, tamper=dealer.tamper))
    assert recovered.blamed == {}
    assert len(recovered.survivors) == 8
    assert_sum(world, recovered)


@pytest.mark.parametrize("bad", [keys.SEED, keys.MASK_KEY])
def test_a_holder_of_what_is_no_field_element_cannot_be_framed_with_it(liars, bad, world, make_link):
    """The dealer commits to it; whoever opened it would be blamed. An honest holder has nothing to open instead."""
    culprit, framed = world.ids[2], 5
    lost = {Step.MASK: {culprit}} if bad == keys.MASK_KEY else {}
    dealer = liars.Dealer(world, culprit, lambda k, at, share: b"\xff" * 33 if (k, at) == (bad, framed) else share)
    recovered, _ = world.run(make_link(world, lost, tamper=dealer.tamper))
    assert recovered.blamed == {}
    assert_sum(world, recovered)


def test_c_false_complaints_blame_nobody(liars, world, make_link):
    """With exactly t holders left, one liar can end the session but frame no dealer."""
    liar, gone = world.ids[0], set(world.ids[5:])
    link = make_link(world, {Step.UNMASK: gone}, tamper=liars.reopened(world, liar, lambda share: b""))
    with pytest.raises(TooFewClients) as caught:
        world.run(link)
    assert (caught.value.have, caught.value.need, caught.value.blamed) == (4, 5, {})


@pytest.fixture(autouse=True)
def outcomes(world):
    """Remembers every outcome that a client agrees to: the state that holds it is gone one step later."""

    world.outcomes = {}
    for i in world.ids:
        store = world.drivers[i]._store
        put = store.put

        def keep(identity, session, step, digest, state, reply, put=put, i=i):
            known = decode_state(state)
            if isinstance(known, Agreed):
                world.outcomes[i] = known.outcome
            put(identity, session, step, digest, state, reply)

        store.put = keep
    return world.outcomes


@pytest.mark.parametrize("change", [lambda share: bytes(33), lambda share: b"\xff" * 33, lambda share: b"\x01"])
def test_wrong_openings_blame_their_holder_and_are_skipped(liars, change, world, make_link):
    culprit = world.ids[0]
    recovered, _ = world.run(
        make_link(world, {Step.MASK: {world.ids[4]}}, tamper=liars.reopened(world, culprit, change))
    )
    assert set(recovered.blamed) == {culprit}
    assert "do not match their commitments" in recovered.blamed[culprit]
    assert_sum(world, recovered)


@pytest.mark.parametrize("dealers", [lambda e: e[1:], lambda e: (*e, e[-1]), lambda e: e[::-1], lambda e: ()])
def test_openings_of_other_dealers_than_called_for_blame_their_holder(liars, dealers, world, make_link):
    culprit = world.ids[0]
    tamper = liars.reopened(world, culprit, lambda share: share, dealers)
    recovered, _ = world.run(make_link(world, tamper=tamper))
    assert recovered.blamed == {culprit: "did not open exactly one share per dealer"}
    assert_sum(world, recovered)


def test_with_t_right_openings_c_wrong_ones_are_survived_and_below_t_nothing_comes_out(liars, world, make_link):
    wrong = liars.reopened(world, world.ids[0], lambda share: bytes(33))
    recovered, _ = world.run(make_link(world, {Step.UNMASK: set(world.ids[6:])}, tamper=wrong))
    assert_sum(world, recovered)
