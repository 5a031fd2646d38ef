"""The membership table: who was in a sum is solved for rightly, and the report says what its figures are."""

import sys
from pathlib import Path

import numpy as np
import pytest

from threat_model import membership


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    monkeypatch.delitem(sys.modules, "membership", raising=False)
    import membership as bench

    yield bench
    for name in ("membership", "simulate", "batched"):
        sys.modules.pop(name, None)


def test_least_squares_finds_exactly_who_is_in_sums_without_noise(bench):
    generator = np.random.default_rng(2)
    present = np.arange(20) < 10
    tables = [generator.normal(size=(20, 50)) for _ in range(3)]
    weights = np.where(present, 0.7, 0.0)
    found = bench.solved([weights @ table for table in tables], tables)
    assert found == pytest.approx(weights, abs=1e-6)


def test_noise_on_the_sums_spreads_what_least_squares_finds(bench):
    generator = np.random.default_rng(3)
    tables = [generator.normal(size=(200, 400)) for _ in range(3)]
    present = np.arange(200) < 100
    sums = [present @ table + generator.normal(0, 60, 400) for table in tables]
    found = membership.area(bench.solved(sums, tables)[present], bench.solved(sums, tables)[~present])
    assert 0.4 < found.value < 0.85


def test_the_table_has_a_column_for_each_setting_and_the_largest_upper_end(bench):
    line = {"seed": 0, "members": 2, "seconds": 1.0, "server": [0.6, 0.7], "server_knowing_all": [0.9, 1.0]}
    lines = [
        {**line, "setting": "no privacy", "epsilon": None, "allowed": 1.0, "reader": [0.5, 0.6]},
        {**line, "setting": "shipped budget", "epsilon": 8.0, "allowed": 0.95, "reader": [0.5, 0.58]},
        {**line, "setting": "shipped budget", "epsilon": 8.0, "allowed": 0.95, "reader": [0.52, 0.56]},
    ]
    text = bench.report(lines)
    assert "| no privacy, seeds: 1 | shipped budget (epsilon 8.0), seeds: 2 |" in text
    assert "0.510 (at most 0.580)" in text
    assert "| largest area that is allowed | - | 0.950 |" in text


def test_the_page_shows_the_kept_results(bench):
    lines = list(bench.read(bench.RESULTS))
    assert {line["setting"] for line in lines} == set(bench.PRESETS)
    assert bench.report(lines) in bench.DOCS.read_text()
    for line in lines:
        assert all(line[name][1] <= line["allowed"] for name in bench.ADVERSARIES)
