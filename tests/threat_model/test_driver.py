"""An attack runs apart, on exactly the copy that it asks for, or says that it did not run."""

import sys

import pytest

from threat_model import driver, registry
from threat_model.attack import Weakening
from threat_model.driver import AttackBroke

ATTACK = registry.named("sum-of-two")
FAMILY = registry.family_of(ATTACK.name)


def test_weakening_one_run_changes_nothing_of_the_next() -> None:
    assert driver.run_apart(ATTACK, FAMILY, ATTACK.weakenings).succeeded
    assert not driver.run_apart(ATTACK, FAMILY, ()).succeeded


def test_weakening_what_an_attack_never_uses_is_an_error() -> None:
    with pytest.raises(AttackBroke, match="the attack never used"):
        driver.run_apart(ATTACK, FAMILY, (Weakening("fgrpo_secure.server.plain", "x", "y", "z"),))


def test_a_weakening_that_does_not_fit_breaks_the_run() -> None:
    with pytest.raises(AttackBroke, match="needs its text once"):
        driver.run_apart(ATTACK, FAMILY, (Weakening("protocols.drive", "def ", "def  ", "a space"),))


def test_an_attack_that_does_not_end_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIMIT_SECONDS", 0.01)
    with pytest.raises(AttackBroke, match="did not end within"):
        driver.run_apart(ATTACK, FAMILY, ())


def test_the_families_that_attacks_stand_in_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(registry.family_of(attack.name) in sys.modules for attack in registry.ATTACKS)
    with pytest.raises(registry.UnknownAttack):
        registry.family_of("nothing")
