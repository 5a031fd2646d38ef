"""An owner sees its own rounds, in figures that were computed by hand, and nobody else does."""

import importlib
import json
import pkgutil
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from fgrpo_secure import client, learning
from fgrpo_secure.client import own_view
from fgrpo_secure.client.owner import make_owners
from fgrpo_secure.config.files import parse
from fgrpo_secure.config.schema import Adapter, Model
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.grpo import local_update, rollouts
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.plan import round_settings


@pytest.fixture(scope="module")
def adapted():
    return adapters.attach(models.load(Model()), Adapter(), 0)


def config(**grpo):
    table = {"num_generations": 4, "prompts_per_step": 3, **grpo}
    client = {"name": "mine", "task": "add", "reward": "partial", "reward_scale": 2.0}
    return parse(
        {"client": [client], "grpo": table, "federation": {"local_steps": 2}, "privacy": {"unit": "none"}}, "t"
    )


def train(adapted, folder, chosen, training_round=0):
    (owner,) = make_owners(chosen.client, 0, {0}, folder).values()
    trained = owner.train(adapted, round_settings.for_round(chosen, training_round, 0))
    return owner, trained


def test_a_round_is_kept_with_the_figures_of_its_own_rollouts(adapted, tmp_path):
    chosen = config(beta=0.1, num_iterations=2, learning_rate=0.05)
    owner, trained = train(adapted, tmp_path, chosen)
    (kept,) = own_view.read(owner.log)
    drawn = Streams(owner.rollout_seed(round_settings.for_round(chosen, 0, 0), "0"))
    rows = owner.source.batch(0, 0, 3)
    first = rollouts.sample(adapted, [row["prompt"] for row in rows], chosen.grpo, drawn)
    logp = local_update.completion_logp(adapted, first, 1.0).detach()
    entropy = float(-(logp * first.mask).sum() / first.mask.sum())
    assert kept.round == 1
    assert kept.prompts == 6
    assert 0 < kept.differing <= 6
    assert 0 <= kept.reward_low <= kept.reward <= kept.reward_high <= 2, "in the owner's scale"
    assert kept.entropy == pytest.approx(entropy, rel=0.5), "of both steps together; this is the first's"
    assert 1 <= kept.length <= 8
    assert kept.kl is not None
    assert kept.kl > 0, "the second step's policy is no longer the reference"
    assert kept.clip_ratio is not None
    assert 0 < kept.clip_ratio < 1
    assert kept.norm == pytest.approx(np.linalg.norm(trained.update))


def test_one_step_has_the_entropy_of_exactly_its_own_tokens_and_no_ratio(adapted, tmp_path):
    chosen = config().model_copy(update={"federation": config().federation.model_copy(update={"local_steps": 1})})
    owner, _ = train(adapted, tmp_path, chosen)
    (kept,) = own_view.read(owner.log)
    drawn = Streams(owner.rollout_seed(round_settings.for_round(chosen, 0, 0), "0"))
    rows = owner.source.batch(0, 0, 3)
    first = rollouts.sample(adapted, [row["prompt"] for row in rows], chosen.grpo, drawn)
    logp = local_update.completion_logp(adapted, first, 1.0).detach()
    assert kept.entropy == pytest.approx(float(-(logp * first.mask).sum() / first.mask.sum()), rel=1e-5)
    assert kept.length == pytest.approx(np.mean([len(ids) for ids in first.completion_ids]))
    assert kept.cut_off == pytest.approx(float(first.truncated.float().mean()))
    assert (kept.kl, kept.clip_ratio) == (None, None)


def test_the_completions_that_are_kept_are_the_best_and_the_worst_of_the_prompt_that_teaches_most(adapted, tmp_path):
    owner, _ = train(adapted, tmp_path, config())
    (kept,) = own_view.read(owner.log)
    best, worst = kept.completions
    assert best.prompt == worst.prompt
    assert best.prompt in {row["prompt"] for step in (0, 1) for row in owner.source.batch(0, step, 3)}
    assert best.reward > worst.reward
    assert best.prompt not in repr(kept) + repr(best)
    assert str(kept.reward) not in repr(kept)
    assert kept.reward_low <= worst.reward
    assert (best.cut_off, worst.cut_off) == (len(best.text) >= 8, len(worst.text) >= 8)


def test_what_a_model_said_stands_in_the_file_on_one_line_and_commands_no_terminal(adapted):
    chosen, drawn = config(), Streams(3)
    settings = round_settings.for_round(chosen, 0, 0)
    first = rollouts.sample(adapted, ["1+1="], chosen.grpo, drawn)
    said = replace(first, completions=["\x1b[2J\n" + "9" * 1000] * 4)
    marked = local_update.PromptGroups(said, np.array([[1.0, 0.5, 0.0, 0.0]]))
    unmarked = local_update.PromptGroups(first, np.array([[9.0, np.nan, 0.0, 0.0]]))
    tally = local_update.Tally(tokens=1.0, lengths=[1.0])
    view = own_view.of([unmarked, marked], tally, adapted.base.tokenizer, settings)
    assert [each.reward for each in view.completions] == [1.0, 0.0]
    for each in view.completions:
        assert each.text.startswith("\\x1b[2J\\n999")
        assert len(each.text) < 330


def test_counting_along_changes_no_update(adapted):
    chosen, drawn = config(beta=0.1, num_iterations=2), Streams(3)
    first = rollouts.sample(adapted, ["1+1=", "2+2="], chosen.grpo, drawn)
    groups = local_update.PromptGroups(first, np.random.default_rng(1).normal(size=(2, 4)))
    plain = local_update.run(adapted, lambda _: groups, chosen.grpo, 0, 2)
    counted = local_update.run(adapted, lambda _: groups, chosen.grpo, 0, 2, local_update.Tally())
    assert np.array_equal(plain, counted)


def test_a_round_that_teaches_nothing_says_so_and_a_torn_line_is_left_out(tmp_path):
    usual = own_view.RoundView(1, 0.5, 0.0, 1.0, 4, 2, 5.0, 0.1, 1.2, None, None, 0.5, 1.0)
    assert usual.warning() == ""
    same = {field: getattr(usual, field) for field in usual.__struct_fields__}
    assert "nothing was learnt" in own_view.RoundView(**{**same, "differing": 0}).warning()
    assert "noise was sent and nothing else" in own_view.RoundView(**{**same, "norm": 0.0}).warning()
    assert "50 times as long" in own_view.RoundView(**{**same, "norm": 50.0}).warning()
    log = tmp_path / "client.log"
    own_view.append(log, usual)
    with own_view.path_beside(log).open("a") as file:
        file.write(json.dumps({"round": 2})[:-3] + "\n")
    own_view.append(log, usual)
    assert list(own_view.read(log)) == [usual, usual]
    assert own_view.path_beside(log).stat().st_mode & 0o077 == 0
    assert str(usual.reward) not in repr(local_update.Tally(tokens=0.5))


def test_a_view_that_cannot_be_made_costs_no_round(adapted, tmp_path, monkeypatch):
    monkeypatch.setattr(own_view, "of", lambda *_: 1 / 0)
    owner, trained = train(adapted, tmp_path, config())
    assert np.linalg.norm(trained.update) > 0
    assert "no view of it was kept: ZeroDivisionError" in owner.log.read_text()


def test_a_folder_that_cannot_be_written_ends_no_round(adapted, tmp_path):
    (tmp_path / "mine.rounds.jsonl").mkdir()
    _, trained = train(adapted, tmp_path, config())
    assert np.isfinite(trained.update).all()


def test_no_struct_of_an_owners_side_shows_its_fields():
    """A struct's own text form prints every field, secret or not; it has no `repr=False` for one."""
    found = []
    for package in (client, learning):
        for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not each.name.endswith(("worker", "trl_trainer", "make_base_model")):  # programs
                module = importlib.import_module(each.name)
                found += [made for made in vars(module).values() if getattr(made, "__module__", "") == each.name]
    structs = [each for each in found if isinstance(each, type) and issubclass(each, msgspec.Struct)]
    assert len(structs) >= 4
    assert [each for each in structs if each.__repr__ is msgspec.Struct.__repr__] == []
