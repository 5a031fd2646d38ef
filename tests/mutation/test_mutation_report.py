"""The counts behind the score, and that no survivor of the last run stands without a reason."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from scipy.stats import binomtest

HERE = Path(__file__).parent
RESULT = HERE.parents[1] / "benchmarks" / "results" / "mutation.json"
spec = importlib.util.spec_from_file_location("mutation_report", HERE / "mutation_report.py")
report = importlib.util.module_from_spec(spec)
spec.loader.exec_module(report)


@pytest.mark.parametrize(("hits", "tries"), [(0, 1), (1, 1), (352, 400), (400, 400), (85, 100)])
def test_the_lower_bound_is_wilsons(hits, tries):
    expected = binomtest(hits, tries).proportion_ci(0.95, method="wilson").low
    assert report.wilson_lower(hits, tries) == pytest.approx(expected, abs=1e-4)


def test_no_mutant_proves_nothing():
    assert report.wilson_lower(0, 0) == 0.0


def entry(line, outcome, **more):
    return {
        "path": "a.py",
        "line": line,
        "operator": "number",
        "diff": f"-{line}",
        "number": line,
        "outcome": outcome,
        **more,
    }


def test_a_survivor_that_a_new_test_kills_counts_as_killed_and_as_missed_before():
    entries = [entry(1, "killed"), entry(2, "survived"), entry(3, "timeout"), entry(4, "survived")]
    entries += [entry(5, "gone", first="survived"), entry(2, "killed", first="survived")]
    counted = report.figures({"seed": 1}, entries)
    assert [counted[name] for name in ("tried", "killed", "timeouts", "survived", "gone")] == [5, 2, 1, 1, 1]
    assert (counted["score"], counted["score_before_new_tests"]) == (0.6, 0.4)
    assert [found["line"] for found in counted["survivors"]] == [4]
    assert counted["noticed_of_tried_by_operator"] == {"number": [3, 5]}


def test_a_changed_line_that_no_test_reaches_is_missed_whatever_all_tests_together_would_say(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setitem(sys.modules, "mutants", ModuleType("mutants"))  # its library comes with `make mutants` alone
    (tmp_path / "a.py").write_text("one = 1\n")
    mutant = {"path": "a.py", "line": 1, "operator": "number", "diff": "-one = 1\n+one = 2", "source": "one = 2\n"}
    seen = {"lines": {}, "costs": {"tests/test_b.py::test_two": 1.0}}
    tried = importlib.import_module("mutation_run").try_mutant(tmp_path, seen, mutant, 8.0, tmp_path / "log")
    assert (tried["outcome"], tried["tests"]) == ("survived", 0)


def test_the_committed_result_gives_each_survivor_the_reason_that_is_listed_for_it_and_no_reason_is_left_over():
    listed = report.reasons()
    survivors = [one for package in json.loads(RESULT.read_text("utf-8")).values() for one in package["survivors"]]
    assert all(one["reason"] == listed.get((one["path"], one["diff"]), "") for one in survivors)
    assert set(listed) <= {(one["path"], one["diff"]) for one in survivors}
    assert all(listed.values())
