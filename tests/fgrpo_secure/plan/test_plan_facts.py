"""What a plan states, to the last name and figure: each is derived here again from the plan's own parts."""

import math
from fractions import Fraction

import pytest

from fgrpo_secure.plan import cost as planner
from fgrpo_secure.plan.cost import InfeasiblePlan, Units
from fgrpo_secure.privacy import discrete_gaussian, sizing
from fgrpo_secure.privacy.accounting import Slack, epsilon_of
from fgrpo_secure.privacy.encode import Lattice
from fgrpo_secure.privacy.noise import MIN_SHARE_VARIANCE
from fgrpo_secure.privacy.sizing import Sizing
from protocols import ring
from protocols.params import Adversary, derive

ASKED = {
    "rounds": 12,
    "clients": 40,
    "clients_per_round": 20,
    "rounds_per_client": 6,
    "dimension": 1024,
    "delta": 1e-5,
    "clip_norm": 0.01,
    "adversary": Adversary.LYING_SERVER,
    "max_corrupt": 0.05,
    "max_dropout": 0.1,
    "mean_weight": 0.5,
    "epsilon": 8.0,
}
P = derive(Adversary.LYING_SERVER, 40, 20, 0.05, 0.1)


def planned(**changes):
    return planner.plan(planner.PlanRequest(**{**ASKED, "unit": "client", **changes}))


def inside(units, **changes):
    return planned(unit="subject", units=units, **changes)


def test_every_fact_of_a_plan_for_clients_has_its_name_and_its_value():
    plan = planned(post_quantum=True)
    noise = plan.noise
    mu = math.sqrt(6 * noise.integer_bound**2 / ((P.floor - P.colluders) * noise.share_variance - 4))
    reach = 12 * (20 * 0.5) ** 2 * noise.integer_bound**2 / (20 * noise.share_variance)
    assert plan.facts() == {
        "privacy.unit": "client",
        "privacy.mode": "distributed",
        "privacy.units_per_client": 1,
        "privacy.sampling_rate": 1.0,
        "privacy.epsilon_server": plan.claim.epsilon,
        "privacy.epsilon_release": plan.claim.epsilon,
        "privacy.epsilon_replace_one": pytest.approx(epsilon_of(2 * mu, 0.99e-5), rel=1e-6),
        "privacy.delta": 1e-5,
        "privacy.delta_parts.sparse_graphs": 0.0,
        "privacy.delta_parts.early_end": pytest.approx(1e-7),
        "privacy.delta_parts.sampler_and_lemma": pytest.approx(0.0, abs=1e-20),
        "privacy.delta_parts.mechanism": pytest.approx(0.99e-5),
        "privacy.epsilon_group_of_2": pytest.approx(epsilon_of(2 * mu, 0.99e-5), rel=1e-6),
        "privacy.epsilon_group_of_5": pytest.approx(epsilon_of(5 * mu, 0.99e-5), rel=1e-6),
        "privacy.noise_multiplier": pytest.approx(math.sqrt(6) / mu, rel=1e-9),
        "privacy.mu_server": pytest.approx(mu, rel=1e-9),
        "privacy.share_variance": noise.share_variance,
        "privacy.adaptive_clip_cost": None,
        "privacy.adaptive_clip_deviation": None,
        "privacy.rounds_per_client": 6,
        "privacy.reserved_sessions": 0,
        "privacy.reserved_epsilon": 0.0,
        "privacy.rounds_per_unit": 6,
        "aggregation.mode": "secure",
        "aggregation.adversary": "lying_server",
        "aggregation.shards": 1,
        "aggregation.shard_size": 20,
        "aggregation.colluders": P.colluders,
        "aggregation.quorum": P.quorum,
        "aggregation.neighbours": P.neighbours,
        "aggregation.threshold": P.threshold,
        "aggregation.graph": P.graph,
        "aggregation.ring_bits": plan.ring_bits,
        "aggregation.minimum_survivors": P.floor,
        "aggregation.post_quantum": True,
        "bytes.up_per_client_per_round": plan.traffic.up,
        "bytes.down_per_client_per_round": plan.traffic.down,
        "adapter.dimension": 1024,
        "adapter.trained_dimension": 1024,
        "adapter.useful_dimension": pytest.approx(reach, rel=1e-9),
        "verdict": plan.verdict,
        "warnings": [],
    }
    assert noise.share_variance > 0


def test_the_facts_of_units_inside_clients_say_how_many_and_how_often():
    turns = inside(Units(32, 3, releases=2, local=True))
    coins = inside(Units(16, 6, rate=0.25))
    names = ("privacy.mode", "privacy.units_per_client", "privacy.sampling_rate", "privacy.rounds_per_unit")
    assert [turns.facts()[name] for name in names] == ["local", 32, 1.0, 3]
    assert [coins.facts()[name] for name in names] == ["distributed", 16, 0.25, 6]


def test_a_trusted_server_sees_everything_unless_clients_add_all_noise_themselves():
    trusting, local = planned(adversary=None), inside(Units(32, 3, local=True), adversary=None)
    facts = trusting.facts()
    assert facts["privacy.epsilon_server"] is None
    assert facts["privacy.epsilon_release"] <= 8
    assert local.facts()["privacy.epsilon_server"] == local.claim.epsilon
    nothing = ("shards", "shard_size", "colluders", "quorum", "neighbours", "threshold", "graph")
    assert [facts[f"aggregation.{name}"] for name in nothing] == [None] * 7
    assert (facts["aggregation.mode"], facts["aggregation.adversary"]) == ("plain", "none")
    assert facts["aggregation.minimum_survivors"] == 18
    assert facts["bytes.up_per_client_per_round"] == ring.packed_size(1024 + 2, trusting.ring_bits)
    assert facts["bytes.down_per_client_per_round"] == 0
    assert planned(adversary=None, broadcast_bytes=77).traffic.down == 77
    assert len(trusting.warnings) == 1


def test_a_release_costs_its_gradients_and_its_rewards():
    plain, paid = inside(Units(32, 3)), inside(Units(32, 3, reward_charge=Fraction(1, 100)))
    assert plain.release_charge == plain.noise.charge > 0
    assert paid.release_charge == paid.noise.charge + Fraction(1, 100)
    assert planned().release_charge == planned().noise.charge
    assert planned(unit="none", epsilon=None).release_charge == 0


@pytest.mark.parametrize(("units", "presence"), [(Units(32, 3, releases=2), 3 / 12), (Units(32, 6, rate=0.4), 0.4)])
def test_the_useful_dimension_counts_the_units_that_are_present(units, presence):
    plan = inside(units)
    lifted = (20 * 32 * presence * 0.5) ** 2 * 12 * units.releases
    per_step = 20 * plan.share_variance / plan.noise.integer_bound**2
    assert plan.useful_dimension == pytest.approx(lifted / per_step, rel=1e-12)


def test_one_share_of_noise_covers_a_round_that_a_trusted_server_noises():
    for plan, shares in ((planned(adversary=None), 1), (inside(Units(32, 6, local=True), adversary=None), 20)):
        units = 1 if plan.units is None else 32 * 6 / 12
        lifted = 12 * (20 * units * 0.5) ** 2
        per_step = shares * plan.share_variance / plan.noise.integer_bound**2
        assert plan.useful_dimension == pytest.approx(lifted / per_step, rel=1e-12)


def test_the_verdict_says_how_many_times_as_many_dimensions_are_left():
    claim = planned().claim
    said = planner.verdict(1000, 2500.0, claim)
    assert said.startswith("may learn: the noise leaves 2,500 useful dimensions for an adapter of 1,000, 2.5 times")
    assert "at most 833 dimensions" in said
    assert planner.verdict(1000, 3000.0, claim) == "can learn"
    assert planner.verdict(1000, 500.0, claim).startswith("may learn")
    assert planner.verdict(1000, 499.9, claim).startswith("cannot learn")


def test_a_sampled_claim_states_the_multiplier_of_the_gradients_and_what_replacing_costs():
    plan = inside(Units(32, 6, rate=0.4, reward_charge=Fraction(1, 100)))
    assert plan.claim.noise_multiplier == pytest.approx(1 / math.sqrt(plan.noise.charge), rel=1e-12)
    assert plan.claim.sampling.multiplier == pytest.approx(1 / math.sqrt(plan.release_charge), rel=1e-12)
    assert plan.claim.epsilon < plan.claim.epsilon_replace_one < math.inf
    assert plan.claim.sampling.releases == 6


def test_noise_that_a_client_adds_alone_is_one_share_for_the_slack():
    lattice = Lattice.build(1024, 0.01, 2)
    local = sizing.sizing(Adversary.LYING_SERVER, lattice, P, 20, Units(32, 3, local=True), 1e-5)
    shared = sizing.sizing(Adversary.LYING_SERVER, lattice, P, 20, Units(32, 3), 1e-5)
    trusting = sizing.sizing(None, lattice, P, 20, Units(32, 3), 1e-5)
    assert [(one.shares, one.floor, one.colluders) for one in (local, shared, trusting)] == [
        (1, 1, 0),
        (20, P.floor, P.colluders),
        (20, 1, 0),
    ]
    assert shared.slack == Slack.of(3, lattice.length, 20, MIN_SHARE_VARIANCE)


def test_a_multiplier_that_is_no_number_is_a_wrong_input_and_no_infeasible_one():
    sized = Sizing(Lattice.build(1024, 0.01, 2), 20, P.floor, P.colluders, Units(1, 6), 1e-5)
    for wrong in (math.inf, math.nan, 0.0, -1.0):
        with pytest.raises(ValueError, match="noise_multiplier") as caught:
            sized.solve(None, wrong)
        assert not isinstance(caught.value, InfeasiblePlan)


def test_the_budget_is_what_the_planned_rounds_cost_within_the_epsilon_that_was_asked_for():
    """So that a run that ends as planned reads what was planned."""
    plan = planned()
    slack = Slack.of(6, plan.lattice.length, 20, MIN_SHARE_VARIANCE)
    given = planned(epsilon=None, noise_multiplier=plan.claim.noise_multiplier)
    for each in (plan, given):
        needed = 6 * each.noise.charge
        assert needed <= each.claim.budget <= needed * (1 + Fraction(2, 10**9))
        assert each.claim.odometer.read(needed) == each.claim.odometer.read(each.claim.budget) == each.claim.epsilon
    assert plan.claim.budget <= Fraction(slack.mu(8.0, plan.claim.parts.planned)) ** 2


def test_what_the_engine_sends_to_everybody_is_added_to_the_traffic():
    for extra in ({}, {"post_quantum": True}):
        quiet, loud = planned(**extra).traffic, planned(broadcast_bytes=77, **extra).traffic
        assert (loud.up, loud.down) == (quiet.up, quiet.down + 77)


def in_shards(per_client, **changes):
    units = Units(per_client, 6)
    return inside(units, clients=60, clients_per_round=60, rounds=6, shards=2, max_dropout=0.2, **changes)


def test_the_sum_of_a_shard_has_the_fewest_ring_bits_that_hold_it():
    for plan, vectors, size in (
        (planned(), 1, 20),
        (inside(Units(32, 6)), 33, 20),
        (inside(Units(32, 6, local=True)), 1, 20),
        (in_shards(32, adversary=Adversary.HONEST_BUT_CURIOUS), 33, 30),
    ):
        shares = 0 if plan.units and plan.units.local else plan.share_variance
        largest = size * (vectors * plan.lattice.integer_bound + discrete_gaussian.largest_sample(shares))
        assert plan.ring_bits == largest.bit_length() + 1


def test_the_servers_sum_over_all_shards_must_fit_as_well():
    bound = in_shards(1, adversary=Adversary.HONEST_BUT_CURIOUS).lattice.integer_bound
    too_many = 2**61 // (60 * bound)  # with the client's own vector, 60 clients reach 2^61, and 30 do not
    with pytest.raises(InfeasiblePlan, match="the sum of 60 vectors needs 63 ring bits") as caught:
        in_shards(too_many, adversary=Adversary.HONEST_BUT_CURIOUS, delta=1e-22, epsilon=None, noise_multiplier=0.5)
    assert caught.value.nearest == "fewer clients per round, or less noise"


def test_a_delta_too_large_is_compared_with_one_over_all_units():
    (warning,) = inside(Units(12_500, 6)).warnings
    assert warning.startswith("delta = 1e-05 is not below 1 / subjects = 2e-06: ")
    assert "one subject's data" in warning


def test_without_noise_or_without_a_claim_there_is_nothing_to_judge():
    assert planner.verdict(10, None, planned().claim) == "can learn"
    assert planner.verdict(10, 1.0, None) == "can learn"
