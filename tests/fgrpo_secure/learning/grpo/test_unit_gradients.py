"""One unit's gradient: that of its own groups, the same by a loop over groups and by Opacus' per-sample hooks."""

import numpy as np
import pytest
import torch
from opacus import GradSampleModule

from fgrpo_secure.learning.grpo import local_update, rollouts, unit_gradients
from fgrpo_secure.learning.grpo.advantages import group_advantages
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.grpo.local_update import PromptGroups

GROUP = 3


def groups_of(adapted, prompts, settings, seed=2):
    drawn = rollouts.sample(adapted, prompts, settings, Streams(seed))
    return PromptGroups(drawn, np.random.default_rng(seed).normal(size=(len(prompts), GROUP)))


def close(ours, theirs):
    return np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


@pytest.mark.parametrize("factors", ["ffa", "alternate", "full"])
def test_a_subjects_gradient_is_the_sum_of_its_prompt_groups_gradients(make_adapted, factors, prompts, settings):
    """Each group once more by itself, unpadded: one backward per group."""
    adapted = make_adapted(factors=factors)
    groups = groups_of(adapted, prompts, settings)
    together = unit_gradients.descent(adapted, groups, settings, 1)
    parts = []
    for index, prompt in enumerate(prompts):
        alone = adapted.base.tokenizer([prompt], return_tensors="pt")
        rows = slice(GROUP * index, GROUP * (index + 1))
        drawn = groups.rollouts
        part = rollouts.Rollouts(
            alone["input_ids"], alone["attention_mask"], drawn.ids[rows], drawn.mask[rows], drawn.truncated[rows],
            drawn.completion_ids[rows], drawn.completions[rows],
        )  # fmt: skip
        parts.append(
            unit_gradients.descent(adapted, PromptGroups(part, groups.rewards[index : index + 1]), settings, 1)
        )
    assert together.shape == (adapted.dimension(1),)
    assert close(together, sum(parts))


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")  # what Opacus' hooks are
def test_opacus_hooks_give_the_same_gradients_of_every_group(make_adapted, prompts, settings):
    """The oracle reads whole sequences, without cache; its per-completion gradients are added up by group."""
    adapted = make_adapted("llama", "ffa")
    prompts = ["12+3=", "4-b+7", "1+1+1"]  # of one length: nothing is padded
    groups = groups_of(adapted, prompts, settings)
    ours = unit_gradients.descent(adapted, groups, settings, 0)
    drawn = groups.rollouts
    advantages = group_advantages(torch.from_numpy(groups.rewards), "group").flatten().float()
    parameters = adapted.trainable(0)
    hooked = GradSampleModule(
        adapted.model, strict=False, loss_reduction="sum"
    ).train()  # its hooks sleep in evaluation
    sequences = torch.cat([drawn.prompt_ids.repeat_interleave(GROUP, dim=0), drawn.ids], dim=1)
    start = drawn.prompt_ids.shape[1] - 1
    with torch.enable_grad():
        logits = hooked(input_ids=sequences).logits[:, start:-1].float()
        logp = torch.log_softmax(logits, -1).gather(2, drawn.ids[..., None])[..., 0]
        (logp * drawn.mask * advantages[:, None]).sum().backward()
    samples = torch.cat([parameter.grad_sample.flatten(1) for parameter in parameters], dim=1)
    scale = GROUP * settings.max_completion_length  # dr_grpo: a constant, whatever was sampled
    by_group = samples.view(len(prompts), GROUP, -1).sum(1).double().numpy() / scale
    hooked.remove_hooks()
    assert np.linalg.norm(by_group, axis=1).min() > 1e-4, "a group without gradient would show nothing"
    assert close(ours, by_group.sum(0))


def test_the_policy_and_its_gradients_are_left_as_they_were(make_adapted, prompts, settings):
    adapted = make_adapted()
    before = adapted.get_vector(0)
    unit_gradients.descent(adapted, groups_of(adapted, prompts, settings), settings, 0)
    assert (adapted.get_vector(0) == before).all()
    assert all(parameter.grad is None for parameter in adapted.trainable(0))


def test_the_loss_of_fresh_rollouts_is_what_a_first_local_step_descends(make_adapted, prompts, settings):
    adapted = make_adapted()
    groups = groups_of(adapted, prompts, settings)
    plain = settings.model_copy(update={"optimizer": "sgd", "learning_rate": 1.0, "max_grad_norm": None})
    step = local_update.run(adapted, lambda _: groups, plain, 0, 1)
    assert close(unit_gradients.descent(adapted, groups, settings, 0) / len(prompts), step)
