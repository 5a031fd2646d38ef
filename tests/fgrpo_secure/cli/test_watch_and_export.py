"""A live view and exports of a run, from its metrics alone."""

import fcntl
import importlib.util
import json
import os
import sys

import pytest
from typer.testing import CliRunner

from fgrpo_secure.cli import app
from fgrpo_secure.cli.watch import sparkline
from fgrpo_secure.report import export
from fgrpo_secure.storage.run_directory import RunDirectory

run = CliRunner()
LINE = {
    "round": 1,
    "session": 0,
    "survivors": 9,
    "dropped": 1,
    "failed_sessions": 0,
    "mean_weight": 0.7,
    "epsilon_spent": 1.25,
    "bytes_up_per_client": 10_000,
    "seconds_server": 2.5,
    "pass_rate": 0.25,
}


@pytest.fixture
def directory(tmp_path):
    made = RunDirectory(tmp_path / "run")
    made.root.mkdir()
    made.config.write_text(
        '[run]\nname = "seen"\n[federation]\nrounds = 4\n[[client]]\nname = "a"\ntask = "add"\ncount = 10\n'
    )
    return made


def measured(directory, *lines):
    directory.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def conducted(directory):
    """As a process that conducts the run holds it."""
    folder = os.open(directory.root, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    yield
    os.close(folder)


def test_watching_a_run_whose_process_has_ended_says_how_to_go_on(directory):
    measured(directory, LINE)
    outcome = run.invoke(app, ["watch", str(directory.root), "--interval", "0.1"])
    assert outcome.exit_code == 1
    assert "seen: ended before its last round, round 1 of 4" in outcome.stdout
    assert f"go on with: fgrpo run --resume {directory.root}" in outcome.stderr


def test_a_run_is_watched_from_before_its_first_round_to_its_end(directory, conducted):
    before = run.invoke(app, ["watch", str(directory.root), "--once"])
    assert "seen: before its first round, round 0 of 4" in before.stdout
    measured(directory, LINE, {**LINE, "round": 2, "epsilon_spent": 1.75, "pass_rate": 0.5})
    during = run.invoke(app, ["watch", str(directory.root), "--once"])
    assert "seen: running, round 2 of 4" in during.stdout
    assert "epsilon spent 1.750 of 8" in during.stdout
    assert "pass rate 0.500" in during.stdout
    directory.summary.write_text("{}")
    after = run.invoke(app, ["watch", str(directory.root), "--interval", "0.1"])
    assert after.exit_code == 0
    assert "seen: finished" in after.stdout


def test_a_line_cut_short_is_left_out_until_it_is_whole(directory):
    measured(directory, LINE)
    directory.metrics.write_text(directory.metrics.read_text() + '{"round": 2, "surv')
    assert "round 1 of 4" in run.invoke(app, ["watch", str(directory.root), "--once"]).stdout


def test_a_sparkline_rises_with_its_values():
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([0.3, 0.3]) == "▁▁"


def test_a_directory_without_a_run_is_refused(tmp_path):
    empty = str(tmp_path / "empty")
    for command in (["watch", empty], ["export", empty, "--tensorboard", str(tmp_path / "out")]):
        refused = run.invoke(app, command)
        assert refused.exit_code == 2
        assert "holds no run" in refused.stderr


def test_tensorboard_reads_back_every_number(directory, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    measured(directory, LINE, {**LINE, "round": 2, "pass_rate": None, "mean_weight": 0.6})
    done = run.invoke(app, ["export", str(directory.root), "--tensorboard", str(tmp_path / "events")])
    assert done.exit_code == 0, done.stderr
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert {
        tag: [(e.step, pytest.approx(e.value)) for e in events.Scalars(tag)] for tag in ("mean_weight", "pass_rate")
    } == {
        "mean_weight": [(1, 0.7), (2, 0.6)],
        "pass_rate": [(1, 0.25)],
    }
    assert set(events.Tags()["scalars"]) == LINE.keys() - {"round"}


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="the extra 'mlflow' is not installed")
def test_mlflow_reads_back_every_number(directory, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the one store that needs no server
    import mlflow

    measured(directory, LINE, {**LINE, "round": 2, "mean_weight": 0.6})
    uri = (tmp_path / "store").as_uri()
    assert run.invoke(app, ["export", str(directory.root), "--mlflow", uri]).exit_code == 0
    client = mlflow.MlflowClient(tracking_uri=uri)
    (logged,) = client.search_runs([client.get_experiment_by_name("fgrpo").experiment_id])
    history = client.get_metric_history(logged.info.run_id, "mean_weight")
    assert [(each.step, each.value) for each in history] == [(1, 0.7), (2, 0.6)]


def test_a_missing_extra_is_named(directory, monkeypatch):
    measured(directory, LINE)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    refused = run.invoke(app, ["export", str(directory.root), "--mlflow", "file:///nowhere"])
    assert (refused.exit_code, "install the extra 'mlflow'" in refused.stderr) == (2, True)


def test_an_export_goes_to_one_place_outside_the_run(directory):
    measured(directory, LINE)
    neither = run.invoke(app, ["export", str(directory.root)])
    assert (neither.exit_code, "exactly one of" in neither.stderr) == (2, True)
    inside = run.invoke(app, ["export", str(directory.root), "--tensorboard", str(directory.root / "events")])
    assert (inside.exit_code, "lies inside the run" in inside.stderr) == (2, True)


def test_what_is_exported_is_what_the_metrics_hold(directory):
    measured(directory, LINE)
    assert {name: value for name, _, value in export.scalars(directory)} == {
        name: value for name, value in LINE.items() if name != "round"
    }
