"""The whole way once, as a user goes it: for the oldest and the newest libraries, where no other suite runs in full.

`make ends` runs this file, and the contracts with libraries that stand in other files, in an environment of each end.
"""

import importlib
import importlib.util
import json
import os
import pkgutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

import fgrpo_secure
import protocols
import threat_model
from fgrpo_secure.cli import app

ROOT = Path(__file__).parents[2]
END = os.environ.get("FGRPO_END")  # "oldest" or "newest", where `make ends` runs this


def call(*arguments):
    outcome = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small):
    folder = tmp_path_factory.mktemp("ends")
    (folder / "small.toml").write_text(small[0])
    call("run", folder / "small.toml", "--out", folder / "run", "--set", "engine.processes=2")
    return folder


@pytest.mark.skipif(END is None, reason="only `make ends` has an environment of one end")
def test_the_environment_holds_the_versions_of_its_end():
    lines = (ROOT / "constraints" / f"{END}.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    wrong = {pin.name for pin in pins if not pin.specifier.contains(version(canonicalize_name(pin.name)))}
    assert wrong == set()


OF_AN_EXTRA = {  # imported where that is installed
    "fgrpo_secure.learning.tasks.gym_scores": ("reasoning_gym",),
    "fgrpo_secure.learning.tasks.math_answers": ("math_verify",),
    "fgrpo_secure.learning.trainers.trl_trainer": ("trl", "datasets"),
    **{
        f"fgrpo_secure.engines.workers.{name}": ("psycopg",)
        for name in (
            "asking",
            "blobs",
            "coordination",
            "database",
            "going_back",
            "handing",
            "listening",
            "schema",
            "seats",
            "working",
        )
    },
}


def test_every_module_that_ships_can_be_imported():
    for package in (fgrpo_secure, protocols, threat_model):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            needs = OF_AN_EXTRA.get(module.name, ())
            if not module.name.endswith("__main__") and all(map(importlib.util.find_spec, needs)):
                importlib.import_module(module.name)


def test_a_plan_is_made(finished):
    assert "adapter.dimension" in call("plan", finished / "small.toml", "--json")


def test_the_command_line_starts_in_a_process_of_its_own(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fgrpo_secure", "plan", "quickstart", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "adapter.dimension" in done.stdout


def test_two_seeded_rounds_end_in_a_run_that_verifies(finished):
    summary = json.loads((finished / "run" / "summary.json").read_text())
    assert (summary["rounds"], summary["stopped"]) == (2, None)
    assert summary["privacy.epsilon_spent"] > 0
    assert "verifies" in call("verify", finished / "run")
    assert call("ledger", "verify", finished / "run")
    assert "<svg" in (finished / "run" / "report.html").read_text()


def test_numbers_reach_tensorboard(finished, tmp_path):
    pytest.importorskip("tensorboard")
    assert "values" in call("export", finished / "run", "--tensorboard", tmp_path / "events")
