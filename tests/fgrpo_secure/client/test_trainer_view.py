"""An owner sees the rounds of its own trainer as far as that says something, and nobody else does."""

from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from fgrpo_secure.cli import client_watch
from fgrpo_secure.client import own_view
from fgrpo_secure.client.foreign_training import Taught
from fgrpo_secure.client.owner import make_owners
from fgrpo_secure.config.files import load
from fgrpo_secure.config.schema import Adapter, Model
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.plan import round_settings

OWN = """
import torch

def move(lesson):
    with torch.no_grad():
        next(each for each in lesson.adapter.parameters() if each.requires_grad).flatten()[0] += 3.0

def silent(lesson):
    move(lesson)

def pays(lesson):
    move(lesson)
    return [0.0, 1.0, 0.5]

def tells(lesson):
    move(lesson)
    lesson.log.update(reward=0.25, reward_spread=0.5, alike=0.75, entropy=1.5, length=float("nan"))
    lesson.log.update(kl="much", clip_ratio=10**400, nonsense=1.0)
"""
CONFIG = """
[federation]
local_steps = 2
[grpo]
num_generations = 4
prompts_per_step = 4
max_completion_length = 4
beta = 0.1
[privacy]
unit = "none"
[[client]]
name = "mine"
task = "add"
reward_scale = 2.0
"""


@pytest.fixture(scope="module")
def adapted():
    return adapters.attach(models.load(Model()), Adapter(), 0)


@pytest.fixture
def view(adapted, tmp_path):
    """The view of one round by a trainer, and the length of its update."""

    def made(trainer):
        (tmp_path / "own.py").write_text(OWN)
        (tmp_path / "run.toml").write_text(CONFIG + f'trainer = "{trainer}"\n')
        config = load(str(tmp_path / "run.toml"))
        (owner,) = make_owners(config.client, 0, {0}, tmp_path / "owners").values()
        trained = owner.train(adapted, round_settings.for_round(config, 0, 0))
        (kept,) = own_view.read(owner.log)
        assert own_view.path_beside(owner.log).stat().st_mode & 0o077 == 0
        return kept, np.linalg.norm(trained.update)

    return made


UNSAID = ("differing", "length", "cut_off", "entropy", "kl", "clip_ratio", "reward_spread")


def test_of_a_function_there_is_what_it_returned_and_what_was_measured(view):
    kept, norm = view("own:silent")
    assert norm == pytest.approx(3.0)
    assert kept.norm == pytest.approx(3.0)
    assert (kept.round, kept.prompts, kept.trainer) == (1, 8, "own.py:silent")
    assert kept.seconds > 0.1
    assert [getattr(kept, name) for name in (*UNSAID, "reward", "reward_low")] == [None] * 9
    assert kept.warning() == ""


def test_rewards_that_a_function_returns_are_shown_in_the_owners_scale(view):
    kept, _ = view("own:pays")
    assert (kept.reward, kept.reward_low, kept.reward_high) == (1.0, 0.0, 2.0)
    assert [getattr(kept, name) for name in UNSAID] == [None] * 7


def test_what_a_function_logs_is_shown_and_what_is_no_figure_costs_no_round(view):
    kept, norm = view("own:tells")
    assert norm == pytest.approx(3.0)
    assert (kept.reward, kept.reward_spread, kept.differing, kept.entropy) == (0.5, 1.0, 2, 1.5)
    assert (kept.length, kept.kl, kept.clip_ratio) == (None, None, None)
    assert "0.5" not in repr(kept) + repr(Taught(np.ones(1), np.ones((1, 1)), {"reward": 0.5}))


@pytest.mark.slow
def test_of_trls_trainer_there_is_what_it_logs(view):
    pytest.importorskip("trl")
    kept, norm = view("trl")
    assert kept.trainer == "trl"
    assert kept.norm == pytest.approx(norm)
    assert 0 <= kept.reward <= 2
    assert kept.reward_spread >= 0
    assert 0 <= kept.differing <= 8
    assert 1 <= kept.length <= 4
    assert 0 <= kept.cut_off <= 1
    assert kept.entropy > 0
    assert kept.kl >= 0
    assert kept.completions == ()


def test_trls_figures_are_means_over_the_rounds_steps():
    pytest.importorskip("trl")
    from fgrpo_secure.learning.trainers import lesson, trl_trainer

    assert tuple(trl_trainer.NAMES) == lesson.LOGGED
    history = [
        {"reward": 0.25, "reward_std": 0.5, "kl": 0.1, "frac_reward_zero_std": 1.0, "loss": 3.0},
        {"reward": 0.75, "reward_std": 0.5, "frac_reward_zero_std": 0.5, "completions/mean_length": 3.5},
        {"train_runtime": 9.0},
    ]
    expected = {"reward": 0.5, "reward_spread": 0.5, "alike": 0.75, "length": 3.5, "kl": 0.1}
    assert trl_trainer._means(history) == expected


def test_a_table_of_both_kinds_of_rounds_has_columns_for_both_and_a_dash_for_what_nobody_knows():
    built_in = own_view.RoundView(1, 0.5, 0.0, 1.0, 4, 2, 5.0, 0.1, 1.2, None, None, 0.5, 1.0)
    ours = dict.fromkeys(built_in.__struct_fields__)
    ours |= {
        "round": 2,
        "prompts": 8,
        "norm": 3.0,
        "clip_norm": 1.0,
        "seconds": 12.25,
        "trainer": "trl",
        "reward": 0.625,
    }

    def shown(*rounds):
        console = Console(file=StringIO(), width=160)
        console.print(client_watch._table(rounds))
        return console.file.getvalue()

    both = shown(built_in, own_view.RoundView(**ours))
    for words in ("spread", "seconds", "12.2", "0.625", "- of 8", "3 / 1"):
        assert words in both, words
    assert "seconds" not in shown(built_in)
