"""`fgrpo audit data`: a user's own data with and without each unit, and a fault that it must find."""

import json

import pytest
from typer.testing import CliRunner

from fgrpo_secure.evidence.audits import Audit
from fgrpo_secure.learning.tasks.units import UnitTable
from threat_model.audit import data
from threat_model.audit.command import app

run = CliRunner()


@pytest.fixture
def config(tmp_path):
    rows = [{"prompt": f"{n}+{k}=", "answer": f"{n + k}", "person": f"p{n}"} for n in range(3) for k in range(2)]
    rows[3]["hint"] = "only one row has it"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(unit, client='data = "rows.jsonl"\nreward = "partial"\nsubject = "person"'):
        inside = f'unit = "{unit}"\nepsilon = 60.0\n' + ("" if unit == "client" else "units_per_client = 8\n")
        tasks = 'task = "add"\ncount = 7\n' + ("" if unit == "client" else 'rows = 2\nsubject = "person"\n')
        (tmp_path / "run.toml").write_text(
            f'[[client]]\nname = "own"\n{client}\n[[client]]\nname = "others"\n{tasks}'
            f"[privacy]\n{inside}[adapter]\nrank = 1\n[aggregation]\nmax_dropout = 0.25\n"
            "[grpo]\nnum_generations = 4\nmax_completion_length = 3\n"
        )
        return str(tmp_path / "run.toml")

    return write


@pytest.mark.parametrize(("unit", "taken"), [("subject", 3 + 2), ("prompt_group", 6 + 2), ("client", 2)])
def test_data_whose_units_are_each_others_strangers_pass(config, unit, taken):
    told = run.invoke(app, ["data", config(unit), "--json"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert (found["audit"], found["passed"], found["interference"], found["trials"]) == ("data", True, False, taken)
    assert 0 <= found["sensitivity"] <= found["sensitivity_bound"]


@pytest.mark.parametrize("unit", ["subject", "prompt_group"])
def test_units_that_reach_each_other_are_found(config, monkeypatch, unit):
    batch = UnitTable.batch

    def coupled(table, *arguments):
        return [{**row, "prompt": row["prompt"] + "1" * len(table.rows)} for row in batch(table, *arguments)]

    monkeypatch.setattr(UnitTable, "batch", coupled)
    told = run.invoke(app, ["data", config(unit)])
    assert told.exit_code == 1
    assert "FAILED: taking a unit away changed something about another" in told.stdout


def test_without_a_claim_there_is_nothing_to_audit(config):
    told = run.invoke(app, ["data", config("client"), "--set", "privacy.unit=none", "--set", "privacy.epsilon=1"])
    assert told.exit_code == 2
    assert "there is no claim to audit" in told.output


def test_what_a_run_keeps_has_no_figure_of_the_data():
    figures = {"audit": "data", "unit": "subject", "view": "v", "claimed_epsilon": 8.0, "delta": 1e-5, "alpha": 0.0}
    bounds = {"lower_bounds": {}, "estimates": {}, "sensitivity_bound": 82, "assumptions": {}, "shared": ()}
    kept = [
        data.publishable(Audit(**figures, **bounds, trials=trials, sensitivity=moved), 8)
        for trials, moved in ((3, 1.5), (40, 81.9))
    ]
    assert kept[0] == kept[1]
    assert kept[0].passed
    assert not data.publishable(Audit(**figures, **bounds, trials=3, sensitivity=99.0), 8).passed
