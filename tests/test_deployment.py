"""What is deployed starts what exists: units, image and compose example are read as their tools read them."""

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from fgrpo_secure.cli import app

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
ANALYZE = shutil.which("systemd-analyze")


def check_command(words):
    """Raises if our command line has no such command or option. Nothing of it runs."""
    command, context = typer.main.get_command(app), None
    while hasattr(command, "resolve_command"):
        context = command.make_context(command.name, list(words), parent=context, resilient_parsing=True)
        _, command, words = command.resolve_command(context, list(words))
        assert command is not None
    command.make_context(command.name, list(words), parent=context)


def read(unit):
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read_string(unit.read_text())
    return parser


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_exists_as_a_user_that_owns_nothing_else(unit):
    service = read(unit)["Service"]
    program, *words = shlex.split(service["ExecStart"])
    assert program == "/opt/fgrpo/bin/fgrpo"
    check_command(words)
    assert service["User"] != "root"
    assert service["UMask"] == "0077"
    assert (service["NoNewPrivileges"], service["ProtectSystem"], service["CapabilityBoundingSet"]) == (
        "yes",
        "strict",
        "",
    )
    assert service["Restart"] == "on-failure"


@pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_finds_no_mistake_in_a_unit(unit, tmp_path):
    def said(text):
        copy = tmp_path / unit.name
        copy.write_text(text)
        done = subprocess.run([ANALYZE, "verify", copy], capture_output=True, text=True, check=False)
        return [line for line in (done.stdout + done.stderr).splitlines() if unit.stem.partition("@")[0] in line]

    whole = unit.read_text().replace("/opt/fgrpo/bin/fgrpo", "/bin/true")
    assert said(whole) == []
    assert said(whole.replace("Restart=on-failure", "Restart=sometimes")) != []


def test_the_compose_example_starts_commands_that_exist_and_gives_a_client_its_own_folders_alone():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert set(services) == {"server", "client"}
    for service in services.values():
        check_command(service["command"])
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert "ports" not in services["client"]
    mounted = {name: {volume.split(":")[0] for volume in service["volumes"]} for name, service in services.items()}
    assert mounted["server"].isdisjoint(mounted["client"])


def test_the_image_is_built_from_files_that_exist_and_runs_as_nobody_in_particular():
    lines = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    for name, rest in steps:
        if name == "COPY" and "--from" not in rest:
            *sources, _ = rest.split()
            assert all((ROOT / source).exists() for source in sources), rest
        if name == "FROM":
            assert re.search(r":\d+\.\d+[^ ]*( AS \w+)?$", rest), f"{rest} names no version"
    names = [name for name, _ in steps]
    assert "USER" in names[names.index("FROM", 1) :]
    assert dict(steps)["USER"] != "root"
    assert dict(steps)["ENTRYPOINT"] == '["fgrpo"]'
