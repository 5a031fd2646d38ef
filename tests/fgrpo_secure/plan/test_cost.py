"""The planner: what it promises holds, what it refuses it can say how to mend, and its figures follow the formulas."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgrpo_secure.plan.cost import CAN_LEARN, InfeasiblePlan, PlanRequest, plan
from fgrpo_secure.privacy.accounting import BudgetExceeded, Filter, epsilon_of
from fgrpo_secure.privacy.odometer import PARTS
from protocols.params import Adversary, derive

DEFAULTS = {
    "rounds": 12,
    "clients": 256,
    "clients_per_round": 256,
    "rounds_per_client": 12,
    "dimension": 1024,
    "unit": "client",
    "epsilon": 8.0,
    "delta": 1e-5,
    "clip_norm": 1.0,
    "adversary": Adversary.HONEST_BUT_CURIOUS,
    "max_corrupt": 0.05,
    "max_dropout": 0.1,
    "mean_weight": 0.7,
}


def planned(**changes):
    if "clients" in changes and "clients_per_round" not in changes:
        changes["clients_per_round"] = changes["clients"]
    if "rounds" in changes and "rounds_per_client" not in changes:
        changes["rounds_per_client"] = changes["rounds"]
    return plan(PlanRequest(**{**DEFAULTS, **changes}))


@given(
    st.floats(0.1, 80),
    st.sampled_from([1e-7, 1e-5, 1e-3]),
    st.integers(5, 300),
    st.integers(1, 500),
    st.integers(1, 30_000),
)
@settings(max_examples=60, deadline=None)
def test_the_epsilon_that_is_reported_never_exceeds_the_one_that_was_asked(epsilon, delta, clients, rounds, dimension):
    result = planned(epsilon=epsilon, delta=delta, clients=clients, rounds=rounds, dimension=dimension)
    assert result.claim.epsilon <= epsilon
    assert result.claim.epsilon > 0.98 * epsilon or result.noise.share_variance < 100  # integer shares are coarse
    assert result.claim.mu == pytest.approx(math.sqrt(rounds * result.noise.charge))
    plain = epsilon_of(result.claim.mu, result.claim.parts.planned)
    assert plain <= result.claim.epsilon <= plain * 1.01  # the slack shows only near the largest epsilon


def test_a_delta_that_sparse_graphs_use_up_is_refused_with_the_least_that_is_not():
    with pytest.raises(InfeasiblePlan, match="36 sparse graphs fail with") as caught:
        planned(delta=1e-20)
    assert planned(delta=nearest(caught, "delta above") if "=" in caught.value.nearest else 1e-9).claim.delta == 1e-9
    assert planned(delta=1e-20, clients=150, clients_per_round=150).claim.delta == 1e-20, "no sparse graph there"


@pytest.mark.parametrize("asked", [{"epsilon": 8.0}, {"epsilon": None, "noise_multiplier": 2.25}])
def test_the_budget_covers_every_round_at_its_worst_and_no_round_more(asked):
    result = planned(**asked)
    spent = Filter(result.claim.budget)
    for _ in range(12):
        spent = spent.charge(result.noise.charge)
    with pytest.raises(BudgetExceeded):
        spent.charge(result.noise.charge)


def test_noise_is_sized_for_the_fewest_honest_survivors_of_the_protocols_own_thresholds():
    result = planned()
    thresholds = derive(Adversary.HONEST_BUT_CURIOUS, 256, 256, 0.05, 0.1)
    assert result.parameters == thresholds
    assert (result.noise.floor, result.noise.colluders) == (thresholds.floor, thresholds.colluders) == (231, 13)
    honest = (231 - 13) * result.share_variance
    assert result.claim.noise_multiplier == pytest.approx(math.sqrt(honest - 4) / result.lattice.integer_bound)


def test_a_given_multiplier_is_reached_and_priced():
    result = planned(epsilon=None, noise_multiplier=2.25)
    assert 2.25 <= result.claim.noise_multiplier < 2.26
    planned_delta = result.claim.parts.planned
    assert result.claim.epsilon == pytest.approx(
        epsilon_of(math.sqrt(12) / result.claim.noise_multiplier, planned_delta)
    )
    assert 7.2 < result.claim.epsilon < 7.3


def test_only_the_clients_own_rounds_are_charged():
    blocks = planned(rounds=25, clients=256, clients_per_round=64, rounds_per_client=7)
    assert blocks.claim.rounds == 7
    assert blocks.claim.mu == pytest.approx(math.sqrt(7 * blocks.noise.charge))


def test_the_useful_dimension_counts_all_rounds_at_the_noise_that_is_really_added():
    result = planned()
    z_squared = 256 * result.share_variance / result.lattice.integer_bound**2
    assert z_squared > result.claim.noise_multiplier**2  # more than the honest floor
    assert result.useful_dimension == pytest.approx(12 * (256 * 0.7) ** 2 / z_squared)


def test_the_verdict_follows_the_useful_dimension_and_its_advice_works():
    assert planned().verdict == CAN_LEARN
    useful = planned(clients=30).useful_dimension
    may = planned(clients=30, dimension=int(useful / 2))
    assert may.verdict.startswith("may learn: ")
    cannot = planned(clients=30, dimension=int(useful * 3))
    assert cannot.verdict.startswith("cannot learn: ")
    for sceptical in (may, cannot):
        fewer = number(r"at most ([\d,]+) dimensions", sceptical.verdict)
        assert planned(clients=30, dimension=int(fewer * 0.97)).verdict == CAN_LEARN
        more = number(r"epsilon = ([\d.]+)", sceptical.verdict)
        assert planned(clients=30, dimension=sceptical.lattice.dimension, epsilon=more * 1.02).verdict == CAN_LEARN


def test_no_advice_names_an_epsilon_that_protects_nobody():
    assert "epsilon" not in planned(clients=8, dimension=20_480).verdict


def test_without_privacy_nothing_is_claimed_and_no_noise_is_added():
    result = planned(unit="none", epsilon=None)
    facts = result.facts()
    assert result.share_variance == 0
    assert result.verdict == CAN_LEARN
    assert [name for name, value in facts.items() if value is None] == [
        "privacy.epsilon_server",
        "privacy.epsilon_release",
        "privacy.epsilon_replace_one",
        "privacy.delta",
        *(f"privacy.delta_parts.{name}" for name in PARTS),
        "privacy.epsilon_group_of_2",
        "privacy.epsilon_group_of_5",
        "privacy.noise_multiplier",
        "privacy.mu_server",
        "privacy.reserved_epsilon",
        "privacy.adaptive_clip_cost",
        "privacy.adaptive_clip_deviation",
        "adapter.useful_dimension",
    ]
    assert result.ring_bits < planned().ring_bits


def test_the_facts_have_the_names_that_scripts_rely_on():
    facts = planned().facts()
    promised = """privacy.epsilon_server privacy.epsilon_release privacy.delta privacy.noise_multiplier
        privacy.mu_server aggregation.colluders aggregation.quorum aggregation.neighbours aggregation.threshold
        aggregation.graph aggregation.ring_bits aggregation.minimum_survivors bytes.up_per_client_per_round
        bytes.down_per_client_per_round adapter.dimension adapter.useful_dimension verdict"""
    assert set(promised.split()) <= set(facts)
    assert facts["privacy.epsilon_release"] == facts["privacy.epsilon_server"] <= 8
    assert facts["privacy.epsilon_replace_one"] == facts["privacy.epsilon_group_of_2"]
    planned_delta = 0.99 * (1e-5 - 36 * 2.0**-40)  # three sessions on a sparse graph for each of 12 rounds
    assert facts["privacy.epsilon_replace_one"] == pytest.approx(
        epsilon_of(2 * facts["privacy.mu_server"], planned_delta)
    )
    assert facts["privacy.delta_parts.sparse_graphs"] == 36 * 2.0**-40
    parts = [value for name, value in facts.items() if name.startswith("privacy.delta_parts.")]
    assert sum(parts) == pytest.approx(1e-5, rel=1e-12)
    assert (facts["aggregation.minimum_survivors"], facts["aggregation.graph"]) == (231, "sparse")


def nearest(caught, key):
    return number(rf"{key} = ([\d.e+]+)", caught.value.nearest)


def number(pattern, text):
    found = re.search(pattern, text)
    assert found
    return float(found[1].replace(",", ""))


def test_a_schedule_that_asks_too_much_of_clients_names_both_ways_out():
    with pytest.raises(
        InfeasiblePlan, match="3072 participations; 256 clients of at most 5 rounds each have 1280"
    ) as caught:
        planned(max_rounds_per_client=5)
    assert nearest(caught, "rounds") == 5
    assert planned(rounds=5, max_rounds_per_client=5).rounds == 5
    assert planned(max_rounds_per_client=int(nearest(caught, "max_rounds_per_client"))).rounds == 12


def test_more_dropouts_than_the_thresholds_allow_name_the_most_that_works():
    with pytest.raises(InfeasiblePlan) as caught:
        planned(max_dropout=0.6)
    assert planned(max_dropout=nearest(caught, "max_dropout")).parameters.floor < 256


def test_an_epsilon_too_small_for_the_sampler_names_the_smallest():
    with pytest.raises(InfeasiblePlan, match="beyond the sampler's range") as caught:
        planned(epsilon=1e-6)
    assert planned(epsilon=nearest(caught, "epsilon") * 1.001).claim.epsilon < 1e-3


def test_an_epsilon_too_large_to_be_stated_names_the_largest():
    with pytest.raises(InfeasiblePlan, match="cannot be stated") as caught:
        planned(epsilon=500.0)
    assert planned(epsilon=nearest(caught, "epsilon")).claim.epsilon <= 500


def test_noise_too_small_for_any_claim_names_the_smallest_that_has_one():
    with pytest.raises(InfeasiblePlan, match="no finite epsilon") as caught:
        planned(epsilon=None, noise_multiplier=0.01, dimension=20_000)
    multiplier = nearest(caught, "noise_multiplier") * 1.001
    assert planned(epsilon=None, noise_multiplier=multiplier, dimension=20_000).claim.epsilon < 110


def test_a_delta_that_would_allow_publishing_a_client_is_warned_about():
    assert planned().warnings == ()
    (warning,) = planned(delta=1 / 256).warnings
    assert "delta = 0.00390625 is not below 1 / clients" in warning


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0.0}, "epsilon is 0; it must be above 0"),
        ({"epsilon": -1.0}, "epsilon is -1"),
        ({"epsilon": math.nan}, "epsilon is nan"),
        ({"epsilon": math.inf}, "epsilon is inf"),
        ({"epsilon": None}, "exactly one of epsilon and noise_multiplier"),
        ({"noise_multiplier": 1.0}, "exactly one of epsilon and noise_multiplier"),
        ({"epsilon": None, "noise_multiplier": 0.0}, "noise_multiplier is 0"),
        ({"epsilon": None, "noise_multiplier": math.nan}, "noise_multiplier is nan"),
        ({"delta": 0.0}, "delta is 0; it must be above 0 and below 1"),
        ({"delta": 1.0}, "delta is 1; it must be above 0 and below 1"),
        ({"delta": math.nan}, "delta is nan"),
        ({"clip_norm": 0.0}, "clip_norm is 0; allowed are"),
        ({"clip_norm": 1e-310}, "clip_norm is 1e-310; allowed are"),
        ({"dimension": 0}, "dimension is 0; allowed are"),
        ({"mean_weight": 0.0}, "mean_weight is 0; it must be above 0 and at most 1"),
        ({"mean_weight": 1.5}, "mean_weight is 1.5"),
        ({"unit": "person"}, "unit is 'person'; allowed are 'client', 'subject', 'prompt_group' and 'none'"),
        ({"rounds": 0}, "rounds = 0"),
        ({"max_rounds_per_client": 0}, "max_rounds_per_client = 0"),
        ({"clients_per_round": 257}, "clients_per_round = 257"),
        ({"rounds_per_client": 11}, "rounds_per_client is 11; no such schedule"),
        ({"rounds_per_client": 13}, "rounds_per_client is 13; no such schedule"),
        ({"max_dropout": 1.0}, "max_dropout"),
        ({"max_corrupt": -0.1}, "max_corrupt"),
    ],
)
def test_a_number_that_means_nothing_is_refused_by_name_and_value(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        planned(**changes)
    assert "\n" not in str(caught.value)


def test_a_roster_too_small_for_the_adversary_is_infeasible():
    with pytest.raises(InfeasiblePlan, match="nearest feasible"):
        planned(clients=4, adversary=Adversary.LYING_SERVER)


@pytest.mark.parametrize(("clients", "shards"), [(1001, 2), (3000, 3), (10_000, 10)])
def test_the_numbers_of_a_sharded_plan_equal_those_of_an_independent_computation(clients, shards):
    """A lying server, 5 % colluding, 10 % lost; one round, so that mu is that of a single noisy sum."""
    result = planned(
        clients=clients, shards=shards, adversary=Adversary.LYING_SERVER, max_corrupt=0.05, max_dropout=0.1, rounds=1
    )
    facts = result.facts()
    size, colluders = clients // shards, -(-clients * 5 // 100)
    half = next(count for count in range(size) if 2 * count > size + colluders)
    floor = size - size // 10
    assert facts["aggregation.shards"] == shards
    assert facts["aggregation.shard_size"] == size
    assert facts["aggregation.colluders"] == colluders
    assert facts["aggregation.quorum"] == facts["aggregation.threshold"] == half
    assert facts["aggregation.minimum_survivors"] == floor
    assert facts["aggregation.graph"] == "complete"
    bound, variance = result.noise.integer_bound, result.noise.share_variance
    honest = (floor - colluders) * variance - 4  # accounted as a Gaussian of a variance that is smaller by 4
    assert result.claim.mu == pytest.approx(bound / math.sqrt(honest), rel=1e-9)
    whole = clients * variance / bound**2
    useful = (clients * DEFAULTS["mean_weight"]) ** 2 / whole
    assert facts["adapter.useful_dimension"] == pytest.approx(useful, rel=1e-9)
    # What the other shards add is not credited: with all of it the claim would be smaller.
    assert result.claim.mu > bound / math.sqrt((shards * floor - colluders) * variance)


def test_shards_that_cannot_stand_all_colluders_are_refused_with_one_that_can():
    with pytest.raises(InfeasiblePlan, match="3 shards of 8 to 8 clients"):
        planned(clients=24, shards=3, adversary=Adversary.LYING_SERVER, max_corrupt=0.4, max_dropout=0.1)
