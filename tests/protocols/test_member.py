from dataclasses import replace

import msgspec
import pytest

from protocols import params, wire
from protocols.errors import FaultyServer, Refused
from protocols.identity import Identity
from protocols.member import Member, open_plan
from protocols.params import Adversary


@pytest.fixture
def world(make_world):
    return make_world(clients=8, max_dropout=0.25)


def opened(world, plan=None, member=None, context=None):
    member = member or world.member(world.ids[0])
    return open_plan(member, world.signed(plan or world.plan), world.context if context is None else context)


def changed(world, **fields):
    return msgspec.structs.replace(world.plan, **fields)


def test_a_right_plan_is_accepted(world):
    assert opened(world) == world.plan


def test_a_plan_by_another_signer_is_the_servers_fault(world):
    world.server = Identity.from_seed(b"x" * 32)
    member = replace(world.member(world.ids[0]), server_key=Identity.from_seed(b"server" + bytes(26)).public)
    with pytest.raises(FaultyServer, match="did not sign"):
        opened(world, member=member)


def test_a_plan_changed_after_signing_is_the_servers_fault(world):
    signed = wire.decode(wire.SignedPlan, world.signed(world.plan), wire.MAX_PLAN)
    forged = wire.encode(wire.SignedPlan(changed(world, settings=b"[]"), signed.signature))
    with pytest.raises(FaultyServer, match="did not sign"):
        open_plan(world.member(world.ids[0]), forged, world.context)


@pytest.mark.parametrize("data", [b"", b"\x93", bytes(wire.MAX_PLAN + 1)])
def test_bytes_that_are_no_plan_are_the_servers_fault(world, data):
    with pytest.raises(FaultyServer, match="no plan"):
        open_plan(world.member(world.ids[0]), data, world.context)


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 3},
        {"roster_digest": bytes(32)},
        {"roster_version": 2},
        {"session_number": 0},
        {"quorum": 4},
        {"threshold": 4},
        {"floor": 5},
        {"colluders": 0},
        {"neighbours": 6},
        {"adversary": Adversary.HONEST_BUT_CURIOUS},
    ],
)
def test_a_plan_below_the_clients_policy_is_refused(world, fields):
    with pytest.raises(Refused):
        opened(world, changed(world, **fields))


def test_a_small_cohort_is_refused_even_if_its_thresholds_fit(world):
    p = params.derive(Adversary.LYING_SERVER, 8, 6, 0.1, 0.1)
    small = changed(world, cohort=world.ids[:6], quorum=p.quorum, threshold=p.threshold, floor=p.floor, neighbours=5)
    with pytest.raises(Refused, match="cohort of 6"):
        opened(world, small)
    opened(world, small, member=world.member(world.ids[0], min_cohort=6, min_survivors=6))


def test_a_floor_below_the_owners_minimum_is_refused(world):
    with pytest.raises(Refused, match="survivors"):
        opened(world, member=world.member(world.ids[0], min_survivors=7))


@pytest.mark.parametrize("last", [1, 2, 1000])
def test_a_round_that_is_not_new_is_refused(world, last):
    with pytest.raises(Refused, match="does not come after"):
        opened(world, member=world.member(world.ids[0], last_session=last))


@pytest.mark.parametrize(
    "cohort",
    [
        lambda ids: ids[1:],
        lambda ids: (*ids[:-1], 999),
        lambda ids: ids[::-1],
        lambda ids: (ids[0], *ids),
    ],
)
def test_a_cohort_that_the_roster_does_not_give_is_the_servers_fault(world, cohort):
    with pytest.raises(FaultyServer):
        opened(world, changed(world, cohort=cohort(world.ids)))


@pytest.mark.parametrize(
    "context",
    [
        {},
        {"model": bytes(32)},
        {"model": bytes(32), "adapter": bytes(32)},
        {"model": b"", "adapter": b"", "more": b""},
    ],
)
def test_a_plan_about_other_models_than_loaded_is_refused(world, context):
    with pytest.raises(Refused, match="loaded"):
        opened(world, context=context)


def test_a_refusal_shows_no_name_that_the_server_made_up(world):
    """A plan holds a megabyte of any text; errors end up in logs and on terminals."""
    names = [f"\x1b[2J{n}" for n in range(500)]
    with pytest.raises(Refused) as caught:
        opened(world, changed(world, context=(*((name, bytes(32)) for name in names), *sorted(world.context.items()))))
    assert str(caught.value).endswith("loaded: 500 names unknown here")
    with pytest.raises(Refused, match=r"loaded: adapter, model, 1 names unknown here$"):
        opened(world, changed(world, context=(("other", bytes(32)), ("model", bytes(32)))))


@pytest.mark.parametrize(
    "fields",
    [
        {"vectors": ()},
        {"vectors": (("update", 5), ("update", 5))},
        {"context": (("model", bytes(32)), ("model", bytes(32)))},
    ],
)
def test_ambiguous_plans_are_the_servers_fault(world, fields):
    with pytest.raises(FaultyServer):
        opened(world, changed(world, **fields))


def test_a_stricter_server_is_welcome(world):
    opened(world, changed(world, quorum=6, threshold=6, floor=8, colluders=2))


def test_an_honest_server_client_accepts_the_plan_against_a_lying_one(world):
    opened(world, member=world.member(world.ids[0], adversary=Adversary.HONEST_BUT_CURIOUS))


def test_the_authority_cannot_be_the_server(world):
    member = world.member(world.ids[0])
    with pytest.raises(ValueError, match="authority"):
        replace(member, server_key=world.authority.public)


def test_a_member_has_the_key_that_the_roster_gives_it(world):
    one, other = world.ids[:2]
    for wrong in (other, 12345):
        with pytest.raises(ValueError, match="does not enrol"):
            Member(wrong, world.identities[one], world.roster, world.server.public, world.limits)
