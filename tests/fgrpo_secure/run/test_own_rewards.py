"""A project of one's own, run as a user runs it: real processes, any folder, modules named like ours about."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
REWARD = "import table\n\ndef near(completions, **_):\n    return [table.PAY * len(said) for said in completions]\n"
POISON = "raise SystemExit('a module of the working folder was imported')\n"
QUICK = ("--set", "federation.rounds=1", "--set", "evaluation.prompts=1", "--set", "run.name=own")
NAMES = ("protocols", "threat_model", "numpy", "typer", "json", "secrets", "pathlib")


@pytest.fixture
def project(tmp_path, small):
    """A configuration with a reward beside it, and a working folder full of modules that must not be imported."""
    folder, work = tmp_path / "project", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    (folder / "protocols.py").write_text(REWARD)
    (folder / "table.py").write_text("PAY = 0.25\n")
    rows = "".join(f'{{"prompt": "{number}+1="}}\n' for number in range(40))
    (folder / "rows.jsonl").write_text(rows)
    own = 'data = "rows.jsonl"\nreward = "protocols:near"\n'
    (folder / "run.toml").write_text(small[0].replace('task = "add"\n', own, 1))
    for name in NAMES:
        (work / f"{name}.py").write_text(POISON)
    return folder, work


def fgrpo(work, *arguments):
    """`python -m` puts the working folder first on the import path, which the script `fgrpo` does not."""
    command = [sys.executable, "-m", "fgrpo_secure", *(str(argument) for argument in arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False, timeout=800)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # whole processes, on a machine that may be busy with other tests
def test_a_reward_beside_the_configuration_is_found_by_workers_and_by_a_run_that_is_resumed_elsewhere(
    project, tmp_path
):
    folder, work = project
    run = tmp_path / "run"
    made = fgrpo(work, "run", folder / "run.toml", "--out", run, "--set", "engine.processes=2", *QUICK)
    assert made.returncode == 0, made.stderr
    logs = list(Path(f"{run}.owners").rglob("*.log"))
    assert not [log for log in logs if log.read_text()], "the reward failed in a worker"
    (run / "summary.json").unlink()
    resumed = fgrpo(work, "run", "--resume", run)
    assert resumed.returncode == 0, resumed.stderr
    assert (run / "summary.json").exists()


@pytest.mark.slow
def test_the_command_line_imports_nothing_from_the_working_folder(project):
    _, work = project
    planned = fgrpo(work, "plan", "quickstart")
    assert planned.returncode == 0, planned.stderr


@pytest.mark.slow
def test_the_fixture_would_notice_an_import_from_the_working_folder(project):
    _, work = project
    command = [sys.executable, "-c", "import sys; sys.path.insert(0, ''); import protocols.keys"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False, timeout=60)
    assert "was imported" in done.stderr
