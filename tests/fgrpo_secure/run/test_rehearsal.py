"""`fgrpo try`: a step on the owner's own rows in words, and what would fail in one sentence."""

import json

import pytest
from typer.testing import CliRunner

from fgrpo_secure.cli import app

REWARDS = """
def length(completions, **kw): return [float(len(c)) for c in completions]
def same(completions, **kw): return [0.5] * len(completions)
def never(completions, **kw): return [None] * len(completions)
def breaks(completions, answer, **kw): raise KeyError(answer[0])
async def later(completions, log_metric): return [float(len(c)) for c in completions]
"""
ROWS = [{"prompt": f"{number}+{number}=", "answer": f"{2 * number}"} for number in range(10, 16)]


@pytest.fixture
def tried(tmp_path):
    """Exit code and output of `fgrpo try` on one client with a file and seven with a task."""
    (tmp_path / "rw.py").write_text(REWARDS)

    def attempt(reward='"rw:length"', rows=ROWS, more="", arguments=()):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "run.toml").write_text(
            f'[[client]]\nname = "mine"\ndata = "rows.jsonl"\nreward = {reward}\n'
            '[[client]]\nname = "others"\ntask = "add"\ncount = 7\n'
            f"[privacy]\nepsilon = 60.0\n[aggregation]\nmax_dropout = 0.25\n{more}\n"
        )
        return CliRunner().invoke(app, ["try", str(tmp_path / "run.toml"), *arguments])

    return attempt


def test_a_step_is_shown_with_prompts_rewards_lengths_and_cost(tried):
    shown = tried('["rw:later", "exact"]')
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert lines[0] == "client mine: what follows is for the owner of its data"
    assert lines[1] == "prompt 1: 10+10="
    assert all(line.startswith("    [") and ", " in line for line in lines[2:4])
    for begin in (
        "reward rw.py:later: mean", "reward exact: mean", "spread: ", "completions: ", "a step of 4 x 8: ",
        "a round here: about", "update: norm", "privacy: the adapter trains 1,024 coordinates",
    ):  # fmt: skip
        assert sum(line.startswith(begin) for line in lines) == 1, begin


def test_who_trains_by_other_means_is_told_that_the_step_shown_is_not_theirs(tried):
    shown = tried('"rw:length"\ntrainer = "rw:length"')
    assert shown.exit_code == 0, shown.output
    assert "trained here by the built-in loop; in a round by rw.py:length, whose cost is its own" in shown.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"reward": '"rw:same"'}, "no group has two different rewards: nothing to learn from"),
        ({"reward": '"rw:same"'}, "it is zero: this client would send noise and nothing else"),
        ({"more": "[grpo]\nmax_completion_length = 1"}, "most are cut off: raise grpo.max_completion_length"),
        ({"rows": ROWS[:1]}, "a step of 1 x 8"),
    ],
)
def test_what_an_owner_should_know_is_said(tried, arguments, sentence):
    shown = tried(**arguments)
    assert shown.exit_code == 0, shown.output
    assert sentence in shown.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"reward": '"rw:breaks"'}, "breaks raised KeyError in rw.py, line 5; it was called with answer, prompts"),
        ({"reward": '"rw:never"'}, "there is a completion that no reward function could mark"),
        ({"reward": '"rw:none"'}, "has no 'none'"),
        ({"rows": [{"prompt": ""}]}, 'rows.jsonl, line 1 has a "prompt" that is no text or empty'),
        ({"rows": [{"prompt": [{"role": "user", "content": "PLANTED"}], "answer": "1"}]}, "has no chat template"),
        ({"rows": [{"prompt": "1" * 70, "answer": "1"}]}, "do not fit the model's context of 64"),
        ({"arguments": ["--client", "nobody"]}, "has no [[client]] nobody; it has mine, others"),
    ],
)
def test_whatever_is_wrong_is_one_sentence_without_a_traceback_or_a_row(tried, arguments, sentence):
    shown = tried(**arguments)
    assert shown.exit_code == 2, shown.output
    assert sentence in shown.output
    assert len(shown.output.strip().splitlines()) == 1
    assert "PLANTED" not in shown.output
    assert "Traceback" not in shown.output
