"""The world of the attacks is an honest one: its sums are right, and what its adversaries see says nothing."""

import numpy as np
import pytest

from protocols.params import Adversary
from protocols.wire import Step
from threat_model import views, world
from threat_model.world import Wire, World


def plain_sum(at: World, survivors: tuple[int, ...]) -> dict[str, list[int]]:
    return {
        name: sum(at.values[client][name] for client in survivors).tolist()  # type: ignore[union-attr]
        for name, _ in at.plan.vectors
    }


@pytest.mark.parametrize("adversary", list(Adversary))
@pytest.mark.parametrize("lost", [set(), {2}, {2, 17}], ids=["nobody", "one", "two"])
def test_without_an_attack_the_sum_over_the_survivors_is_exact(adversary: Adversary, lost: set[int]) -> None:
    at = world.build(adversary=adversary)
    recovered, _ = at.run(Wire(at, lost={Step.MASK: lost}))
    assert recovered.survivors == tuple(client for client in at.ids if client not in lost)
    assert {name: total.tolist() for name, total in recovered.totals.items()} == plain_sum(at, recovered.survivors)


def test_two_worlds_are_the_same_byte_for_byte() -> None:
    first, second = (views.watch(world.build(), Step.UNMASK) for _ in range(2))
    assert first.requests == second.requests
    assert first.answers == second.answers


def test_a_servers_view_holds_every_message_of_a_session() -> None:
    at, again = world.build(), world.build()
    link = Wire(at)
    at.run(link)
    whole, watched = views.of_wire(at.plan, link), views.watch(again, Step.UNMASK)
    assert whole.requests == watched.requests
    assert {step: whole.answers[step] for step in watched.answers} == watched.answers
    assert set(whole.answers) == set(Step)


def test_whoever_has_both_secrets_of_a_client_reads_it_and_whoever_lacks_one_does_not() -> None:
    """The reading itself works; else no attack with it would prove anything."""
    at = world.build()
    victim = at.ids[2]
    view = views.watch(at, Step.MASK)
    state = views.states_of(at, victim)
    view.answers[Step.MASK] = {victim: at.ask(victim, Step.MASK, view.requests[Step.MASK][victim])}
    others = [client for client in at.ids if client != victim]
    pairs = views.pair_secrets(state.mask_secret, view.announced, others)  # type: ignore[union-attr]
    upload = view.upload(victim)
    seed = state.seed  # type: ignore[union-attr]
    assert views.reads(at, victim, views.unmasked(at.plan, upload, seed, pairs, view.s2))
    assert not views.reads(at, victim, views.unmasked(at.plan, upload, bytes(32), pairs, view.s2))
    del pairs[others[0]]
    assert not views.reads(at, victim, views.unmasked(at.plan, upload, seed, pairs, view.s2))


def test_an_upload_looks_like_noise() -> None:
    at = world.build(vectors=(("update", 4000), ("scores", 2)))
    for client in at.ids:
        at.values[client] = {name: np.zeros(length, np.int64) for name, length in at.plan.vectors}
    view = views.watch(at, Step.AGREE)
    ones = np.unpackbits(np.frombuffer(view.upload(at.ids[0]).vectors[0], np.uint8)).mean()
    assert abs(ones - 0.5) < 5 * 0.5 / np.sqrt(4000 * world.RING_BITS)
