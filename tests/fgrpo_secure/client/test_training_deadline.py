"""The training deadline: in the signed plan, the run's own, and long enough for every unit of an owner."""

import random
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from fgrpo_secure.client.policy import ClientPolicy
from fgrpo_secure.plan.round_settings import UnitTerms
from protocols.errors import Refused


def judge(seconds, units, limit=60.0, rewards=1, releases=1):
    terms = UnitTerms(mode="distributed", sampling_rate=None, units_per_client=units, blocks=1) if units else None
    settings = SimpleNamespace(training_seconds=seconds, units=terms, releases=releases)
    own = SimpleNamespace(rewards=SimpleNamespace(seconds=limit))
    ClientPolicy._admit_deadline(own, SimpleNamespace(settings=settings), rewards)


def test_a_plan_whose_deadline_is_shorter_than_all_units_at_their_limit_is_refused():
    judge(605, units=10)
    with pytest.raises(Refused, match=r"rewards.seconds: 11 calls, .* each of 11 units .* 60 seconds do not fit into"):
        judge(605, units=11)


@pytest.mark.parametrize("seed", range(20))
def test_where_a_plan_is_admitted_no_unit_can_bring_about_its_deadline_by_the_calls_that_it_causes(seed):
    """Every call of every function at every step, up to the moment at which training is ended."""
    chance = random.Random(seed)
    units, rewards, releases = (chance.randint(1, 5) for _ in range(3))
    seconds, limit = chance.randint(1, 4000), chance.uniform(0.5, 60.0)
    longest = sum(limit for _ in range(units) for _ in range(rewards) for _ in range(releases))
    fits = longest <= seconds - min(5.0, 0.05 * seconds)
    with nullcontext() if fits else pytest.raises(Refused, match=r"rewards\.seconds"):
        judge(seconds, units, limit, rewards, releases)


def test_without_a_deadline_or_with_the_client_as_the_unit_nothing_is_compared():
    judge(None, units=10_000)
    judge(1, units=0)


def test_the_plan_carries_the_deadline_of_the_run_and_another_one_is_refused(trial):
    federation = trial.federation("federation.training_seconds=600")
    session = federation.open_round(0).sessions[0]
    plan, admitted = session.plan, session.admitted
    assert admitted.settings.training_seconds == 600
    sooner = admitted.settings.model_copy(update={"training_seconds": 5})
    changed = type(plan)(
        **{name: getattr(plan, name) for name in plan.__struct_fields__} | {"settings": sooner.encode()}
    )
    with pytest.raises(Refused, match="training_seconds"):
        federation.demands.admit(changed, federation.adapted.dimension(0))
