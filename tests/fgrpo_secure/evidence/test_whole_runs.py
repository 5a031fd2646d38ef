"""A server alone shows another run in the place of one that clients paid for: fewer rounds, none, or all given back."""

import itertools
import random
from fractions import Fraction

import pytest

from fgrpo_secure.evidence import manifest, verify
from fgrpo_secure.evidence.derived_plans import Planner
from fgrpo_secure.ledger.store import Ledgers
from fgrpo_secure.plan import schedule
from fgrpo_secure.plan.adapter_shape import AdapterShape
from fgrpo_secure.storage import rosters
from protocols import params
from protocols.identity import Identity
from threat_model.attacks import whole_runs

KEPT, GIVEN_BACK, LEFT_OUT = "kept", "given back", "left out"
WAYS = [ways for ways in itertools.product((KEPT, GIVEN_BACK, LEFT_OUT), repeat=2) if ways != (KEPT, KEPT)]


def retold(run, ways):
    """The ledger of the run in another server's words: what became of each of its rounds, and an end that fits."""
    store = Ledgers.read(run.ledger)
    entries, plans = store.existing("server").entries(), store.plans()
    store.close()
    run.ledger.unlink()
    store = Ledgers(run.ledger)
    ledger = store.open("server", Fraction(entries[0]["budget"]))
    for way, opened, end in zip(ways, entries[1:5:2], entries[2:5:2], strict=True):
        session = bytes.fromhex(opened["session"])
        if way != LEFT_OUT:
            charge = Fraction(opened["charge"])
            ledger.intent(session, opened["round"], charge, opened["facts"], {session: plans[opened["session"]]})
        if way == KEPT:
            ledger.settle(session, end["survivors"], Fraction(end["charge"]), end["facts"])
        elif way == GIVEN_BACK:
            ledger.abort(session, refund=True)
    ledger.close_run({**entries[5]["facts"], "rounds": ways.count(KEPT)})
    store.close()


@pytest.mark.parametrize("ways", WAYS, ids=" and ".join)
@pytest.mark.parametrize("notes", ["no notes", "the notes that fit"])
def test_a_run_that_clients_paid_for_cannot_be_told_another_way(finished, copied, ways, notes):
    """Refused at the witnesses: everything that comes later, the server could write to fit."""
    retold(copied, ways)
    for path in copied.notes.glob("*.note"):
        if notes == "no notes" or ways[0] != KEPT or int(path.stem) > 3:
            path.unlink()
    manifest.write(copied, Identity.from_seed(copied.server_key.read_bytes()))
    trust = verify.Trust(rosters.pins(finished).authority)
    with pytest.raises(verify.Mismatch, match="no clients signed for entry") as found:
        list(verify.verify(copied, trust))
    assert found.value.check == "witnesses"


def test_the_runs_end_needs_a_quorum_of_its_clients_although_no_round_settled():
    assert whole_runs.audited("all", range(16)).succeeded
    planner, quorum = planner_of("all"), params.least_quorum(16, 2)
    shards = [cohort for cohort, _ in planner.possible(frozenset()).values() if len(cohort) < 16]
    least = {client for shard in shards for client in shard[: params.least_quorum(len(shard), 2)]}
    assert len(least) >= quorum, "a quorum of each shard, into which a round may be divided, is one of all"
    assert whole_runs.audited("all", sorted(least)).succeeded
    for left in sorted(least):
        short = whole_runs.audited("all", sorted(least - {left}))
        assert not short.succeeded
        assert f"client-{left}" in short.evidence.partition("missing: ")[2]


@pytest.mark.parametrize("replaced", [{0}, {3, 7}, set(range(16))])
def test_a_key_that_was_replaced_signs_no_end(replaced):
    """Whoever stole it would sign for its owner; the others' lines still count."""
    newer = whole_runs.roster_of(replaced)
    assert not whole_runs.audited("all", range(16), newer).succeeded
    others = sorted(set(range(16)) - replaced)
    assert whole_runs.audited("all", others, newer).succeeded == (len(replaced) < 3)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_client_that_was_revoked_signs_no_end(count):
    """With those who stay alone the end is signed, while they are a quorum of all."""
    newer = whole_runs.roster_of(revoked=range(count))
    assert not whole_runs.audited("all", range(16), newer).succeeded
    assert whole_runs.audited("all", range(count, 16), newer).succeeded == (count < 5)


def planner_of(*kind):
    config, roster = whole_runs.config_of(*kind), whole_runs.roster_of()
    return Planner(config, [roster], AdapterShape(whole_runs.SHAPE, config.adapter), bytes(16))


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_whoever_signed_too_few_of_any_possible_session_is_found(seed, shards):
    """Against the plainest count: every round's every cohort, each with a quorum of its signers."""
    chance = random.Random(seed)
    planner = planner_of("all", 8) if shards else planner_of("blocks")
    config, (roster,) = planner.config, planner.rosters
    signed = frozenset(client for client in range(16) if chance.random() < 0.7)
    quorum = params.least_quorum(8, 2)
    cohorts = {part for number in (0, 1) for part in schedule.partition(config, roster.digest, number)}
    short = {cohort for cohort in cohorts if len(signed.intersection(cohort)) < quorum}
    found = {cohort for cohort, least in planner.possible(signed).values() if len(signed.intersection(cohort)) < least}
    assert found == short
    assert planner.possible(frozenset(range(16))) == {}
