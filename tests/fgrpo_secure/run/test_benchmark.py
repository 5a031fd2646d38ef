"""Privacy against utility on a user's own configuration."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fgrpo_secure.cli import app
from fgrpo_secure.cli.benchmark import story
from fgrpo_secure.config import files
from fgrpo_secure.run import benchmark

SMALL = (
    "federation.rounds=1", "grpo.num_generations=2", "evaluation.prompts=2", "evaluation.samples=1",
    "evaluation.every=0",
)  # fmt: skip
CELL_TWO = benchmark.cells([2.0], [])
TWICE_TWO = ("--epsilon", "8", "--epsilon", "2", "--seeds", "1")


@pytest.fixture
def fgrpo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def lines_of(gains, spent=3.0):
    return [
        {
            "seed": seed,
            "sampled": gain,
            "greedy": -gain,
            "epsilon_spent": spent,
            "delta": 1e-5,
            "stopped": None,
            "step": 3.0,
        }
        for seed, gain in enumerate(gains)
    ]


def test_a_mean_has_the_t_interval_of_its_seeds():
    found = benchmark.interval([1.0, 2.0, 3.0])  # t(0.975, 2) = 4.302653, standard error 1 / sqrt(3)
    assert found["mean"] == 2.0
    assert found["high"] - 2.0 == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert found["low"] + found["high"] == pytest.approx(4.0)
    assert benchmark.interval([1.5]) == {"mean": 1.5, "low": None, "high": None}


def test_what_all_runs_cost_together_is_added_up_and_has_no_bound_beside_a_run_without_privacy():
    eight, two = benchmark.cells([8.0, 2.0], ["uniform"])
    private = [*((eight, run) for run in lines_of([1, 2, 3])), *((two, run) for run in lines_of([4], spent=1.5))]
    found = benchmark.table(private)
    assert benchmark.spent(found) == (pytest.approx(10.5), pytest.approx(4e-5))
    said = story(found, benchmark.spent(found))
    assert said[1].split("  ")[0] == "8"
    assert "+2.0 [-0.5, 4.5]" in said[1]
    assert "uniform" in said[2]
    assert said[-1] == "All 4 runs together spent epsilon 10.5 at delta 4e-05 on the same data."
    open_ended = benchmark.table([*private, (two, lines_of([5], spent=None)[0])])
    assert benchmark.spent(open_ended) is None
    assert "have no bound" in story(open_ended, None)[-1]


def test_every_budget_is_tried_with_every_rule_once():
    names = [cell.name for cell in benchmark.cells([8.0, 2.0, 8.0], ["history", "uniform"])]
    assert names == ["epsilon-8-history", "epsilon-8-uniform", "epsilon-2-history", "epsilon-2-uniform"]
    assert [cell.name for cell in benchmark.cells([], [])] == ["as-configured"]


@pytest.mark.slow
def test_a_benchmark_runs_what_is_not_finished_and_only_that(fgrpo, monkeypatch):
    monkeypatch.setattr("fgrpo_secure.run.project.ROWS", 4)
    assert fgrpo("init", "--kind", "questions").exit_code == 0
    asked = ["benchmark", *TWICE_TWO, *(part for setting in SMALL for part in ("--set", setting))]
    first = fgrpo(*asked)
    assert first.exit_code == 0, first.output
    folders = [Path("runs/benchmark", f"epsilon-{budget}-seed-1") for budget in (8, 2)]
    assert [fgrpo("verify", folder).exit_code for folder in folders] == [0, 0]
    made = [(folder / "manifest.json").stat().st_mtime_ns for folder in folders]
    (folders[1] / "summary.json").unlink()  # as if it had been ended before it was published
    second = fgrpo(*asked)
    assert (second.exit_code, second.stdout) == (0, first.stdout)
    again = [(folder / "manifest.json").stat().st_mtime_ns for folder in folders]
    assert (again[0] == made[0], again[1] == made[1]) == (True, False)
    table = json.loads(Path("runs/benchmark", benchmark.RESULT).read_text())
    assert [cell["epsilon"] for cell in table["cells"]] == [8.0, 2.0]
    assert table["cells"][0]["runs"][0]["epsilon_spent"] > table["cells"][1]["runs"][0]["epsilon_spent"]
    other = fgrpo(*asked, "--set", "grpo.temperature=0.9")
    refusal = (
        "fgrpo: runs/benchmark/benchmark.json is of another configuration, or of other data or code; "
        "choose another --out\n"
    )
    assert (other.exit_code, other.stdout, other.stderr) == (2, "", refusal)
    (Path(folders[0].parent) / "epsilon-5-seed-1").mkdir()
    (Path(folders[0].parent) / "epsilon-5-seed-1" / "config.toml").write_text("")
    one = fgrpo("benchmark", "--epsilon", "2", *asked[5:])
    assert (one.exit_code, one.stdout) == (0, first.stdout.replace("data.\n", "data; 1 more began, and spent too.\n"))
    for name in ("data/north.jsonl", "rewards.py", "data/evaluation.jsonl"):
        was = Path(name).read_text()
        Path(name).write_text(was + "\n")
        changed = fgrpo(*asked)
        assert (changed.exit_code, changed.stderr) == (2, refusal), name
        Path(name).write_text(was)


def test_budgets_that_differ_in_the_last_digit_are_two_runs():
    assert [cell.name for cell in benchmark.cells([1.0, 1.0000001, 0.1], [])] == [
        "epsilon-1",
        "epsilon-1.0000001",
        "epsilon-0.1",
    ]


def test_a_budget_for_a_run_without_privacy_is_refused_before_anything_runs(fgrpo, tmp_path):
    refused = fgrpo("benchmark", "quickstart-no-dp", "--epsilon", "3")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "no epsilon changes anything" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def steps(source, *budgets, same_step=False):
    tried = benchmark.cells(budgets, ["uniform"])
    found = benchmark.planned(source, [], tried, 1, Path("runs/benchmark"), same_step)
    return [each.config.server.learning_rate for each in found.runs]


def test_the_step_of_each_budget_follows_what_its_noise_leaves_of_the_gain(fgrpo):
    assert steps("quickstart", "none", 8.0, 2.0) == [3.5, 3.0, 1.3]  # kept: 1, .87 and .37
    assert steps("hospitals", 8.0, 4.0, 1.0) == [300.0, 210.0, 38.0]  # chosen on problems of their own: 300, 200, 60
    assert steps("quickstart", 8.0, 2.0, same_step=True) == [3.0, 3.0]
    few = [f"client.{kind.name}.count=4" for kind in files.load("quickstart").client]
    (run,) = benchmark.planned("quickstart", few, benchmark.cells(["none"], []), 1, Path("few")).runs
    assert run.config.server.learning_rate == 9.0  # 32 clients keep a tenth of the gain; a step is at most tripled
    adam = [
        each.config
        for each in benchmark.planned("quickstart", ["server.optimizer=adam"], [*CELL_TWO], 1, Path("a")).runs
    ]
    assert [config.server.learning_rate for config in adam] == [3.0]


def test_none_is_a_budget_where_a_whole_client_is_protected_and_refused_where_units_are_smaller(fgrpo):
    (run,) = benchmark.planned("quickstart", [], benchmark.cells(["none"], []), 1, Path("runs/benchmark")).runs
    assert run.config.privacy.unit == "none"
    assert run.directory.root.name == "epsilon-none-seed-1"
    refused = fgrpo("benchmark", "hospitals", "--epsilon", "8", "--epsilon", "none")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == (
        "fgrpo: privacy.unit is 'subject', and without it clients would clip and train in another way; give a budget "
        "with hardly any noise instead, such as --epsilon 100\n"
    )


def test_a_budget_that_is_no_number_is_one_sentence(fgrpo):
    refused = fgrpo("benchmark", "quickstart", "--epsilon", "eight")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == "fgrpo: --epsilon is 'eight'; give a number above 0, or none for no privacy\n"
