"""The projects that `fgrpo init` writes: each runs, verifies and is reported without an edit."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fgrpo_secure.cli import app
from fgrpo_secure.config.schema import Run
from fgrpo_secure.run import project

SMALLER = (
    "federation.rounds=1", "grpo.num_generations=2", "evaluation.prompts=2", "evaluation.samples=1",
    "evaluation.every=0",
)  # fmt: skip


@pytest.fixture
def fgrpo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("kind", project.KINDS)
def test_a_project_has_a_plan_that_can_learn_and_holds_no_row_twice(fgrpo, kind, tmp_path):
    assert fgrpo("init", "--kind", kind).exit_code == 0
    outcome = fgrpo("plan", "--json")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    facts = json.loads(outcome.stdout)
    assert facts["verdict"] == "can learn"
    assert facts["privacy.unit"] in ("subject", "prompt_group")
    assert facts["inputs.rows"] == dict.fromkeys(project.CLIENTS, project.ROWS)
    prompts = [json.loads(line)["prompt"] for file in Path("data").iterdir() for line in file.read_text().splitlines()]
    assert len({json.dumps(prompt) for prompt in prompts}) == len(prompts) == 4 * (project.ROWS + project.HELD_OUT)


@pytest.mark.slow
@pytest.mark.parametrize("kind", project.KINDS)
def test_a_project_runs_verifies_and_is_reported_without_an_edit(fgrpo, kind, monkeypatch, tmp_path):
    run_directory = f"runs/{project.run_name(tmp_path)}"
    monkeypatch.setattr(project, "ROWS", 4)  # whole ones are run by hand: each unit takes its time
    assert fgrpo("init", "--kind", kind).exit_code == 0
    ran = fgrpo("run", *(part for setting in SMALLER for part in ("--set", setting)))
    assert ran.exit_code == 0, ran.stderr
    assert json.loads(Path(run_directory, "summary.json").read_text())["pass_rate.final"] is not None
    for command in ("verify", "report"):
        outcome = fgrpo(command, run_directory)
        assert outcome.exit_code == 0, outcome.output


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("our-hospitals", "our-hospitals"), ("Our hospitals (2026)", "Our-hospitals-2026-"), (".hidden", "hidden"),
        ("städte", "st-dte"), ("日本", "mine"), ("x" * 200, "x" * 64),
    ],
)  # fmt: skip
def test_a_project_is_called_by_its_folder_in_characters_that_a_run_may_have(folder, name):
    assert project.run_name(Path("anywhere", folder)) == name
    assert Run(name=name).name == name


def test_a_project_overwrites_nothing(fgrpo, tmp_path):
    (tmp_path / "rewards.py").write_text("mine")
    outcome = fgrpo("init", "--kind", "chat")
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr == "fgrpo: . holds rewards.py already; choose another folder: fgrpo init FOLDER\n"
    assert [path.name for path in tmp_path.iterdir()] == ["rewards.py"]


def test_a_folder_that_cannot_be_made_and_a_kind_that_is_not_known_are_refused(fgrpo, tmp_path):
    (tmp_path / "file").write_text("")
    assert fgrpo("init", "file/inside").stderr == "fgrpo: file/inside cannot hold a project: Not a directory\n"
    outcome = fgrpo("init", "new", "--kind", "pictures")
    assert outcome.stderr == "fgrpo: --kind 'pictures' is not known; allowed are questions, chat, subjects\n"
    assert not (tmp_path / "new").exists()
