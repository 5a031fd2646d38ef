"""`fgrpo attack` and its exit codes; commands that packages contribute."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fgrpo_secure.cli import contributed
from fgrpo_secure.evidence import attacks
from fgrpo_secure.storage.run_directory import RunDirectory
from threat_model import registry
from threat_model.attack import Attack, Weakening
from threat_model.command import attack as command

ATTACK = registry.named("both-shares")


def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(command)
    return made


def with_attacks(monkeypatch: pytest.MonkeyPatch, *attacks: Attack) -> None:
    monkeypatch.setattr(registry, "ATTACKS", attacks)


def test_the_list_names_every_attack_and_its_adversary_and_runs_none() -> None:
    shown = CliRunner().invoke(app(), ["--list"])
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [attack.name for attack in registry.ATTACKS]
    assert all(attack.adversary in line for attack, line in zip(registry.ATTACKS, lines, strict=True))


def test_an_attack_that_fails_on_ours_and_succeeds_weakened_exits_0_and_shows_the_difference() -> None:
    shown = CliRunner().invoke(app(), [ATTACK.name, "--json"])
    assert shown.exit_code == 0
    (record,) = json.loads(shown.stdout)
    assert set(record) == {"attack", "adversary", "ours", "weakened", "evidence", "seconds"}
    assert (record["ours"], record["weakened"]) == ("failed", "succeeded")
    assert "second, different answer" in record["evidence"]["ours"]
    assert "+        return None" not in record["evidence"]["ours"]
    assert "+        return None" in record["evidence"]["diff"]


def test_an_attack_that_does_not_succeed_on_its_weakened_copy_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    harmless = Weakening("protocols.drive", "the same bytes again", "the same octets again", "a word of a comment")
    with_attacks(monkeypatch, replace(ATTACK, weakenings=(harmless,)))
    shown = CliRunner().invoke(app(), [])
    assert shown.exit_code == 1
    assert "0 of 1 attacks" in shown.stdout


def test_an_attack_that_ends_without_an_outcome_is_neither_failed_nor_succeeded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = Weakening("protocols.drive", "import hashlib\n", "import no_such_module\n", "an import")
    with_attacks(monkeypatch, replace(ATTACK, weakenings=(broken,)))
    shown = CliRunner().invoke(app(), ["--json"])
    assert shown.exit_code == 1
    (record,) = json.loads(shown.stdout)
    assert (record["ours"], record["weakened"]) == ("failed", "broke")
    assert "no_such_module" in record["evidence"]["weakened"]


def test_an_unknown_name_and_a_weakening_that_does_not_fit_exit_2_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = CliRunner().invoke(app(), ["nothing"])
    assert shown.exit_code == 2
    assert shown.stderr.strip().splitlines() == [
        f"fgrpo: there is no attack 'nothing'; `fgrpo attack --list` shows all {len(registry.ATTACKS)}"
    ]
    gone = Weakening("protocols.drive", "a line that is not there", "", "nothing")
    with_attacks(monkeypatch, replace(ATTACK, weakenings=(gone,)))
    shown = CliRunner().invoke(app(), [])
    assert shown.exit_code == 2
    assert "finds it 0 times" in shown.stderr


def contribute(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> typer.Typer:
    """An application with the commands of an installed distribution that lists these entry points."""
    facts = folder / "example-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1\n", "utf-8")
    (facts / "entry_points.txt").write_text("\n".join(["[fgrpo.commands]", *lines]) + "\n", "utf-8")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    made = typer.Typer()
    made.command(name="ours")(lambda: typer.echo("ours"))
    contributed.add(made)
    return made


def test_a_command_of_another_package_is_found_through_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = contribute(tmp_path, monkeypatch, "an-attack = threat_model.command:attack")
    shown = CliRunner().invoke(made, ["an-attack", "--list"])
    assert shown.exit_code == 0
    assert ATTACK.name in shown.stdout


@pytest.mark.parametrize("value", ["no_such_module:attack", "threat_model.command:no_such_function"])
def test_a_contributed_command_that_cannot_be_loaded_says_so_and_harms_no_other(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = contribute(tmp_path, monkeypatch, f"broken = {value}")
    assert CliRunner().invoke(made, ["ours"]).stdout == "ours\n"
    shown = CliRunner().invoke(made, ["broken"])
    assert shown.exit_code == 2
    (sentence,) = shown.stderr.strip().splitlines()
    assert sentence.startswith(f"fgrpo: the command 'broken' cannot be loaded from {value}: ")


def test_results_are_kept_in_a_run_directory_and_nowhere_else(tmp_path: Path) -> None:
    refused = CliRunner().invoke(app(), [ATTACK.name, "--out", str(tmp_path / "nothing")])
    assert refused.exit_code == 2
    assert "Traceback" not in refused.stderr
    run = RunDirectory(tmp_path / "run")
    run.create("")
    kept = CliRunner().invoke(app(), [ATTACK.name, "--out", str(run.root)])
    assert kept.exit_code == 0
    campaign = attacks.read(run)
    assert campaign is not None
    assert [(trial.attack, trial.holds) for trial in campaign.trials] == [(ATTACK.name, True)]
