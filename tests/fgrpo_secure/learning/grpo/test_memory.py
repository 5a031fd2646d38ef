"""What a step is estimated to keep for each token bounds what it holds at once, with layers computed twice or not."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from fgrpo_secure.config.schema import Adapter, Grpo, Model
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.grpo import local_update, memory
from fgrpo_secure.learning.grpo.local_update import PromptGroups
from fgrpo_secure.learning.grpo.rollouts import Rollouts

PROMPTS, GROUP, READ, LENGTH = 2, 4, 8, 32


def adapted_of(words, layers, again):
    """A random model whose memory is its vocabulary's, or its layers'."""
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 2, "max_position_embeddings": 64}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=words, num_hidden_layers=layers, **sizes))
    base = models.load(Model())
    settings = base.settings.model_copy(update={"gradient_checkpointing": again})
    base = dataclasses.replace(base, model=network.eval().requires_grad_(False), settings=settings)
    return adapters.attach(base, Adapter(targets=("down_proj",)), 0)


def most_at_once(work):
    """Bytes that `work` holds at once at its peak, beside what was there."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    found = [each for each in watched.profiler.kineto_results.events() if each.name() == "[memory]"]
    return max(np.cumsum([each.nbytes() for each in sorted(found, key=lambda each: each.start_ns())]))


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(("words", "layers"), [(16384, 8), (512, 12)])
def test_an_estimate_of_memory_is_no_less_than_a_step_holds_and_at_most_four_times_as_much(words, layers, again):
    adapted = adapted_of(words, layers, again)
    draws = torch.Generator().manual_seed(1)
    ids = torch.randint(2, words, (PROMPTS * GROUP, LENGTH), generator=draws)
    asked = torch.randint(2, words, (PROMPTS, READ), generator=draws)
    cut = torch.ones(len(ids), dtype=torch.bool)
    made = Rollouts(asked, torch.ones_like(asked), ids, torch.ones_like(ids), cut, [[]] * len(ids), [""] * len(ids))
    groups = PromptGroups(made, np.random.default_rng(0).normal(size=(PROMPTS, GROUP)))
    assert memory.completions_at_once(adapted, made) == len(ids), "it goes in one"
    settings = Grpo(num_generations=GROUP, max_completion_length=LENGTH)
    held = most_at_once(lambda: local_update.run(adapted, lambda _: groups, settings, 0, 1))
    tokens = ids.numel() + READ * (len(ids) if again else PROMPTS)
    assert held <= tokens * memory.token_bytes(adapted) <= 4 * held
