"""What the command line loads before it knows which command is asked for."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from fgrpo_secure import __version__
from fgrpo_secure.cli import app

HEAVY = ("torch", "transformers", "peft", "opacus", "dp_accounting", "matplotlib")


@pytest.mark.parametrize(
    "module", ["fgrpo_secure.cli", "threat_model.command", "threat_model.audit.command", "fgrpo_secure.plan.cost"]
)
def test_no_library_of_models_or_statistics_is_loaded_for_commands_that_need_none(module):
    asked = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_the_version_is_the_packages_own():
    outcome = CliRunner().invoke(app, ["--version"])
    assert (outcome.exit_code, outcome.stdout) == (0, f"fgrpo {__version__}\n")
