"""The way in from Python: a plan without torch, a run with typed results and callbacks, nothing loaded for others."""

import subprocess
import sys

import pytest

import fgrpo_secure
from fgrpo_secure import Callbacks, Federation
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.storage.run_directory import RoundMetrics


def test_a_configuration_is_checked_when_it_is_taken():
    assert Federation.from_toml("silos", "federation.rounds=3").config.federation.rounds == 3
    with pytest.raises(ConfigError, match="did you mean 'rounds'"):
        Federation.from_toml("silos", "federation.round=3")


def test_a_plan_needs_no_torch_and_says_what_the_command_says():
    asked = (
        "import sys; from fgrpo_secure import Federation; facts = Federation.from_toml('silos').plan(); "
        "print(facts['verdict'], 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert said == "can learn False\n"


def test_importing_the_package_loads_nothing_and_knows_its_names():
    asked = "import sys, fgrpo_secure; print([each for each in sys.modules if each.startswith('fgrpo_secure.')])"
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert said == "[]\n"
    assert all(getattr(fgrpo_secure, name) for name in fgrpo_secure.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Federated'"):
        _ = fgrpo_secure.Federated


@pytest.mark.slow
def test_a_run_gives_typed_results_and_calls_back(tmp_path):
    finished, steps = [], []
    federation = Federation.from_toml(
        "silos", "federation.rounds=1", "federation.local_steps=1", "grpo.num_generations=2", "grpo.prompts_per_step=1",
        "evaluation.prompts=1", "evaluation.samples=1", "engine.processes=1",
    )  # fmt: skip
    watched = Callbacks(finished_round=finished.append, step=lambda *step: steps.append(step))
    result = federation.run(tmp_path / "out", watched)
    assert [type(each) for each in result.rounds] == [RoundMetrics]
    assert finished == result.rounds
    assert ("mask", 8, 8) in steps
    assert result.summary["clients"] == 8
    assert (result.adapter / "adapter_config.json").is_file()
    assert result.report.is_file()
