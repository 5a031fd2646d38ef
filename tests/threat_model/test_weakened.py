"""A weakening removes exactly the line that it names, or says that it cannot."""

import pytest

from threat_model import weakened
from threat_model.attack import Weakening
from threat_model.weakened import CannotWeaken

FLOOR = Weakening("protocols.client", "    if count < plan.floor:\n", "    if False:\n", "the floor")


def test_a_weakening_replaces_the_one_text_that_it_names() -> None:
    assert weakened.weaken("a\nb\nc\n", [Weakening("m", "b\n", "x\n", "b")]) == "a\nx\nc\n"


@pytest.mark.parametrize("source", ["a\nc\n", "b\nb\n"], ids=["gone", "twice"])
def test_a_weakening_whose_text_does_not_stand_exactly_once_is_an_error(source: str) -> None:
    with pytest.raises(CannotWeaken, match="needs its text once"):
        weakened.weaken(source, [Weakening("m", "b\n", "x\n", "b")])


def test_the_difference_of_a_weakened_copy_is_the_removed_check_alone() -> None:
    lines = weakened.diff([FLOOR]).splitlines()
    assert [line for line in lines if line[:1] == "-" and line[:3] != "---"] == ["-    if count < plan.floor:"]
    assert [line for line in lines if line[:1] == "+" and line[:3] != "+++"] == ["+    if False:"]


def test_a_module_that_is_already_imported_cannot_be_weakened() -> None:
    import protocols.client  # noqa: F401  # it must be there

    with pytest.raises(CannotWeaken, match="imported before"):
        weakened.Finder([FLOOR]).install()


def test_weakening_a_module_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(CannotWeaken, match="no source"):
        weakened.diff([Weakening("protocols.nowhere", "x", "y", "z")])
