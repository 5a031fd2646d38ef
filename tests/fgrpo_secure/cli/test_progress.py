"""What is seen of a run while it goes on: bars that move, nothing but whole lines in a pipe, events for scripts."""

import io
import json

import pytest
from rich.console import Console

from fgrpo_secure.cli.progress import Progress
from fgrpo_secure.storage.run_directory import RoundMetrics, RunDirectory

METRICS = RoundMetrics(
    round=1, session=0, survivors=8, dropped=0, failed_sessions=0, mean_weight=1.0, mean_gain=0.0, clip_norm=1.0,
    fraction_within=None, update_norm=1.0, epsilon_spent=1.5, bytes_up_per_client=1, bytes_down_per_client=1,
    seconds_server=0.1, pass_rate=0.5, pass_rate_greedy=0.25,
)  # fmt: skip


@pytest.fixture
def terminal():
    """A terminal of 60 columns, and what is on it now."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=60, color_system=None, legacy_windows=False)
    progress = Progress(console)

    def shown() -> list[str]:
        with console.capture() as capture:
            console.print(progress._bars.get_renderable())
        return [line for line in capture.get().splitlines() if line.strip()]

    return progress, shown


def test_the_bar_of_training_moves_with_every_client_and_is_not_hidden_by_announcements(terminal):
    progress, shown = terminal
    progress.started("a-name-of-some-length", 12, 0)
    seen = []
    for done in range(1, 257):
        progress.step("train", done, 256)
        if done % 16 == 0:
            progress.step("announce", done, 256)
        seen.append(shown()[1])
    assert all(f" {done}/256 " in line and "train" in line for done, line in enumerate(seen, 1))
    progress.step("mask", 0, 256)
    assert "mask" in shown()[1]
    assert "0/256" in shown()[1]


def test_sixty_columns_hold_counts_and_times_of_a_run_with_any_name(terminal):
    progress, shown = terminal
    progress.started("quickstart-with-quite-a-long-name-that-no-terminal-holds", 1000, 998)
    progress.step("evaluate", 511, 512)
    lines = shown()
    assert [len(line) <= 60 for line in lines] == [True, True]
    assert " 998/1000 " in lines[0]
    assert "511/512 " in lines[1]
    assert all(line.count(":") >= 3 for line in lines), "elapsed, and what is left"


def test_in_a_pipe_there_are_whole_lines_and_no_bars(capsys):
    written = io.StringIO()
    with Progress(Console(file=written)) as progress:
        progress.started("piped", 2, 0)
        progress.step("train", 1, 8)
        progress.finished_round(METRICS)
    assert written.getvalue() == (
        "round 1: pass rate 0.500 sampled, 0.250 greedy; 8 clients, 0 dropped, epsilon spent 1.50\n"
    )


@pytest.mark.slow
def test_events_are_the_run_directorys_lines_and_bars_hear_of_each_client_and_problem(
    fgrpo, config, tmp_path, monkeypatch
):
    heard = []
    monkeypatch.setattr(Progress, "step", lambda _, step, done, total: heard.append((step, done, total)))
    outcome = fgrpo("run", config(), "--out", tmp_path / "out", "--json")
    assert outcome.exit_code == 0, outcome.output
    events = [json.loads(line) for line in outcome.stdout.splitlines()]
    run = RunDirectory(tmp_path / "out")
    metrics, summary = run.read_metrics(), json.loads(run.summary.read_text())
    assert [event.pop("event") for event in events] == ["started", *["round"] * len(metrics), "ended"]
    assert events[0] == {"run": "run", "rounds": len(metrics), "done": 0}
    assert events[1:-1] == metrics
    assert events[-1] == {"directory": str(run.root), "summary": summary}
    trained = [done for step, done, _ in heard if step == "train"]
    assert trained == [*range(1, summary["clients"] + 1)] * len(metrics)
    marked = [(done, total) for step, done, total in heard if step == "evaluate"]
    assert marked[0][0] == 0
    assert marked[-1][0] == marked[-1][1] > 0
