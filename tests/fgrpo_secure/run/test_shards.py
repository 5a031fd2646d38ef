"""Rounds of several shards: exact sums, one session per client and round, failures that stay with their shard."""

import json
from fractions import Fraction

import msgspec
import numpy as np
import pytest

from fgrpo_secure import entropy
from fgrpo_secure.engines.embedded import Embedded
from fgrpo_secure.ledger.store import Ledgers
from fgrpo_secure.plan import adapter_shape, run_plan, schedule
from fgrpo_secure.run import training
from fgrpo_secure.server.stages import SessionFailed
from fgrpo_secure.storage import identity_file, rosters
from protocols import wire
from protocols.roster import Entry, Roster, sign_roster

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("trains_once")]  # whole rounds of 24 clients: seconds each

SHARDED = ("aggregation.shard_size=8", "privacy.epsilon=80.0", "federation.rounds=5", "aggregation.max_corrupt=0.05")


@pytest.fixture
def crowd(small):
    """The small federation with three clients for every task: 24 clients, 3 shards of 8, two of them colluding."""
    text, _ = small
    return text.replace('"\n[[client]]', '"\ncount = 3\n[[client]]').replace('"\n[run]', '"\ncount = 3\n[run]')


def shards_of(federation, training_round=0):
    return schedule.partition(federation.config, federation.roster.digest, training_round)


def charges(directory):
    """Client -> {session: [charges, first to last]}; every ledger must verify."""
    ledgers = Ledgers(directory.owners / "host-0" / "ledgers.sqlite")
    found = {}
    for owner in ledgers.owners():
        ledger = ledgers.open(owner, ledgers.last_row(owner).filter.budget)
        ledger.verify()
        own = found.setdefault(int(owner), {})
        for entry in ledger.entries():
            if entry["kind"] != "budget":
                own.setdefault(entry["session"], []).append(Fraction(entry["charge"]))
    ledgers.close()
    return found


def test_the_sum_over_shards_is_exact_whoever_is_lost_in_each(trial, crowd):
    federation = trial.federation(*SHARDED, text=crowd)
    for training_round, step in enumerate(("announce", "share", "mask", "agree", "unmask")):
        parts = shards_of(federation, training_round)
        gone = {parts[0][0], parts[0][1], parts[1][2]}
        session = trial.conduct(federation, training_round, lost={step: gone})
        survivors = session.result.recovered.survivors
        # Whoever is lost while the first shard runs is missing from the beginning of the second.
        without_upload = gone if step in ("announce", "share", "mask") else gone - set(parts[0])
        assert set(survivors) == set(range(24)) - without_upload
        np.testing.assert_array_equal(session.total, sum(session.noised[client].values for client in survivors))
        assert session.result.failures == ()
    assert max(map(len, charges(federation.directory).values())) == 5, "one session per round"


def test_a_shard_that_fails_leaves_the_others_and_keeps_its_own_charge(trial, crowd, monkeypatch):
    federation = trial.federation(*SHARDED, text=crowd)
    first, second, third = shards_of(federation)
    lost = {"share": set(first[:3]), "agree": set(third[:3])}
    original = Embedded.exchange

    def losing(engine, step, outgoing, seconds):
        reached = {client: outgoing[client] for client in outgoing if client not in lost.get(step, ())}
        yield from original(engine, step, reached, seconds)

    monkeypatch.setattr(Embedded, "exchange", losing)
    session = trial.conduct(federation)
    assert session.result.recovered.survivors == second
    assert len(session.result.failures) == 2
    assert session.result.cohort == 8
    np.testing.assert_array_equal(session.total, sum(session.noised[client].values for client in second))
    full = federation.privacy.noise.charge
    assert federation.ledger.spent() == full, "what a client of the third shard spent, although it got no sum"
    federation.engine.recover([])  # owners close what is still open
    last = {client: next(iter(sessions.values()))[-1] for client, sessions in charges(federation.directory).items()}
    assert {last[client] for client in first} == {0}, "no masked vector left anybody"
    assert {last[client] for client in second} == {federation.privacy.noise.settled(8)}
    assert {last[client] for client in third} == {full}


def test_a_round_in_which_no_shard_ends_is_an_error_and_free_if_nothing_left(trial, crowd):
    federation = trial.federation(*SHARDED, text=crowd)
    gone = {client for part in shards_of(federation) for client in part[:3]}
    with pytest.raises(SessionFailed):
        trial.conduct(federation, lost={"share": gone})
    assert federation.ledger.spent() == 0


@pytest.mark.parametrize("change", ["another's", "one swapped", "one more", "everybody", "another round's"])
def test_a_client_refuses_a_cohort_that_is_not_its_shard(trial, crowd, monkeypatch, change):
    federation = trial.federation(*SHARDED, text=crowd)
    first, second, third = shards_of(federation)
    cohorts = {
        "another's": second,
        "one swapped": tuple(sorted((*first[1:], second[0]))),
        "one more": tuple(sorted((*first, second[0]))),
        "everybody": tuple(range(24)),
        "another round's": shards_of(federation, 1)[0],
    }
    assert not set(cohorts["another's"]) & set(first)
    original = run_plan.open_round

    def other(*arguments):
        *facts, shard, run, shares = arguments
        return original(*facts, cohorts[change] if shard == first else shard, run, shares)

    monkeypatch.setattr(run_plan, "open_round", other)
    session = trial.conduct(federation)
    refused = {client for client, reason in session.refusals.items() if "not this client's shard" in reason}
    if change == "another's":
        # The honest clients of the second shard meet their own cohort twice: the second time they pay again.
        assert set(session.result.recovered.survivors).isdisjoint(first)
    else:
        assert refused >= set(cohorts[change]) - set(third) - set(second)
        assert set(session.result.recovered.survivors) == set(second) | set(third)


def test_a_plan_for_a_round_beyond_the_run_is_refused(trial, crowd):
    federation = trial.federation(*SHARDED, text=crowd)
    with pytest.raises(SessionFailed, match="clients refused"):
        trial.conduct(federation, training_round=5)
    said = set(trial.sessions[-1].refusals.values())
    assert said == {"the plan is for a round that this run does not have"}


class Crash(BaseException):
    """The process is gone: nothing may catch it."""


def test_a_run_of_three_shards_resumes_after_a_crash_within_a_round_and_charges_all_that_left(
    trial, crowd, monkeypatch
):
    """The crash comes after the first shard settled, while the second uploads, before the third began."""
    original, seen = Embedded.exchange, {"announce": 0, "left": []}

    def crashing(engine, step, outgoing, seconds):
        seen["announce"] += step == "announce"
        for position, (client, message) in enumerate(original(engine, step, outgoing, seconds)):
            if step == "mask":
                seen["left"].append(client)
            if seen["announce"] == 5 and step == "mask" and position == 4:
                raise Crash
            yield client, message

    with monkeypatch.context() as patch:
        patch.setattr(Embedded, "exchange", crashing)
        with pytest.raises(Crash):
            trial.run(*SHARDED, text=crowd)
    _, directory = trial.configure(*SHARDED, text=crowd)
    training.resume(directory, trial)
    summary = json.loads(directory.summary.read_text())
    assert (summary["rounds"], summary["stopped"]) == (5, None)
    assert summary["aggregation.shards"] == 3
    assert len(seen["left"]) == 24 + 8 + 5
    spent = charges(directory)
    ends = {client: [history[-1] for history in own.values()] for client, own in spent.items()}
    for client in range(24):
        paid = sum(1 for charge in ends[client] if charge > 0)
        assert paid >= 5 + (client in seen["left"][24:]), "five rounds, and the lost one if its vector left"
    assert [sum(1 for charge in ends[client] if charge > 0) for client in range(24)].count(5) == 8, "the third shard"
    ledgers = Ledgers(directory.ledger)
    server = ledgers.open("server", ledgers.last_row("server").filter.budget)
    server.verify()
    rounds = [entry for entry in server.entries() if entry["kind"] == "intent"]
    assert len(rounds) == 6, "one entry per round and one for the lost one"
    assert all(server.spent() >= sum(own) for own in ends.values())
    ledgers.close()


def test_shards_are_made_of_those_who_may_take_part_and_differ_by_one(trial, crowd, monkeypatch):
    federation = trial.federation(*SHARDED, text=crowd)
    directory, old = federation.directory, rosters.roster(federation.directory)
    authority = identity_file.read(directory.owners / "authority.key")
    members = tuple(Entry(e.id, e.name, e.public, 100 if e.id == 6 else None) for e in old.members)
    directory.next_roster.write_bytes(sign_roster(authority, Roster(2, authority.public, members, last_day=200)))
    monkeypatch.setattr(entropy, "today", lambda: 101)
    assert federation.renew().endswith("23 clients take part from now on")
    session = trial.conduct(federation)
    assert set(session.result.recovered.survivors) == set(range(24)) - {6}
    cohorts = {
        wire.decode(wire.SignedPlan, data, wire.MAX_PLAN).plan.cohort
        for (step, _), data in session.down.items()
        if step == "announce"
    }
    assert sorted(map(len, cohorts)) == [7, 8, 8]
    assert session.result.failures == ()


def test_three_thousand_clients_of_a_lying_server_are_planned_at_once(trial, make_adapted):
    text = '[aggregation]\nadversary = "lying_server"\n[privacy]\nepsilon = 8.0\n[[client]]\n'
    config, _ = trial.configure(text=text + 'name = "adders"\ntask = "add"\ncount = 3000\n')
    adapted, started = make_adapted(), entropy.processor_time()
    plan = run_plan.plan(config, adapter_shape.of(adapted))
    assert entropy.processor_time() - started < 2, "some hundredths of a second; no search over thousands of clients"
    assert (plan.shards, plan.parameters.cohort, plan.parameters.colluders) == (3, 1000, 150)


def test_shards_of_a_round_are_sessions_of_their_own(trial, crowd):
    federation = trial.federation(*SHARDED, text=crowd)
    session = trial.conduct(federation)
    plans = {
        wire.decode(wire.SignedPlan, message, wire.MAX_PLAN).plan
        for (step, _), message in session.down.items()
        if step == "announce"
    }
    assert sorted(client for plan in plans for client in plan.cohort) == list(range(24))
    assert len({wire.session_of(plan) for plan in plans}) == len({plan.session_number for plan in plans}) == 3
    assert {(plan.colluders, plan.quorum, plan.threshold, plan.floor) for plan in plans} == {(2, 6, 6, 6)}
    assert {msgspec.json.decode(plan.settings)["share_variance"] for plan in plans} == {
        federation.privacy.share_variance
    }
