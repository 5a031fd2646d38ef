"""The reference of all keys: complete, true of the schema, and the page that is made from it."""

import json
import tomllib
from pathlib import Path

from typer.testing import CliRunner

from fgrpo_secure.cli import app
from fgrpo_secure.config import files as config_file
from fgrpo_secure.config import reference
from fgrpo_secure.config.schema import Config

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "configuration.md"
KEYS = {key.name: key for table in reference.tables() for key in table.keys}


def call(*arguments):
    return CliRunner().invoke(app, ["config", *arguments])


def test_the_page_is_the_one_that_the_schema_makes():
    assert PAGE.read_text("utf-8") == reference.page(), "fgrpo config --markdown > docs/reference/configuration.md"


def test_every_key_that_a_file_may_hold_has_a_meaning_and_what_is_allowed():
    written = config_file.load("quickstart").model_dump()
    held = {f"{table}.{key}" for table, values in written.items() if isinstance(values, dict) for key in values} | {
        f"client.{key}" for key in written["client"][0]
    }
    assert held <= KEYS.keys()
    assert [name for name, key in KEYS.items() if not key.meaning or not key.allowed] == []


def test_what_goes_together_is_named_at_both_and_exists():
    assert [other for key in KEYS.values() for other in key.related if other not in KEYS] == []
    assert reference.RELATED.keys() <= KEYS.keys()
    for key in KEYS.values():
        assert all(key.name in KEYS[other].related for other in key.related)


def test_a_default_is_the_one_that_a_run_has_which_states_nothing():
    table = {"client": [{"name": "a", "task": "add"}], "privacy": {"epsilon": 8.0, "adaptive_clip": {}}}
    least = Config.model_validate(table)
    holders = {"client": least.client[0], "privacy.adaptive_clip": least.privacy.adaptive_clip}
    for name, key in KEYS.items():
        section, _, last = name.rpartition(".")
        if key.default in (None, "not set") or last in ("faults",):
            continue
        value = getattr(holders.get(section) or getattr(least, section), last)
        assert tomllib.loads(f"x = {key.default}")["x"] == json.loads(json.dumps(value)), name


def test_the_command_prints_all_one_table_or_one_key():
    every = json.loads(call("--json").stdout)
    assert every.keys() == KEYS.keys()
    assert json.loads(call("privacy.epsilon", "--json").stdout).keys() == {"privacy.epsilon"}
    text = call("privacy").stdout
    assert "privacy.epsilon = not set" in text
    assert "allowed: a number at least 1e-09" in text
    assert "grpo.epsilon" not in text.replace("with: ", "")


def test_an_unknown_key_is_refused_with_the_nearest():
    outcome = call("privacy.epsilom")
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert (
        outcome.stderr
        == "fgrpo: 'privacy.epsilom' is no table or key of a configuration; did you mean 'privacy.epsilon'?\n"
    )


def test_a_table_is_described_by_what_it_may_hold():
    assert KEYS["grpo.chat_template_kwargs"].allowed == "a table of true, false, numbers or texts"
    assert KEYS["engine.faults"].allowed.startswith("a table of probabilities")
    assert KEYS["privacy.adaptive_clip"].allowed == "a table"
