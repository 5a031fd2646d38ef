from dataclasses import replace
from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import params
from protocols.errors import Refused
from protocols.params import Adversary, Infeasible, derive, refuse_weaker

HONEST, LYING = Adversary.HONEST_BUT_CURIOUS, Adversary.LYING_SERVER


def test_the_walk_of_six_clients_with_one_liar_needs_four():
    got = derive(LYING, 6, 6, 0.1, 0.34)
    assert (got.colluders, got.quorum, got.threshold, got.floor, got.graph) == (1, 4, 4, 4, "complete")


@given(
    st.sampled_from(Adversary),
    st.integers(4, 300),
    st.integers(0, 300),
    st.integers(0, 60),
    st.integers(0, 60),
)
def test_every_derived_set_of_thresholds_keeps_its_promises(adversary, cohort, more, gamma, delta):
    roster = cohort + more
    try:
        got = derive(adversary, roster, cohort, gamma / 100, delta / 100)
    except Infeasible:
        return
    n, c, t = cohort, got.colluders, got.threshold
    assert c >= max(1, gamma * roster / 100)
    assert 2 * got.quorum > n + c
    assert got.floor >= max(got.quorum, t, c + 3)
    assert got.floor == n - (delta * n) // 100
    assert t >= 2
    if got.graph == "complete":
        assert t > c
        assert adversary is HONEST or 2 * t > n + c
    else:
        assert adversary is HONEST
    refuse_weaker(got, roster, gamma / 100, delta / 100)


def test_shares_are_read_as_the_decimals_that_they_print_as():
    assert floor(0.29 * 100) == 28, "what floating point would give"
    assert derive(HONEST, 100, 100, 0.01, 0.29).floor == 71
    assert ceil(0.07 * 100) == 8, "what floating point would give"
    assert derive(HONEST, 100, 100, 0.07, 0.1).colluders == 7


def test_colluders_are_counted_on_the_roster_not_on_the_cohort():
    assert derive(HONEST, 100, 20, 0.1, 0.1).colluders == 10


@pytest.mark.parametrize(
    ("adversary", "roster", "cohort", "gamma", "delta"),
    [
        (LYING, 6, 6, 0.1, 0.5),
        (HONEST, 100, 8, 0.1, 0.0),
        (LYING, 8, 8, 0.9, 0.0),
        (HONEST, 30, 30, 0.1, 0.6),
        (LYING, 3000, 2000, 0.001, 0.1),
        (HONEST, 7, 3, 0.1, 0.0),
    ],
)
def test_an_infeasible_request_names_a_feasible_setting(adversary, roster, cohort, gamma, delta):
    with pytest.raises(Infeasible) as caught:
        derive(adversary, roster, cohort, gamma, delta)
    assert isinstance(caught.value.reason, str)
    assert caught.value.reason in str(caught.value)
    name, value = caught.value.nearest.split(" = ")
    wanted = {"cohort": cohort, "max_corrupt": gamma, "max_dropout": delta}
    wanted[name] = int(value) if name == "cohort" else float(value)
    assert derive(adversary, roster, **wanted).floor <= wanted["cohort"]


@given(st.integers(5, 60), st.integers(0, 40))
def test_the_named_dropout_is_the_largest_that_works(cohort, gamma):
    try:
        derive(LYING, cohort, cohort, gamma / 100, 0.99)
    except Infeasible as error:
        if not error.nearest.startswith("max_dropout"):
            return
        best = derive(LYING, cohort, cohort, gamma / 100, float(error.nearest.split(" = ")[1]))
        assert best.floor == max(best.quorum, best.threshold, best.colluders + 3)


def test_too_small_a_roster_is_told_so():
    with pytest.raises(Infeasible, match="roster of at least 5"):
        derive(LYING, 4, 4, 0.1, 0.0)


@pytest.mark.parametrize("bad", [(0, 0.1, 0.1), (11, 0.1, 0.1), (6, 1.0, 0.1), (6, -0.1, 0.1), (6, 0.1, 1.0)])
def test_numbers_that_mean_nothing_are_refused(bad):
    cohort, gamma, delta = bad
    with pytest.raises(ValueError, match=r"must be|must fit"):
        derive(LYING, 10, cohort, gamma, delta)


WEAKER = {
    "colluders": 0,
    "quorum": 3,
    "threshold": 3,
    "floor": 3,
    "neighbours": 4,
}


@pytest.mark.parametrize("name", sorted(WEAKER))
def test_a_client_refuses_each_threshold_below_its_own(name):
    right = derive(LYING, 6, 6, 0.1, 0.34)
    with pytest.raises(Refused):
        refuse_weaker(replace(right, **{name: WEAKER[name]}), 6, 0.1, 0.34)


def test_a_client_with_a_larger_gamma_or_smaller_dropout_refuses():
    offered = derive(LYING, 10, 10, 0.1, 0.2)
    refuse_weaker(offered, 10, 0.1, 0.2)
    refuse_weaker(offered, 10, 0.05, 0.4)
    with pytest.raises(Refused, match="colluders"):
        refuse_weaker(offered, 10, 0.2, 0.2)
    with pytest.raises(Refused, match="floor"):
        refuse_weaker(offered, 10, 0.1, 0.1)


def test_a_larger_stated_c_does_not_loosen_the_quorum():
    right = derive(LYING, 10, 10, 0.1, 0.1)
    with pytest.raises(Refused, match="quorum"):
        refuse_weaker(replace(right, colluders=4, quorum=7), 10, 0.1, 0.1)


def test_a_floor_above_the_cohort_is_refused():
    right = derive(LYING, 10, 10, 0.1, 0.1)
    with pytest.raises(Refused, match="cohort"):
        refuse_weaker(replace(right, floor=11), 10, 0.1, 0.1)


def test_a_sparse_graph_is_refused_where_the_complete_one_is_due():
    sparse = derive(HONEST, 256, 256, 0.05, 0.1)
    refuse_weaker(sparse, 256, 0.05, 0.1)
    with pytest.raises(Refused, match="complete graph"):
        refuse_weaker(replace(sparse, adversary=LYING), 256, 0.05, 0.1)
    for change in ({"threshold": sparse.threshold - 1}, {"neighbours": 16}):
        with pytest.raises(Refused):
            refuse_weaker(replace(sparse, **change), 256, 0.05, 0.1)
    small = replace(derive(HONEST, 100, 100, 0.05, 0.1), neighbours=42)
    with pytest.raises(Refused, match="complete graph"):
        refuse_weaker(small, 100, 0.05, 0.1)


def test_a_sparse_client_accepts_the_stricter_complete_graph():
    complete = replace(derive(HONEST, 256, 256, 0.05, 0.1), neighbours=255, threshold=14)
    refuse_weaker(complete, 256, 0.05, 0.1)


def test_every_server_above_a_thousand_clients_is_treated_as_honest_or_refused():
    assert derive(HONEST, 5000, 5000, 0.05, 0.1).graph == "sparse"
    with pytest.raises(Infeasible, match=r"cohort = 1000"):
        derive(LYING, 5000, 5000, 0.05, 0.1)
    assert params.MAX_COMPLETE == 1000


def test_a_fraction_is_named_by_its_shortest_decimal():
    assert [params.rounded_down(1, 3), params.rounded_down(1, 2), params.rounded_down(13, 256)] == [
        "0.3",
        "0.5",
        "0.05",
    ]
