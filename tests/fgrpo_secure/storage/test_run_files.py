"""Files of a run that are missing, damaged or in use: one sentence names the file; nothing is lost or made anew."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.run import training
from fgrpo_secure.server.federation import Federation
from fgrpo_secure.storage import checkpoint, opening, rosters
from fgrpo_secure.storage.checkpoint import CheckpointError
from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError, check_database

LIBRARY_WORDS = ("sqlite3", "safetensors", "json", "Errno", "Traceback", "Expecting", "header", "NoneType", "KeyError")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_trial):
    """A run of one round, made once; every test damages a copy of it."""
    with pytest.MonkeyPatch.context() as patch:
        return make_trial(tmp_path_factory.mktemp("finished"), patch).run("federation.rounds=1", "evaluation.prompts=2")


@pytest.fixture
def directory(finished, tmp_path):
    for folder in (finished.root, finished.owners, finished.private):
        shutil.copytree(folder, tmp_path / folder.name)
    return RunDirectory(tmp_path / finished.root.name)


def contents(directory):
    paths = [
        path
        for folder in (directory.root, directory.owners, directory.private)
        for path in folder.rglob("*")
        if path.is_file()
    ]
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
        ("run.server/server.key", r"server.key is missing or not a key"),
        ("run/opening.json", r"opening.json is missing or damaged"),
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
        "import os, sys; from pathlib import Path; from fgrpo_secure.storage.run_directory import RunDirectory\n"
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


# ------------------------------------------------------------------------------------------- the server's own folder


def test_a_servers_folder_that_others_can_read_stops_a_run_by_name(directory, trial):
    directory.private.chmod(0o750)
    with pytest.raises(RunDirectoryError, match=r"run.server can be read by others; `chmod 700"):
        training.resume(directory, trial)


def test_a_run_that_earlier_versions_left_with_its_key_inside_is_refused_by_name(directory, trial):
    shutil.move(directory.server_key, directory.old_server_key)
    with pytest.raises(RunDirectoryError, match=r"run/server.key lies in the run directory itself"):
        training.resume(directory, trial)


def test_the_clients_learn_the_servers_key_without_its_secret(directory):
    shutil.rmtree(directory.private)
    assert rosters.pins(directory).server == bytes.fromhex(opening.read(directory).server)
    with pytest.raises(RunDirectoryError, match=r"server.key is missing"):
        rosters.server_identity(directory)


def test_another_servers_key_in_the_place_of_the_runs_is_refused(directory):
    directory.server_key.write_bytes(bytes(32))
    with pytest.raises(RunDirectoryError, match=r"is not the key of the server that .*opening.json names"):
        rosters.server_identity(directory)


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("learning_rate = ", "learning_rate = 10.0 #"),
        ("epsilon = 60.0", "epsilon = 6.0"),
        ("rounds = 1", "rounds = 2"),
        ('task = "add"', 'task = "sub"'),
    ],
)
def test_a_run_whose_configuration_was_edited_does_not_go_on(directory, trial, line, instead):
    text = directory.config.read_text()
    changed = "\n".join(instead + row.removeprefix(line) if row.startswith(line) else row for row in text.splitlines())
    assert changed != text
    directory.config.write_text(changed)
    before = contents(directory)
    with pytest.raises((RunDirectoryError, ConfigError), match="was changed after the run began"):
        training.resume(directory, trial)
    assert contents(directory) == before


@pytest.mark.parametrize("root", [".", "..", "./", "sub/.."])
def test_a_run_in_the_working_folder_has_its_neighbours_beside_that_folder(tmp_path, monkeypatch, root):
    (tmp_path / "outer" / "inner" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "outer" / "inner")
    run = RunDirectory(Path(root))
    folder = tmp_path / "outer" if root == ".." else tmp_path / "outer" / "inner"
    assert run.root.samefile(folder)
    assert run.owners == folder.with_name(f"{folder.name}.owners")
    assert run.config.parent.samefile(folder)
