"""The training deadline: in the signed plan, the run's own, and long enough for every unit of an owner."""

from types import SimpleNamespace

import pytest

from fgrpo_secure.client.policy import ClientPolicy
from fgrpo_secure.plan.round_settings import UnitTerms
from protocols.errors import Refused


def judge(seconds, units, limit=60.0):
    terms = UnitTerms(mode="distributed", sampling_rate=None, units_per_client=units, blocks=1) if units else None
    admitted = SimpleNamespace(settings=SimpleNamespace(training_seconds=seconds, units=terms))
    own = SimpleNamespace(rewards=SimpleNamespace(seconds=limit))
    ClientPolicy._admit_deadline(own, admitted)


def test_a_plan_whose_deadline_is_shorter_than_all_units_at_their_limit_is_refused():
    judge(600, units=10)
    with pytest.raises(Refused, match=r"rewards.seconds: 11 units at up to 60 seconds each do not fit .* 600 seconds"):
        judge(600, units=11)


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
