"""Files of a run that are missing, damaged or in use: one sentence names the file; nothing is lost or made anew."""

import shutil
import subprocess
import sys

import pytest

from fgrpo_secure import checkpoint, training
from fgrpo_secure.checkpoint import CheckpointError
from fgrpo_secure.config_file import ConfigError
from fgrpo_secure.federation import Federation
from fgrpo_secure.run_directory import RunDirectory, RunDirectoryError, check_database

LIBRARY_WORDS = ("sqlite3", "safetensors", "json", "Errno", "Traceback", "Expecting", "header", "NoneType", "KeyError")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_trial):
    """A run of one round, made once; every test damages a copy of it."""
    with pytest.MonkeyPatch.context() as patch:
        return make_trial(tmp_path_factory.mktemp("finished"), patch).run("federation.rounds=1", "evaluation.prompts=2")


@pytest.fixture
def directory(finished, tmp_path):
    for folder in (finished.root, finished.owners):
        shutil.copytree(folder, tmp_path / folder.name)
    return RunDirectory(tmp_path / finished.root.name)


def contents(directory):
    paths = [path for folder in (directory.root, directory.owners) for path in folder.rglob("*") if path.is_file()]
    passing = ("-wal", "-shm")  # SQLite's journals come and go with whoever looks
    return {path: path.read_bytes() for path in paths if not path.name.endswith(passing)}


def damage(path):
    path.write_bytes(b"\x00not what it was\x00" * 40)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("run/ledger.sqlite", r"ledger.sqlite is {}"),
        ("run.owners/host-0/ledgers.sqlite", r"host-0/ledgers.sqlite is {}"),
        ("run.owners/host-0/state.sqlite", r"host-0/state.sqlite is {}"),
        ("run.owners/pins.json", r"run.owners does not hold the clients of this run"),
        ("run.owners/policies/mul/client-policy.toml", r"policies/mul/client-policy.toml"),
        ("run/roster.bin", r"roster.bin"),
        ("run/server.key", r"server.key is missing or not a key"),
    ],
)
@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_run_does_not_go_on_without_a_whole_file_and_changes_nothing(directory, trial, place, said, harm):
    path = directory.root.parent / place
    if harm == "missing":
        path.unlink()
    else:
        damage(path)
    before = contents(directory)
    with pytest.raises((RunDirectoryError, ConfigError), match=said.format(harm)) as problem:
        training.resume(directory, trial)
    assert not any(word in str(problem.value).replace(str(path), "") for word in LIBRARY_WORDS)
    assert "\n" not in str(problem.value)
    assert contents(directory) == before


@pytest.mark.parametrize("content", [b"", b"many\n"])
def test_a_sessions_file_without_a_number_stops_a_run_before_a_number_is_used_twice(trial, content):
    federation = trial.federation("federation.rounds=1")
    federation.directory.sessions.write_bytes(content)
    with pytest.raises(RunDirectoryError, match="sessions holds no number"):
        federation.conduct(0, lambda *_: None)
    assert federation.ledger.spent() == 0


@pytest.mark.parametrize("name", ["adapter.safetensors", "optimizer.safetensors", "progress.json"])
@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_checkpoint_with_a_damaged_part_is_named_and_kept(directory, name, harm):
    newest = directory.checkpoints / "round-000001"
    if harm == "missing":
        (newest / name).unlink()
    else:
        damage(newest / name)
    with pytest.raises(CheckpointError, match=f"round-000001/{name} is {harm}") as problem:
        checkpoint.latest(directory.checkpoints)
    assert not any(word in str(problem.value).replace(name, "") for word in LIBRARY_WORDS)
    assert newest.is_dir()


def test_a_checkpoint_whose_progress_is_another_programs_is_refused(directory, trial):
    (directory.checkpoints / "round-000001" / "progress.json").write_text('{"rounds": 3}')
    with pytest.raises(CheckpointError, match=r"progress.json is damaged"):
        training.resume(directory, trial)


def test_nobody_else_conducts_a_run_meanwhile(directory, trial):
    with (
        directory.claimed(),
        pytest.raises(RunDirectoryError, match=r"another process is conducting the run in .*/run"),
    ):
        training.resume(directory, trial)
    with directory.claimed():
        pass


def test_owners_take_part_in_one_run_at_a_time_and_a_refused_start_leaves_nothing(directory, tmp_path):
    other = RunDirectory(tmp_path / "other", directory.owners)
    with (
        directory.claimed(),
        pytest.raises(RunDirectoryError, match=r"run.owners are taking part in another run; wait"),
    ):
        other.create("")
    assert not other.config.exists()
    other.create("")


def test_a_lock_ends_with_the_process_that_held_it(directory):
    code = (
        "import os, sys; from pathlib import Path; from fgrpo_secure.run_directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).claimed(): os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(directory.root)], check=False)
    assert ended.returncode == -9
    with directory.claimed():
        pass


def test_a_run_holds_its_lock_while_it_trains(trial, monkeypatch):
    seen = []
    original = Federation.conduct

    def conduct(federation, *arguments):
        with pytest.raises(RunDirectoryError, match="another process is conducting"), federation.directory.claimed():
            pass
        seen.append(federation)
        return original(federation, *arguments)

    monkeypatch.setattr(Federation, "conduct", conduct)
    trial.run("federation.rounds=1", "evaluation.prompts=1")
    assert len(seen) == 1


def test_a_database_without_our_table_is_called_damaged(tmp_path):
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(RunDirectoryError, match=r"empty.sqlite is damaged"):
        check_database(tmp_path / "empty.sqlite", "entry")
