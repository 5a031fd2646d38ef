"""The privacy and utility sweep resumes where it stopped, pairs what it compares, and says what is not settled."""

import json
import sys
from pathlib import Path

import pytest

MODULES = ("sweep", "sweep_report", "simulate", "batched", "utility")


@pytest.fixture
def sweep(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import sweep

    yield sweep
    for name in MODULES:
        sys.modules.pop(name, None)


def record(server, seed, sampled, weights="uniform", epsilon=8.0):
    figures = dict.fromkeys(("sampled", "greedy", "sampled_gain", "greedy_gain"), sampled)
    cell = {"unit": "client", "weights": weights, "epsilon": epsilon, "server": server, "seed": seed}
    return {**cell, **figures, "noise_multiplier": 2.0, "seconds": 10.0, "machine": "m"}


def test_a_sweep_does_not_repeat_finished_runs_and_repeats_one_whose_line_was_cut(sweep, tmp_path):
    path = tmp_path / "cells.jsonl"
    path.write_text(json.dumps(record("plain", 3, 1.0)) + "\n" + json.dumps(record("plain", 4, 1.0))[:30])
    assert list(sweep.finished(path)) == [sweep.Cell("client", "uniform", 8.0, "plain", 3)]


def test_every_cell_with_privacy_has_its_baseline_and_one_run_without_stands_for_both(sweep):
    wanted = list(sweep.cells(("client", "subject"), ("uniform",), (0,)))
    assert len(wanted) == len(set(wanted)) == 11 + 10
    assert [cell.server for cell in wanted if cell.epsilon is None] == ["secure"]


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((0.1, -0.1, 0.2, 0.0), "within 2 points"),
        ((3.0, -3.0, 4.0, -4.0), "unresolved: contains 0, reaches beyond 2 points"),
        ((5.0, 5.1, 5.2, 4.9), "differs"),
    ],
)
def test_a_difference_to_the_baseline_is_paired_by_seed_and_judged(sweep, differences, verdict):
    base = [10.0, 30.0, -20.0, 7.0]  # far apart: only pairs can settle anything
    records = [record("plain", seed, value) for seed, value in enumerate(base)]
    records += [record("secure", seed, base[seed] + extra) for seed, extra in enumerate(differences)]
    (row,) = sweep.sweep_report.report(records, wanted=8)["rows"]
    assert row["difference"]["sampled"]["verdict"] == verdict
    assert row["difference"]["sampled"]["mean"] == pytest.approx(sum(differences) / 4)


def test_a_row_learns_only_if_its_whole_interval_is_above_zero(sweep):
    def learns(values):
        records = [record("secure", seed, value) for seed, value in enumerate(values)]
        return sweep.sweep_report.report(records, wanted=2)["rows"][0]["learns"]

    assert learns((5.0, 6.0, 5.5))
    assert not learns((5.0, -3.0, 5.5))


def test_ways_to_aggregate_factors_are_compared_seed_by_seed_and_kept_out_of_the_sweep(sweep):
    records = [record("secure", seed, 10.0 * seed, weights="adaptive") for seed in range(4)]
    others = [record("secure", seed, 10.0 * seed + 5 + 0.1 * seed, weights="adaptive") for seed in range(3)]
    rows = sweep.sweep_report.factors([*records, *({**other, "factors": "full"} for other in others)])
    full = next(row for row in rows if row["factors"] == "full")
    assert full["seeds"] == [0, 1, 2]
    assert full["less_ffa"]["sampled"]["mean"] == pytest.approx(5.1)
    assert full["less_ffa"]["sampled"]["verdict"] == "differs"
    wanted = list(sweep.factor_cells((0, 1)))
    assert {(cell.factors, cell.epsilon) for cell in wanted} == {
        (name, epsilon) for name in ("ffa", "alternate", "full") for epsilon in (None, 8.0)
    }
