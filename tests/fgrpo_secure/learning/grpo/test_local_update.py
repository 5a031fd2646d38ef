import numpy as np
import pytest
import torch

from fgrpo_secure.config.schema import Grpo
from fgrpo_secure.learning.grpo import local_update, rollouts
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.grpo.local_update import PromptGroups

GROUP = 3


def sampled(adapted, prompts, settings, seed):
    return rollouts.sample(adapted, prompts, settings, Streams(seed))


def groups_of(adapted, prompts, settings, rewards):
    """A `next_groups` that samples anew for each step."""
    return lambda step: PromptGroups(sampled(adapted, prompts, settings, step), rewards[step])


@pytest.fixture
def rewards(rng):
    return rng.normal(size=(3, 4, GROUP))


def plain_logp(adapted, drawn, temperature):
    """Log-probabilities of completion tokens, each sequence read whole and alone."""
    rows = []
    for row, ids in enumerate(drawn.ids):
        prompt = drawn.prompt_ids[row // GROUP][drawn.prompt_mask[row // GROUP].bool()]
        logits = adapted.network(input_ids=torch.cat([prompt, ids])[None]).logits[0, len(prompt) - 1 : -1]
        rows.append(torch.log_softmax(logits / temperature, -1).gather(1, ids[:, None])[:, 0])
    return torch.stack(rows)


def plain_loss(logp, old, reference, drawn, rewards, settings):
    """The dr_grpo objective, completion by completion."""
    total = 0 * logp.sum()
    for row in range(len(logp)):
        group = rewards[row // GROUP]
        advantage = (group[row % GROUP] - group.mean()) / (group.std(ddof=1) + 1e-4)
        for token in range(int(drawn.mask[row].sum())):
            if settings.mask_truncated_completions and drawn.truncated[row]:
                continue
            ratio = torch.exp(logp[row, token] - old[row, token])
            clipped = ratio.clamp(1 - settings.epsilon, 1 + settings.epsilon)
            total = total - torch.minimum(ratio * advantage, clipped * advantage)
            if settings.beta:
                gap = reference[row, token] - logp[row, token]
                total = total + settings.beta * ratio * (torch.exp(gap) - gap - 1)
    return total / (len(logp) * settings.max_completion_length)


def plain_update(adapted, prompts, settings, round_number, rewards):
    """What `run` should return, with nothing shared between passes, and no `logp.detach()` for old."""
    received = adapted.get_vector(round_number)
    parameters = adapted.trainable(round_number)
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[settings.optimizer]
    optimizer = kind(parameters, lr=settings.learning_rate)
    for step, marks in enumerate(rewards):
        drawn = sampled(adapted, prompts, settings, step)
        with torch.no_grad():
            old = plain_logp(adapted, drawn, settings.temperature)
            with adapted.reference():
                reference = plain_logp(adapted, drawn, settings.temperature)
        for _ in range(settings.num_iterations):
            optimizer.zero_grad()
            logp = plain_logp(adapted, drawn, settings.temperature)
            plain_loss(logp, old, reference, drawn, marks, settings).backward()
            gradients = [parameter.grad for parameter in parameters]
            norm = torch.sqrt(sum((gradient**2).sum() for gradient in gradients))
            if settings.max_grad_norm is not None and norm > settings.max_grad_norm:
                for gradient in gradients:
                    gradient *= settings.max_grad_norm / (norm + 1e-6)
            optimizer.step()
    update = adapted.get_vector(round_number) - received
    adapted.set_vector(round_number, received)
    return update


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_iterations": 3, "learning_rate": 0.05},
        {"beta": 0.5},
        {"temperature": 0.6, "max_grad_norm": 0.01},
        {"max_grad_norm": None, "mask_truncated_completions": True, "max_completion_length": 12},
    ],
    ids=str,
)
@pytest.mark.parametrize("factors", ["ffa", "alternate", "full"])
def test_the_update_is_that_of_plain_training(make_adapted, prompts, rewards, options, factors):
    adapted = make_adapted(factors=factors)
    settings = Grpo(
        **{"num_generations": GROUP, "max_completion_length": 4, "optimizer": "sgd", "learning_rate": 0.2, **options}
    )
    found = local_update.run(adapted, groups_of(adapted, prompts, settings, rewards), settings, 1, len(rewards))
    expected = plain_update(adapted, prompts, settings, 1, rewards)
    assert found.shape == (adapted.dimension(1),)
    assert np.abs(expected).max() > 1e-4
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def test_adam_starts_afresh_in_every_round(make_adapted, prompts, rewards, settings):
    adapted = make_adapted()
    groups = groups_of(adapted, prompts, settings, rewards)
    first = local_update.run(adapted, groups, settings, 0, 2)
    assert np.array_equal(local_update.run(adapted, groups, settings, 0, 2), first)
    one_step = local_update.run(adapted, groups, settings.model_copy(update={"max_grad_norm": None}), 0, 1)
    moved = one_step[np.abs(one_step) > 1e-9]
    # Adam's first step moves every coordinate by its learning rate
    assert np.median(np.abs(moved)) == pytest.approx(settings.learning_rate, rel=1e-2)


def test_the_policy_comes_back_as_it_was_received(make_adapted, prompts, rewards, settings):
    adapted = make_adapted()
    digest = adapted.adapter_digest()
    update = local_update.run(adapted, groups_of(adapted, prompts, settings, rewards), settings, 0, 2)
    assert np.abs(update).max() > 0
    assert adapted.adapter_digest() == digest
    assert all(parameter.grad is None for parameter in adapted.model.parameters())


def test_the_policy_comes_back_as_it_was_received_even_if_a_step_fails(make_adapted, prompts, rewards, settings):
    adapted = make_adapted()
    digest = adapted.adapter_digest()
    groups = groups_of(adapted, prompts, settings, rewards)

    def fail_later(step):
        if step == 1:
            assert adapted.adapter_digest() != digest
            raise LookupError
        return groups(step)

    with pytest.raises(LookupError):
        local_update.run(adapted, fail_later, settings, 0, 2)
    assert adapted.adapter_digest() == digest


def test_each_step_samples_from_what_the_step_before_learned(make_adapted, prompts, rewards, settings):
    adapted = make_adapted()
    seen = []

    def watch(step):
        seen.append(adapted.adapter_digest())
        return groups_of(adapted, prompts, settings, rewards)(step)

    local_update.run(adapted, watch, settings, 0, 3)
    assert len(set(seen)) == 3


def test_equal_rewards_teach_nothing(make_adapted, prompts, settings):
    adapted = make_adapted()
    groups = groups_of(adapted, prompts, settings, np.ones((1, 4, GROUP)))
    assert not local_update.run(adapted, groups, settings, 0, 1).any()


def test_rewarded_tokens_become_more_likely(make_adapted):
    adapted = make_adapted(moved=0)
    settings = Grpo(num_generations=16, max_completion_length=2, learning_rate=0.02)

    def pay_for_sevens(step):
        drawn = sampled(adapted, ["1=", "2="], settings, step)
        return PromptGroups(drawn, np.array([float("7" in text) for text in drawn.completions]).reshape(2, 16))

    def share_of_sevens():
        many = settings.model_copy(update={"num_generations": 400})
        return np.mean(["7" in text for text in sampled(adapted, ["1=", "2="], many, 99).completions])

    before = share_of_sevens()
    adapted.set_vector(0, adapted.get_vector(0) + local_update.run(adapted, pay_for_sevens, settings, 0, 12))
    assert share_of_sevens() > before + 0.2


def test_showing_prompt_groups_prints_nothing_of_them(make_adapted, prompts, settings, rewards):
    groups = groups_of(make_adapted(), prompts, settings, rewards)(0)
    assert repr(groups) == "PromptGroups()"
