"""What the command line loads before it knows which command is asked for."""

import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from fgrpo_secure import __version__
from fgrpo_secure.cli import COMMANDS, app
from fgrpo_secure.cli.deferred import Deferred, loading

HEAVY = ("torch", "transformers", "peft", "opacus", "dp_accounting", "matplotlib")
OURS = {
    "fgrpo_secure",
    "fgrpo_secure.cli",
    "fgrpo_secure.cli.contributed",
    "fgrpo_secure.cli.deferred",
    "fgrpo_secure.cli.errors",
    "fgrpo_secure.entropy",
    "fgrpo_secure.errors",
    "protocols",
    "protocols.errors",
    "protocols.params",
    "protocols.tails",
    "threat_model",
    "threat_model.audit",
    "threat_model.audit.command",
    "threat_model.command",
}
TYPERS_OWN = {"annotated_doc", "click", "markdown_it", "mdurl", "pygments", "rich", "shellingham", "typer"}
TYPERS_OWN |= {
    "attr",
    "linkify_it",
    "typing_extensions",
    "uc_micro",
}  # where they are installed, rich or click take them


@pytest.mark.parametrize("module", ["threat_model.command", "threat_model.audit.command", "fgrpo_secure.plan.cost"])
def test_no_library_of_models_or_statistics_is_loaded_for_commands_that_need_none(module):
    asked = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("asked", ["--help", "--version"])
def test_the_list_of_commands_and_the_version_load_no_command_and_no_library_but_typers_own(asked):
    script = (
        "import sys; before = set(sys.modules); sys.argv = ['fgrpo', sys.argv[1]]\n"
        "from fgrpo_secure.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", script, asked], capture_output=True, text=True, check=True)
    loaded = ended.stderr.split()
    ours = {name for name in loaded if name.split(".")[0] in ("fgrpo_secure", "protocols", "threat_model")}
    assert ours == OURS
    packages = {name.split(".")[0] for name in loaded} - sys.stdlib_module_names - TYPERS_OWN
    assert packages == {"fgrpo_secure", "protocols", "threat_model"}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_listed_command_exists_and_its_own_help_begins_with_its_summary(command):
    loaded = command.load()
    assert loaded.name == command.name
    assert re.sub(r"\s+", " ", loaded.help).startswith(command.summary)


def test_the_list_shows_every_command_with_its_summary():
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    words = " ".join(re.sub(r"[│|]", " ", shown.stdout).split())
    for command in COMMANDS:
        assert f" {command.name} {command.summary} " in words


def test_a_group_loads_the_command_that_is_called_and_no_other():
    commands = (Deferred("there", "config:config", "Is there."), Deferred("not", "absent:absent", "Cannot be loaded."))
    made = typer.Typer(cls=loading(commands))
    made.callback()(lambda: None)
    for command in commands:
        command.add_to(made)
    assert CliRunner().invoke(made, ["--help"]).exit_code == 0
    assert "privacy.epsilon" in CliRunner().invoke(made, ["there", "privacy.epsilon"]).stdout
    assert isinstance(CliRunner().invoke(made, ["not"]).exception, ModuleNotFoundError)
    assert CliRunner().invoke(made, ["nowhere"]).exit_code == 2


def test_the_version_is_the_packages_own():
    outcome = CliRunner().invoke(app, ["--version"])
    assert (outcome.exit_code, outcome.stdout) == (0, f"fgrpo {__version__}\n")
