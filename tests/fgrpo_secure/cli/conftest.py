"""The command line, called in this process, and small configurations for it."""

import shutil

import pytest
from typer.testing import CliRunner

from fgrpo_secure.cli import app
from tests.fgrpo_secure.cli.organisations import NAMES, RUN, URL, said


@pytest.fixture
def fgrpo(tmp_path, monkeypatch):
    """Calls the command line in an empty folder; gives what a shell would see."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def refused(fgrpo, tmp_path):
    """Calls the command line with something unusable; gives the one sentence it must say.

    Exit code 2, one line on standard error, nothing on standard output, no file or folder made, none changed.
    """

    def state():
        return {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")}

    def call(*arguments):
        before = state()
        outcome = fgrpo(*arguments)
        assert outcome.exit_code == 2, outcome.output
        assert isinstance(outcome.exception, SystemExit)
        assert outcome.stdout == ""
        lines = outcome.stderr.strip().splitlines()
        assert len(lines) == 1, outcome.stderr
        assert "Traceback" not in outcome.stderr
        assert state() == before
        assert lines[0].startswith("fgrpo: ")
        return lines[0].removeprefix("fgrpo: ")

    return call


@pytest.fixture
def config(tmp_path, small):
    """Writes the small configuration with `changes` applied to its text; gives its path."""

    def write(*changes, append="", name="small.toml"):
        text = small[0] + append
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Authority, server and five clients, up to the invitation: what each of their commands printed."""
    root = tmp_path_factory.mktemp("organisations")
    (root / "run.toml").write_text(RUN)
    key = said("authority", "new", root / "authority")
    lines = [said("client", "new", root / name, "--task", "add") for name in NAMES]
    said("authority", "sign", root / "authority", *lines)
    server = said("server", "new", root / "run.toml", "--authority", key, "--out", root / "five")
    said("server", "invite", root / "five", *URL, "--roster", root / "authority" / "roster.bin")
    return root, key, server, lines


@pytest.fixture
def place(original, tmp_path, monkeypatch):
    """A copy of it, which a test may change."""
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copytree(original[0], tmp_path / "o")
    return tmp_path / "o"
