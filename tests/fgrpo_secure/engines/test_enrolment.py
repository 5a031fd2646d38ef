"""A run that is killed while it is being made: at every file that is opened, every folder made, every name given."""

import os
import sys

import pytest

from fgrpo_secure import entropy
from fgrpo_secure.config import files as config_file
from fgrpo_secure.engines import enrolment
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.run import training
from fgrpo_secure.storage import opening, owners_folder, rosters
from fgrpo_secure.storage.owners_folder import Enrolled
from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError

pytestmark = pytest.mark.slow  # forty processes that load nothing, and plan the run each

CONFIG = "".join(f'[[client]]\nname = "{task}"\ntask = "{task}"\n' for task in ("add", "sub", "mul", "rev")) + (
    '[run]\nentropy = "seeded"\n[adapter]\nrank = 1\n[federation]\nrounds = 1\n'
    "[grpo]\nnum_generations = 2\nprompts_per_step = 2\n[evaluation]\nprompts = 2\nsamples = 1\nevery = 0\n"
    "[privacy]\nepsilon = 80.0\n[aggregation]\nmax_dropout = 0.2\n"
)
KILLED = 9
CHANGES = {"open", "os.mkdir", "os.rename", "sqlite3.connect"}  # what Python tells an audit hook before it is done


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "run.toml"
    path.write_text(CONFIG)
    return config_file.load(str(path))


@pytest.fixture(scope="module")
def model(config):
    base = models.load(config.model)
    return base, adapters.attach(base, config.adapter, config.run.seed)


def make(directory, config, model):
    """What `start` does before the first session, or `resume` where that was cut short."""
    if not directory.config.exists():
        directory.create(config_file.dump(config))
    with directory.claimed():
        if enrolment.was_cut_short(directory):
            enrolment.enrol(directory, config, *model, entropy.from_kind("seeded", 0))
        enrolment.check_stores(directory, config)


def killed_at(step, folder, make_run):
    """Whether a process that makes the run came to its `step`th change below `folder`, where it ended."""
    child = os.fork()
    if child == 0:
        left = step

        def end(event, arguments):
            nonlocal left
            if event in CHANGES and str(arguments[0]).startswith(str(folder)):
                left -= 1
                if left == 0:
                    os._exit(KILLED)

        sys.addaudithook(end)
        code = 1
        try:
            make_run()
            code = 0
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED), f"ended with {status} before change {step}"
    return status == KILLED


def test_a_run_that_is_killed_while_it_is_made_goes_on_wherever_that_was(tmp_path, config, model):
    step = 0
    while True:
        step += 1
        directory = RunDirectory(tmp_path / f"run-{step}")
        if not killed_at(step, directory.root, lambda at=directory: make(at, config, model)):
            break
        make(directory, config, model)
        assert {member.name for member in rosters.roster(directory).members} == {"add", "sub", "mul", "rev"}
        assert not enrolment.was_cut_short(directory)
    assert step > 40, "each file of the run, of its server and of its owners is made in several steps"


def test_owners_of_an_earlier_run_are_not_enrolled_again_when_the_next_is_cut_short(tmp_path, config, model):
    owners = tmp_path / "owners"
    make(RunDirectory(tmp_path / "first", owners), config, model)
    before = Enrolled.read(owners)
    step = 0
    while True:
        step += 1
        directory = RunDirectory(tmp_path / f"next-{step}", owners)
        if not killed_at(step, tmp_path, lambda at=directory: make(at, config, model)):
            break
        make(directory, config, model)
        after = Enrolled.read(owners)
        assert after.names == before.names
        assert after.runs[-1] == opening.read(directory).run
        assert rosters.roster(directory) == rosters.roster(RunDirectory(tmp_path / "first", owners))
    assert step > 20


@pytest.mark.parametrize("lost", ["opening", "pins"])
def test_what_a_session_may_have_used_is_never_made_anew(tmp_path, config, model, lost):
    directory = RunDirectory(tmp_path / "run")
    make(directory, config, model)
    directory.sessions.mkdir()
    (directory.opening if lost == "opening" else directory.owners / owners_folder.PINS).unlink()
    assert not enrolment.was_cut_short(directory)
    with pytest.raises(RunDirectoryError, match="missing or damaged"):
        training.resume(directory, None)
