"""Owners on the machines of a Ray cluster: where their stores are, and what an end of anything costs."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress

import pytest

from fgrpo_secure.client.store import ClientStore
from fgrpo_secure.engines import ray_stores
from fgrpo_secure.engines.embedded import Embedded
from fgrpo_secure.engines.messages import Costs
from fgrpo_secure.engines.worker_process import EngineError
from fgrpo_secure.storage import owners_folder
from fgrpo_secure.storage.owners_folder import Away
from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError
from tests.fgrpo_secure.engines.federations import FIVE, enrolled
from tests.fgrpo_secure.engines.pipes import needs_root
from tests.fgrpo_secure.engines.ray_cluster import cluster

ON_RAY = ("--set", "engine.kind=ray", "--set", "engine.processes=2")
THERE = Away("10.0.0.7", "m")
ROUNDS = 40  # so many that a run is not over before it is struck


@pytest.fixture
def elsewhere(tmp_path):
    """(folder, the second node): a cluster of two nodes of which the second has a disk of its own there."""
    with cluster(2, own_disk=tmp_path) as nodes:
        yield tmp_path, nodes[1]


def fgrpo(*words):
    return subprocess.run([sys.executable, "-m", "fgrpo_secure", *map(str, words)], capture_output=True, text=True)


def begun(folder, name):
    """A run on the cluster, in its own process, after its first round."""
    (folder / "five.toml").write_text(FIVE)
    run = folder / name
    command = [sys.executable, "-m", "fgrpo_secure", "run", str(folder / "five.toml"), "--out", str(run), *ON_RAY]
    command += ["--set", f"federation.rounds={ROUNDS}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (run / "metrics.jsonl").exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    return run, process


@needs_root
@pytest.mark.slow
@pytest.mark.timeout(900)  # on a busy machine
def test_owners_stay_on_their_machine_until_the_run_has_ended(elsewhere):
    folder, _ = elsewhere
    run, process = begun(folder, "killed")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    owners = RunDirectory(run).owners
    machines = [owners_folder.away(owners, host) for host in range(2)]
    (host,) = (host for host, machine in enumerate(machines) if machine is not None)
    place = owners / f"host-{host}"
    assert os.listdir(place) == ["away.json"]  # nothing of them is left here

    said = fgrpo("ledger", "show", owners, "--owner", json.loads((owners / "pins.json").read_text())["names"][host])
    assert said.returncode != 0
    assert f"are on {machines[host].machine}" in said.stderr
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace('kind = "ray"', 'kind = "embedded"'))
    said = fgrpo("run", "--resume", run)
    assert said.returncode != 0  # their budgets would begin anew
    assert f"are on {machines[host].machine}" in said.stderr
    (run / "config.toml").write_text(text)

    said = fgrpo("run", "--resume", run)
    assert said.returncode == 0, said.stderr
    assert owners_folder.away(owners, host) is None
    assert len((run / "metrics.jsonl").read_text().splitlines()) == ROUNDS
    for each in range(2):
        with closing(ClientStore(owners_folder.store(owners, each))) as store:
            assert store.is_enrolled(each)
    said = fgrpo("verify", run)
    assert said.returncode == 0, said.stdout


@needs_root
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_machine_that_is_lost_ends_the_run_with_a_sentence_and_is_waited_for(elsewhere):
    folder, node = elsewhere
    run, process = begun(folder, "lost")
    os.killpg(node.pid, signal.SIGKILL)  # the machine is gone, with the stores that were there
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 1, printed
    assert "ended unexpectedly, with its Ray actor or that actor's machine" in printed
    assert "Traceback" not in printed
    said = fgrpo("run", "--resume", run)
    assert said.returncode == 1
    assert "which is no machine of this Ray cluster" in said.stderr


@pytest.fixture
def directory(trial):
    """Of a run whose owners are enrolled."""
    config, directory = trial.configure(text=FIVE)
    enrolled(config, directory)
    return directory


def test_another_run_in_that_place_is_left_alone(directory):
    shared, own = ray_stores.shared_files(directory), ray_stores.own_files(directory, 0)
    other = shared | {str(directory.opening): b"{}"}
    with pytest.raises(RunDirectoryError, match="holds another run"):
        ray_stores.lay_out(directory, 0, other, own, "m")
    pins = directory.owners / owners_folder.PINS
    stranger = json.loads(pins.read_text()) | {"authority": "00" * 32}
    with pytest.raises(RunDirectoryError, match="of other data owners"):
        ray_stores.lay_out(directory, 0, shared | {str(pins): json.dumps(stranger).encode()}, own, "m")
    assert ray_stores.own_files(directory, 0) == own


@pytest.mark.parametrize(
    "lost", [(owners_folder.STATE,), (owners_folder.LEDGERS,), (owners_folder.STATE, owners_folder.LEDGERS)]
)
def test_stores_that_a_machine_lost_are_not_made_anew(directory, lost):
    for name in lost:
        owners_folder.store(directory.owners, 0).with_name(name).unlink()
    with pytest.raises(RunDirectoryError, match="is missing; put it back"):
        ray_stores.lay_out(directory, 0, ray_stores.shared_files(directory), None, "m")
    assert not owners_folder.store(directory.owners, 0).with_name(lost[0]).exists()


@pytest.mark.parametrize("name", [owners_folder.STATE, owners_folder.LEDGERS])
def test_a_store_that_does_not_come_home_stays_where_it_is(directory, name):
    own = ray_stores.own_files(directory, 0)
    ray_stores.leave(directory, 0, THERE)
    part = {path: data for path, data in own.items() if not path.endswith(name)}
    with pytest.raises(RunDirectoryError, match="did not come home"):
        ray_stores.take_home(directory, 0, part)
    assert owners_folder.away(directory.owners, 0) == THERE


def test_a_copy_of_the_folder_is_not_taken_for_it(directory, tmp_path):
    copy = RunDirectory(tmp_path / "copy" / directory.root.name)
    with ray_stores.marked(directory):
        shutil.copytree(directory.owners, copy.owners)  # at any time, so that it has every mark until then
    with ray_stores.marked(directory) as mark:
        assert ray_stores.has_mark(directory, mark)
        assert not ray_stores.has_mark(copy, mark)
    assert not ray_stores.has_mark(directory, mark)


@pytest.mark.parametrize("problem", [BrokenPipeError, ValueError, EngineError])
@pytest.mark.parametrize("broken", [0, 1])
def test_whatever_a_host_raises_is_never_taken_for_silent_owners(broken, problem):
    class Good:
        def handle(self, request):
            yield Costs()

    class Bad:
        def handle(self, request):
            raise problem
            yield

    hosts = [Good(), Good()]
    hosts[broken] = Bad()
    with pytest.raises(problem):
        Embedded(hosts).costs()


def test_a_move_and_the_way_home_change_no_byte(directory):
    own = ray_stores.own_files(directory, 0)
    assert {path.rsplit("/", 1)[1] for path in own} >= {"state.sqlite", "ledgers.sqlite"}
    ray_stores.leave(directory, 0, THERE)
    assert ray_stores.own_files(directory, 0) == {}
    with pytest.raises(RunDirectoryError, match=r"are on 10\.0\.0\.7"):
        owners_folder.require_home(directory.owners, 0)
    ray_stores.take_home(directory, 0, own)
    assert ray_stores.own_files(directory, 0) == own
    owners_folder.require_home(directory.owners, 0)


@pytest.mark.parametrize("left", ["by another move", "by one that was cut short"])
def test_a_copy_that_another_move_left_is_not_taken_for_the_stores(directory, left):
    """Its machine may have come by the address of the one where the owners were charged since."""
    shared, own = ray_stores.shared_files(directory), ray_stores.own_files(directory, 0)
    ray_stores.lay_out(directory, 0, shared, own, "first")
    ray_stores.lay_out(directory, 0, shared, None, "first")
    if left == "by one that was cut short":
        owners_folder.store(directory.owners, 0).with_name(owners_folder.MOVED).unlink()
    with pytest.raises(RunDirectoryError, match="is a copy that an earlier move left"):
        ray_stores.lay_out(directory, 0, shared, None, "second")
    assert ray_stores.own_files(directory, 0) == own


class PowerCut(BaseException):
    pass


@pytest.mark.parametrize("survived", range(14))
def test_wherever_a_move_is_cut_short_one_place_alone_has_the_stores(directory, monkeypatch, survived):
    log = owners_folder.store(directory.owners, 0).with_name(f"{owners_folder.LEDGERS}-wal")
    log.write_bytes(b"of a worker that died")
    own = ray_stores.own_files(directory, 0)
    later = {path: data + b"charged" for path, data in own.items() if path != str(log)}
    done = []

    def cutting(act):
        def changed(*arguments, **options):
            if len(done) == survived:
                raise PowerCut
            done.append(act)
            return act(*arguments, **options)

        return changed

    def here_or_there():
        whole = ray_stores.own_files(directory, 0) == own
        assert whole or owners_folder.away(directory.owners, 0) == THERE

    monkeypatch.setattr(owners_folder, "write_durably", cutting(owners_folder.write_durably))
    monkeypatch.setattr(ray_stores, "write_durably", cutting(ray_stores.write_durably))
    monkeypatch.setattr(pathlib.Path, "unlink", cutting(pathlib.Path.unlink))
    with suppress(PowerCut):
        ray_stores.leave(directory, 0, THERE)
        here_or_there()
        ray_stores.take_home(directory, 0, own)
        assert owners_folder.away(directory.owners, 0) is None
    monkeypatch.undo()
    here_or_there()
    if owners_folder.away(directory.owners, 0) is not None:  # it goes on there, ends in order, and comes home
        ray_stores.take_home(directory, 0, later)
        assert ray_stores.own_files(directory, 0) == later
