"""A step that is too large for one backward pass goes in parts, whose gradients add up to the whole's."""

import numpy as np
import pytest
import torch

from fgrpo_secure.config.schema import Grpo
from fgrpo_secure.learning.grpo import local_update, memory, rollouts, unit_gradients
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.grpo.local_update import PromptGroups

PROMPTS = ["12+3=", "4-b", "1+1+1+1="]
GROUP = 4


def groups_of(adapted, settings):
    drawn = rollouts.sample(adapted, PROMPTS, settings, Streams(2))
    return PromptGroups(drawn, np.random.default_rng(2).normal(size=(len(PROMPTS), GROUP)))


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "bnpo", "dapo"])
@pytest.mark.parametrize("at_once", [4, 2, 1])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_parts_of_any_size_give_the_wholes_gradient(make_adapted, monkeypatch, loss_type, at_once, level):
    settings = Grpo(
        num_generations=GROUP, max_completion_length=9, loss_type=loss_type, importance_sampling_level=level,
        beta=0.3, mask_truncated_completions=True, num_iterations=2, learning_rate=0.05,
    )  # fmt: skip
    adapted = make_adapted(factors="full")
    groups = groups_of(adapted, settings)
    whole = local_update.run(adapted, lambda step: groups, settings, 0, 1)
    monkeypatch.setattr(memory, "completions_at_once", lambda adapted, rollouts: at_once)
    parts = local_update.run(adapted, lambda step: groups, settings, 0, 1)
    assert np.abs(whole).max() > 0.01
    assert np.linalg.norm(parts - whole) < 2e-3 * np.linalg.norm(whole)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "bnpo", "dapo"])
@pytest.mark.parametrize("at_once", [4, 2, 1])
def test_in_double_precision_parts_give_the_wholes_gradient_to_a_millionth(
    make_adapted, monkeypatch, loss_type, at_once
):
    settings = Grpo(num_generations=GROUP, max_completion_length=9, loss_type=loss_type, beta=0.3)
    adapted = make_adapted(factors="full")
    groups = groups_of(adapted, settings)
    adapted.model.double()
    parameters = adapted.trainable(0)
    whole = local_update.gradients(adapted, parameters, groups, settings, 1)
    monkeypatch.setattr(memory, "completions_at_once", lambda adapted, rollouts: at_once)
    parts = local_update.gradients(adapted, parameters, groups, settings, 1)
    assert all(each.dtype == torch.float64 for each in whole)
    assert max(float(each.abs().max()) for each in whole) > 1e-3
    for one, other in zip(whole, parts, strict=True):
        assert float((one - other).norm()) <= 1e-6 * float(one.norm())


def test_parts_of_a_unit_give_the_units_gradient(make_adapted, monkeypatch):
    settings = Grpo(num_generations=GROUP, max_completion_length=9)
    adapted = make_adapted()
    groups = groups_of(adapted, settings)
    whole = unit_gradients.descent(adapted, groups, settings, 0)
    monkeypatch.setattr(memory, "completions_at_once", lambda adapted, rollouts: 2)
    parts = unit_gradients.descent(adapted, groups, settings, 0)
    assert np.linalg.norm(parts - whole) < 1e-5 * np.linalg.norm(whole)


@pytest.mark.parametrize("fits", [1, 2, 3, 4, 5, 8, 12])
def test_a_part_is_whole_groups_or_an_equal_piece_of_one_and_fits_if_one_completion_does(
    make_adapted, monkeypatch, fits
):
    settings = Grpo(num_generations=GROUP, max_completion_length=9)
    adapted = make_adapted()
    drawn = groups_of(adapted, settings).rollouts
    read, tokens = drawn.prompt_ids.shape[1], drawn.ids.shape[1]
    prompts = -(-fits // GROUP)
    monkeypatch.setattr(memory, "STEP_BYTES", memory.token_bytes(adapted) * (fits * tokens + prompts * read))
    size = memory.completions_at_once(adapted, drawn)
    assert len(PROMPTS) * GROUP % size == 0
    assert size % GROUP == 0 or GROUP % size == 0
    assert size == {1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 8: 4, 12: 12}[fits]


def test_steps_of_the_shipped_model_go_in_one(make_adapted):
    adapted = make_adapted()
    drawn = rollouts.sample(adapted, ["1+1="] * 64, Grpo(num_generations=16), Streams(1))
    assert memory.completions_at_once(adapted, drawn) == 1024
