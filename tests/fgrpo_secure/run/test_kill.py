"""A run that is killed at any moment resumes, loses at most the open round and never under-charges a ledger."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fgrpo_secure.config import files as config_file
from fgrpo_secure.evidence import files, verify
from fgrpo_secure.run import training
from fgrpo_secure.storage import checkpoint
from fgrpo_secure.storage.run_directory import RunDirectory
from fgrpo_secure.storage.signed_file import BadFile

pytestmark = pytest.mark.slow  # whole runs: seconds each

HERE = Path(__file__).parent
TASKS = ("add", "sub", "mul", "sort", "rev", "cnt")
CONFIG = "".join(f'[[client]]\nname = "{task}"\ntask = "{task}"\n' for task in TASKS) + (
    "[evaluation]\nprompts = 2\nsamples = 1\nevery = 0\n[adapter]\nrank = 1\n"
    "[grpo]\nnum_generations = 2\nprompts_per_step = 2\n[aggregation]\nmax_dropout = 0.2\n"
)


class Silent(training.Observer):
    """An observer that can stop a run after a round, as a crash would."""

    def __init__(self, crash_after=None):
        self.crash_after = crash_after

    def finished_round(self, metrics):
        if metrics.round == self.crash_after:
            raise KeyboardInterrupt


def kill(tmp_path, rounds, kills, seed):
    config = tmp_path / "run.toml"
    config.write_text(CONFIG + f"[federation]\nrounds = {rounds}\n[privacy]\nepsilon = 80.0\n")
    command = [sys.executable, str(HERE / "kill_loop.py"), str(config), str(tmp_path / "run"), str(kills), str(seed)]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_resumes_and_pays_for_all_that_left(tmp_path, kills):
    outcome = kill(tmp_path, rounds=8, kills=kills, seed=kills)
    assert outcome["killed"] == kills
    assert all(rounds == 8 or stopped == "budget spent" for rounds, stopped in outcome["outcomes"])


@pytest.mark.parametrize(
    "overrides",
    [["server.momentum=0.9"], ["server.optimizer=adam", "adapter.factors=alternate"], ["privacy.unit=none"]],
)
def test_a_run_resumed_from_a_checkpoint_ends_with_the_adapter_of_one_that_never_stopped(tmp_path, overrides):
    path = tmp_path / "run.toml"
    path.write_text(CONFIG + '[run]\nentropy = "seeded"\n[federation]\nrounds = 4\n[privacy]\nepsilon = 80.0\n')
    config = config_file.load(str(path), overrides)
    straight, stopped = RunDirectory(tmp_path / "straight"), RunDirectory(tmp_path / "stopped")
    training.start(config, straight, Silent())
    with pytest.raises(KeyboardInterrupt):
        training.start(config, stopped, Silent(crash_after=2))
    found = checkpoint.latest(stopped.checkpoints)
    assert found is not None
    assert found.rounds_done == 2
    assert not stopped.summary.exists()
    training.resume(stopped, Silent())
    one, other = (load_file(d.adapter / "adapter_model.safetensors") for d in (straight, stopped))
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)
    assert [r["mean_gain"] for r in straight.read_metrics()] == [r["mean_gain"] for r in stopped.read_metrics()]


def test_a_run_whose_clients_are_gone_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(CONFIG + "[federation]\nrounds = 1\n[privacy]\nepsilon = 80.0\n")
    directory = RunDirectory(tmp_path / "run")
    training.start(config_file.load(str(path)), directory, Silent())
    shutil.rmtree(directory.owners)
    with pytest.raises(ValueError, match="does not hold the clients of this run"):
        training.resume(directory, Silent())


def test_what_a_kill_left_half_written_beside_any_file_of_a_run_is_no_part_of_it(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(CONFIG + "[federation]\nrounds = 1\n[privacy]\nepsilon = 80.0\n")
    directory = RunDirectory(tmp_path / "run")
    training.start(config_file.load(str(path)), directory, Silent())
    whole = files.listing(directory.root)
    for name in whole:
        place = directory.root / name
        place.with_name(f".writing-{place.name}").write_bytes(b"half")
    (directory.adapter / "half-an-adapter.tmp").write_bytes(b"half")
    with pytest.raises(BadFile, match="no run leaves"):
        files.listing(directory.root)
    training.resume(directory, Silent())
    assert files.listing(directory.root).keys() == whole.keys()
    assert len(list(verify.verify(directory, verify.Trust()))) == 11
