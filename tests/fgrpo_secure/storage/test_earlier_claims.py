"""What training starts from, and what that claims already."""

import json

import pytest

from fgrpo_secure.config.files import parse
from fgrpo_secure.evidence import statement
from fgrpo_secure.storage import earlier_claims, opening
from protocols.roster import Roster


def config(**changes):
    return parse({"client": [{"name": "a", "task": "add", "count": 8}], "privacy": {"epsilon": 8.0}, **changes}, "test")


@pytest.fixture
def published(tmp_path):
    """A run's folder with an adapter and a statement."""
    (tmp_path / "adapter").mkdir()
    server = {"epsilon": 3.0, "delta": 1e-6, "mu": 0.75}
    stated = {"unit": "client", "claims": {"server": server}}
    (tmp_path / "privacy_statement.json").write_text(json.dumps(stated))
    return tmp_path


def test_the_shipped_model_saw_nobody():
    assert earlier_claims.sentences(config()) == []


@pytest.mark.parametrize("inside", ["", "adapter"])
def test_an_adapters_own_statement_is_carried_forward(published, inside):
    (said,) = earlier_claims.sentences(config(adapter={"init_from": str(published / inside)}))
    assert "states epsilon 3 at delta 1e-06 for each client" in said
    assert "mu = 0.75 comes on top" in said


def test_without_a_statement_it_is_unknown(tmp_path):
    said = earlier_claims.sentences(config(adapter={"init_from": str(tmp_path)}, model={"path": str(tmp_path)}))
    assert [each.partition(":")[0] for each in said] == ["adapter.init_from", "model.path"]
    assert all(each.endswith("is unknown") for each in said)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"unit": "' + " " * (1 << 20),
        '{"claims": null}',
        '{"unit": "client", "claims": {"server": 7}}',
    ],
)
def test_a_statement_that_cannot_be_read_says_nothing(published, text):
    (published / "privacy_statement.json").write_text(text)
    (said,) = earlier_claims.sentences(config(adapter={"init_from": str(published)}))
    assert said.endswith("is unknown")


def test_the_run_is_named_by_what_it_started_from_too(published):
    """So clients sign it with every line on the ledger, and a statement can quote it."""
    first = Roster(1, bytes(32), ())
    begun = opening.begin(bytes(32), bytes(32), "now", config(adapter={"init_from": str(published)}), first)
    (published / "privacy_statement.json").unlink()
    later = opening.begin(bytes(32), bytes(32), "now", config(adapter={"init_from": str(published)}), first)
    assert later.run != begun.run
    assert later.earlier[0].endswith("is unknown")
    assert any(later.earlier[0] in line for line in statement.not_protected(config(), True, later.earlier))
