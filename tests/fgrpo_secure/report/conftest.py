"""Small finished runs, one with a clip norm that adapts, one not private, and a browser to look at their pages with."""

import pytest

from fgrpo_secure.config import files as config_file
from fgrpo_secure.run import training
from fgrpo_secure.storage.run_directory import RunDirectory

TABLE = {
    "adapter": {"rank": 1},
    "federation": {"rounds": 3},
    "grpo": {"num_generations": 2, "prompts_per_step": 1},
    "evaluation": {"prompts": 2, "samples": 1, "every": 1},
    "client": [{"name": "adders", "task": "add", "count": 6}],
}


PRIVACY = {
    "private": {"noise_multiplier": 20.0},
    "adaptive": {"noise_multiplier": 20.0, "adaptive_clip": {"learning_rate": 0.005}},
    "open": {"unit": "none"},
}


class Silent(training.Observer):
    """An observer that looks away."""


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Name -> directory. Nobody may change them."""
    made = {}
    for name, privacy in PRIVACY.items():
        made[name] = RunDirectory(tmp_path_factory.mktemp("report") / name)
        table = {**TABLE, "run": {"name": name}, "privacy": privacy}
        training.start(config_file.parse(table, "here"), made[name], Silent())
    return made
