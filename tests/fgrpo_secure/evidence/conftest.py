"""One small private run, finished once and copied for whoever changes it."""

import json
import shutil
from pathlib import Path

import pytest

from fgrpo_secure.config import files as config_file
from fgrpo_secure.run import training
from fgrpo_secure.storage.run_directory import RunDirectory

TABLE = {
    "run": {"name": "evidence"},
    "adapter": {"rank": 1},
    "federation": {"rounds": 2},
    "grpo": {"num_generations": 2, "prompts_per_step": 1},
    "privacy": {"noise_multiplier": 40.0},
    "evaluation": {"prompts": 2, "samples": 1, "every": 0},
    "client": [{"name": "adders", "task": "add", "count": 6}],
}


class Silent(training.Observer):
    """An observer that looks away."""


@pytest.fixture(scope="session")
def silent():
    return Silent()


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The directory of a finished run. Nobody may change it."""
    directory = RunDirectory(tmp_path_factory.mktemp("evidence") / "run")
    training.start(config_file.parse(TABLE, "here"), directory, Silent())
    return directory


@pytest.fixture(scope="session")
def registry_schema():
    """The rules of the OpenDP deployments registry, at the commit that the file names."""
    return json.loads(Path(__file__).with_name("registry_schema.json").read_text())


@pytest.fixture
def copied(finished, tmp_path):
    """A copy to tamper with."""
    for folder in (finished.root, finished.private):
        shutil.copytree(folder, tmp_path / folder.name)
    return RunDirectory(tmp_path / "run")
