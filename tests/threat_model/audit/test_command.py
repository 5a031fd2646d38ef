"""`fgrpo audit`: figures, exit codes, and the file that a run's report reads."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from fgrpo_secure.cli import contributed
from fgrpo_secure.config import files as config_file
from fgrpo_secure.evidence import audits
from fgrpo_secure.evidence.audits import Audit
from fgrpo_secure.privacy import discrete_gaussian, noise
from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError
from threat_model.audit.command import app

run = CliRunner()
QUICK = ["--trials", "2000"]


def settings(*values):
    return [part for value in values for part in ("--set", value)]


def invoke(*arguments):
    return run.invoke(app, [str(each) for each in arguments])


def planted(monkeypatch):
    table = discrete_gaussian.table
    weak = {**vars(discrete_gaussian), "table": lambda variance: table(variance // 9)}
    monkeypatch.setattr(noise, "discrete_gaussian", SimpleNamespace(**weak))


def test_audits_are_contributed_to_the_command_line():
    names = {entry.name: entry.value for entry in contributed.entry_points(group=contributed.GROUP)}
    if "audit" not in names:
        pytest.skip("the package is installed as it was before this command")
    assert names["audit"] == "threat_model.audit.command:app"


@pytest.mark.parametrize("kind", ["mechanism", "canaries"])
def test_json_has_the_claim_the_bounds_and_the_verdict(kind):
    shown = invoke(kind, "hospitals", "--json", *(QUICK if kind == "mechanism" else ()), *settings("adapter.rank=1"))
    assert shown.exit_code == 0, shown.output
    said = json.loads(shown.stdout)
    assert {"claimed_epsilon", "delta", "lower_bounds", "passed"} <= set(said)
    assert said["passed"] is True
    assert said["unit"] == "subject"
    assert said["claimed_epsilon"] == pytest.approx(8, abs=0.01)
    assert all(value < said["claimed_epsilon"] for value in said["lower_bounds"].values())


def test_a_contradicted_claim_exits_1_and_says_so(monkeypatch):
    planted(monkeypatch)
    shown = invoke("mechanism", "hospitals", *QUICK)
    assert shown.exit_code == 1
    assert "FAILED: the claim is contradicted" in shown.stdout
    assert "at least" in shown.stdout
    assert "assumes: " in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mechanism", "silos"], "there is no claim to audit"),
        (["canaries", "hospitals", "--canaries", "3"], "canaries is 3"),
        (["mechanism", "no-such-preset"], "there is no configuration"),
        (["mechanism", "hospitals", *QUICK, "--out", "nowhere"], "holds no run"),
    ],
)
def test_unusable_input_is_one_sentence_and_exit_code_2(arguments, sentence):
    shown = invoke(*arguments)
    assert shown.exit_code == 2
    assert sentence in shown.stderr
    assert "Traceback" not in shown.stderr


AUDIT = Audit(
    audit="mechanism",
    unit="client",
    view="a view",
    claimed_epsilon=4.0,
    delta=1e-5,
    alpha=0.001,
    trials=100,
    lower_bounds={"some_bound": 3.5},
    estimates={"some_estimate": 4.5},
    sensitivity=9.5,
    sensitivity_bound=10,
    assumptions={"some_bound": "something", "some_estimate": "no bound"},
    shared=("adjacency",),
)


def test_audits_are_kept_by_kind_and_read_back(tmp_path):
    directory = RunDirectory(tmp_path)
    assert audits.read(directory) == {}
    audits.keep(directory, AUDIT)
    other = dataclasses.replace(AUDIT, audit="canaries")
    audits.keep(directory, other)
    later = dataclasses.replace(AUDIT, lower_bounds={"some_bound": 4.1})
    audits.keep(directory, later)
    assert audits.read(directory) == {"mechanism": later, "canaries": other}
    assert json.loads(directory.audits.read_text())["mechanism"]["passed"] is False
    directory.audits.write_text("{}{")
    with pytest.raises(RunDirectoryError, match="audit again without it"):
        audits.read(directory)


def test_an_audit_of_a_runs_own_configuration_is_kept_in_it_and_another_one_is_not(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.create(config_file.dump(config_file.load("hospitals", ["run.name=own"])))
    kept = invoke("mechanism", directory.config, *QUICK, "--out", directory.root)
    assert kept.exit_code == 0, kept.output
    first = audits.read(directory)
    assert set(first) == {"mechanism"}
    other = invoke("mechanism", "hospitals", *QUICK, *settings("privacy.epsilon=4"), "--out", directory.root)
    assert other.exit_code == 2
    assert "another claim" in other.stderr
    assert audits.read(directory) == first
