"""`fgrpo verify --evaluate` measures what only the server asserts: a right pass rate holds, a tampered one is found."""

import json
import re
import shutil

import pytest
from typer.testing import CliRunner

from fgrpo_secure.cli import app
from fgrpo_secure.config import files as config_file
from fgrpo_secure.evidence import manifest, summary
from fgrpo_secure.run import training
from fgrpo_secure.storage import signed_file
from fgrpo_secure.storage.run_directory import RunDirectory
from protocols.identity import Identity
from tests.fgrpo_secure.evidence.conftest import TABLE, Silent

run = CliRunner()
pytestmark = pytest.mark.slow
IN_SUMMARY = {name.replace(".", "_"): name for name in summary.RESULTS}
PROBLEMS = 200  # four standard errors are 14 points


@pytest.fixture(scope="module")
def examined(tmp_path_factory):
    """A finished run with problems enough for its pass rates to mean something."""
    directory = RunDirectory(tmp_path_factory.mktemp("examined") / "run")
    table = {**TABLE, "federation": {"rounds": 1}, "evaluation": {"prompts": PROBLEMS, "samples": 1, "every": 0}}
    training.start(config_file.parse(table, "here"), directory, Silent())
    return directory


def asserting(examined, folder, **results):
    """A copy whose server asserts other results, in every document, and signs them."""
    for each in (examined.root, examined.private):
        shutil.copytree(each, folder / each.name)
    directory = RunDirectory(folder / "run")
    key = Identity.from_seed(directory.server_key.read_bytes())
    stated = signed_file.read(directory.statement)
    stated["asserted"]["results"] |= results
    signed_file.write(directory.statement, stated, key)
    written = json.loads(directory.summary.read_bytes())
    for name, value in results.items():
        written[IN_SUMMARY[name]] = value
    directory.write_summary(written)
    manifest.write(directory, key)
    return directory


def test_right_pass_rates_are_measured_again_to_the_last_digit(examined, tmp_path):
    done = run.invoke(app, ["verify", str(examined.root), "--evaluate"])
    assert done.exit_code == 0, done.stderr
    (line,) = re.findall(r"ok    evaluation: (.*)", done.stdout)
    assert line.endswith("exactly as asserted")
    assert "Not checked: the pass rates" not in done.stdout
    page = tmp_path / "page.html"
    assert run.invoke(app, ["report", str(examined.root), "--evaluate", "--out", str(page)]).exit_code == 0
    assert "These rates are measured again when this was drawn." in page.read_text()
    assert ">measured again by verify<" in page.read_text()


@pytest.mark.parametrize("name", ["pass_rate_final", "reward_final"])
def test_a_tampered_figure_verifies_until_it_is_measured_again(examined, tmp_path, name):
    honest = signed_file.read(examined.statement)["asserted"]["results"][name]
    forged = asserting(examined, tmp_path, **{name: honest + 0.3 if honest < 0.5 else honest - 0.3})
    without = run.invoke(app, ["verify", str(forged.root)])
    assert without.exit_code == 0, without.stderr
    assert "Only asserted by the server: pass rates" in without.stdout
    found = run.invoke(app, ["verify", str(forged.root), "--evaluate"])
    assert found.exit_code == 1
    assert f"does not verify: evaluation: {name} is {honest:.3f} when measured again" in found.stderr
    drawn = run.invoke(app, ["report", str(forged.root), "--evaluate", "--out", str(tmp_path / "page.html")])
    assert drawn.exit_code == 1
    assert not (tmp_path / "page.html").exists()
