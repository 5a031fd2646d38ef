"""What a user can get wrong on the command line: one sentence, exit 2, nothing lost and nothing left behind."""

import json

import pytest
from typer.testing import CliRunner

from fgrpo_secure.cli import app

MINIMAL = "".join(f'[[client]]\nname = "c{i}"\ntask = "add"\n' for i in range(8)) + (
    "[federation]\nrounds = 1\n[evaluation]\nprompts = 2\nsamples = 1\n[aggregation]\nmax_dropout = 0.25\n"
)
FILE = '[[client]]\nname = "own"\ndata = "rows.jsonl"\nreward = "exact"\n' + MINIMAL


@pytest.fixture
def fgrpo(tmp_path, monkeypatch):
    """Runs a command in an empty folder; gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, text=None):
        if text is not None:
            (tmp_path / "c.toml").write_text(text)
        result = CliRunner().invoke(app, list(arguments))
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.stdout, result.stderr

    return call


def refused(outcome, *words):
    code, _, error = outcome
    lines = [line for line in error.splitlines() if line.startswith("fgrpo: ")]
    assert code == 2
    assert len(lines) == 1
    assert "Traceback" not in error
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MINIMAL + "[grpo]\nnum_generation = 4\n", ("c.toml, line 33: grpo.num_generation", "num_generations")),
        (MINIMAL + "[server]\nmomentum = 'much'\n", ("c.toml, line 33: server.momentum",)),
        (MINIMAL.replace("0.25", "0.6"), ("max_dropout = 0.6", "nearest feasible")),
        (MINIMAL + "[privacy]\nepsilon = 5000.0\n", ("epsilon = 5000", "nearest feasible")),
        (
            MINIMAL.replace("rounds = 1", "rounds = 9\nmax_rounds_per_client = 2"),
            ("participations", "nearest feasible"),
        ),
        (MINIMAL + "[model]\npath = 'nowhere'\n", ("model.path 'nowhere'",)),
        (MINIMAL + "[adapter]\ntargets = ['no_proj']\n", ("adapter.targets", "no_proj")),
        (MINIMAL + "[grpo]\nmax_completion_length = 4000\n", ("context",)),
        (MINIMAL.replace('task = "add"', 'task = "ad"', 1), ("'ad'", "add")),
        (MINIMAL.replace('task = "add"', 'task = "add"\nreward = "nowhere:f"', 1), ("nowhere",)),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_made(fgrpo, tmp_path, text, words):
    refused(fgrpo("run", "c.toml", "--out", "out", text=text), *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.toml"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("{not json\n", ("rows.jsonl", "1")),
        ('{"prompt": "1+1=", "answer": "2"}\n[]\n', ("rows.jsonl", "2")),
        ('{"question": "1+1="}\n', ("rows.jsonl", "prompt")),
        ("", ("rows.jsonl",)),
        (json.dumps({"prompt": "1" * 500, "answer": "2"}) + "\n", ("context",)),
    ],
)
def test_data_that_cannot_be_used_is_refused_with_file_and_line(fgrpo, tmp_path, rows, words):
    (tmp_path / "rows.jsonl").write_text(rows)
    refused(fgrpo("run", "c.toml", "--out", "out", text=FILE), *words)
    assert not (tmp_path / "out").exists()


def test_a_model_folder_without_weights_is_refused(fgrpo, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    refused(fgrpo("run", "c.toml", text=MINIMAL + "[model]\npath = 'model'\n"), "weights")


def test_a_run_directory_that_holds_a_run_is_not_touched(fgrpo, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.toml").write_text("kept")
    refused(fgrpo("run", "c.toml", "--out", "out", text=MINIMAL + "[privacy]\nunit = 'none'\n"), "holds a run already")
    assert (tmp_path / "out" / "config.toml").read_text() == "kept"


def test_resume_wants_a_run_and_nothing_else(fgrpo, tmp_path):
    refused(fgrpo("run", "--resume", "nowhere"), "nowhere holds no run")
    refused(fgrpo("run", "quickstart", "--resume", "nowhere"), "keeps its own configuration")


def test_the_plan_of_a_preset_is_one_json_object_with_every_promised_key(fgrpo):
    code, out, _ = fgrpo("plan", "quickstart", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["privacy.epsilon_server"] == facts["privacy.epsilon_release"] <= 8
    assert facts["verdict"] == "can learn"
    assert {
        "privacy.delta",
        "privacy.noise_multiplier",
        "privacy.mu_server",
        "aggregation.colluders",
        "aggregation.quorum",
        "aggregation.neighbours",
        "aggregation.threshold",
        "aggregation.graph",
        "aggregation.ring_bits",
        "aggregation.minimum_survivors",
        "bytes.up_per_client_per_round",
        "bytes.down_per_client_per_round",
        "adapter.dimension",
        "adapter.useful_dimension",
    } <= set(facts)


def test_a_finished_run_leaves_every_promised_file_and_figure(fgrpo, tmp_path):
    code, _, _ = fgrpo(
        "run", "c.toml", "--out", "out", text=MINIMAL + "[privacy]\nepsilon = 90.0\n[adapter]\nrank = 1\n"
    )
    assert code == 0
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.toml", "metrics.jsonl", "summary.json", "adapter", "ledger.sqlite"} <= left
    assert (tmp_path / "out.server" / "checkpoints").is_dir(), "working state lies beside what is handed over"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    for key in [
        "rounds",
        "clients",
        "reward.initial",
        "reward.final",
        "pass_rate.initial",
        "pass_rate.final",
        "pass_rate.greedy_initial",
        "pass_rate.greedy_final",
        "privacy.unit",
        "privacy.epsilon_server",
        "privacy.epsilon_release",
        "privacy.delta",
        "weighting.rule",
        "aggregation.adversary",
        "aggregation.neighbours",
        "aggregation.threshold",
        "aggregation.ring_bits",
        "bytes.up_per_client_per_round",
        "dropouts",
        "seconds.total",
        "seconds.aggregation",
    ]:
        assert summary[key] is not None, key
