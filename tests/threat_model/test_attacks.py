"""Each attack fails on ours and succeeds on the copy without the check that it is about."""

import pytest

from threat_model import campaign, registry
from threat_model.attack import Attack


def by_name(attack: Attack) -> str:
    return attack.name


def checks_of(attack: Attack) -> list[str]:
    return list(dict.fromkeys(weakening.check for weakening in attack.weakenings))


def test_no_two_attacks_have_the_same_name() -> None:
    names = [attack.name for attack in registry.ATTACKS]
    assert len(set(names)) == len(names)


@pytest.mark.slow
@pytest.mark.parametrize("attack", registry.ATTACKS, ids=by_name)
def test_the_attack_fails_on_ours_and_succeeds_on_its_weakened_copy(attack: Attack) -> None:
    (result,) = campaign.run([attack])
    assert result.ours.value == "failed", result.evidence_ours
    assert result.weakened.value == "succeeded", result.evidence_weakened


ALONE = [
    pytest.param(attack, check, id=f"{attack.name}: {check}")
    for attack in registry.ATTACKS
    for check in checks_of(attack)
    if len(checks_of(attack)) > 1
]


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "check"), ALONE)
def test_where_several_checks_stop_an_attack_each_is_enough(attack: Attack, check: str) -> None:
    """The named check stands, all others are gone."""
    others = tuple(weakening for weakening in attack.weakenings if weakening.check != check)
    verdict = campaign.run_once(attack, others)
    assert isinstance(verdict, str) or not verdict.succeeded
