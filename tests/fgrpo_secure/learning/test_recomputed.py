"""Layers that are computed twice give the gradients of layers whose values were kept, in families of every kind."""

import dataclasses

import pytest
import torch

from fgrpo_secure.config.own_file import Machine, OwnFile
from fgrpo_secure.config.schema import Adapter, Grpo, Model
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.grpo import forward, local_update, memory
from fgrpo_secure.learning.grpo.local_update import completion_logp
from fgrpo_secure.learning.grpo.rollouts import Rollouts
from fgrpo_secure.learning.models import ModelError
from tests.fgrpo_secure.learning.families import COMPLETION, GROUP, VOCABULARY, small
from tests.fgrpo_secure.learning.test_families import CACHE, ROWS

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's, about families as small as these


def batch(vocabulary, prompt=12, completion=COMPLETION, prompts=2):
    draws = torch.Generator().manual_seed(1)
    asked = torch.randint(2, vocabulary, (prompts, prompt), generator=draws)
    mask = torch.ones_like(asked)
    mask[0, :5] = 0
    ids = torch.randint(2, vocabulary, (prompts * GROUP, completion), generator=draws)
    return Rollouts(asked, mask, ids, torch.ones_like(ids), torch.ones(len(ids), dtype=torch.bool), [], [])


def gradients(network, again):
    """Of all weights, by a loss that weighs every token differently."""
    given = batch(VOCABULARY)
    weights = [each for each in network.parameters() if each.requires_grad]
    rows = forward.PlainRows(network, given.prompt_ids, given.prompt_mask, GROUP)
    if again:
        with forward.recomputed(network):
            logits = rows.follow(given.ids)
    else:
        logits = rows.follow(given.ids)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    return torch.autograd.grad((logits.log_softmax(-1) * direction).sum(), weights, allow_unused=True)


@pytest.mark.parametrize("family", [*CACHE, *ROWS, "gpt2", "opt", "qwen2_moe", "gemma3_text", "cohere"])
def test_gradients_of_every_kind_of_model_are_the_same_to_a_millionth(family):
    network = small(family)
    assert forward.recomputable(network)
    kept, again = (gradients(network, each) for each in (False, True))
    assert sum(each is not None for each in kept) > 4
    for one, other in zip(kept, again, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert float((one - other).norm()) <= 1e-6 * float(one.norm()) + 1e-12
    assert not any("forward" in vars(layer) for layer in forward.recomputable(network))


def kept_bytes(work):
    """Bytes that stay for a backward pass once `work` has returned, each storage once, and the gradients then."""
    seen = {}

    def keep(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = work()
    return sum(seen.values()), value


@pytest.mark.parametrize("factors", ["ffa", "full"])
def test_a_step_that_computes_twice_has_the_same_gradient_and_keeps_less(model_folders, factors):
    found = []
    for again in (False, True):
        base = models.load(Model(path=model_folders["llama"], gradient_checkpointing=again))
        adapted = adapters.attach(base, Adapter(targets=("o_proj", "down_proj"), factors=factors), seed=3)
        adapted.model.double()
        parameters = adapted.trainable(0)
        with torch.no_grad():
            for index, parameter in enumerate(parameters):
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
                parameter += 0.3 * noise
        given = batch(18, prompt=6, completion=36)
        frozen = sum(each.untyped_storage().nbytes() for each in adapted.model.parameters())
        kept, logp = kept_bytes(lambda adapted=adapted, given=given: completion_logp(adapted, given, 0.7))
        direction = torch.randn(logp.shape, generator=torch.Generator().manual_seed(2))
        found.append((max(0, kept - frozen), torch.autograd.grad((logp * direction).sum(), parameters)))
        with torch.no_grad():
            reference = completion_logp(adapted, given, 0.7)
        torch.testing.assert_close(reference, logp.detach())
    (whole, kept), (less, again) = found
    for one, other in zip(kept, again, strict=True):
        assert float((one - other).norm()) <= 1e-6 * float(one.norm())
    assert less < whole / 3


def test_more_completions_go_in_one_backward_pass_where_layers_are_computed_twice(make_adapted, monkeypatch):
    adapted, given = make_adapted(), batch(18, prompt=4, completion=30, prompts=4)
    monkeypatch.setattr(memory, "STEP_BYTES", 300_000)
    usual = memory.completions_at_once(adapted, given)
    settings = adapted.base.settings.model_copy(update={"gradient_checkpointing": True})
    adapted.base = dataclasses.replace(adapted.base, settings=settings)
    assert usual < memory.completions_at_once(adapted, given)


def test_a_model_without_layers_that_can_be_computed_twice_is_refused(model_folders, monkeypatch):
    monkeypatch.setattr(forward, "recomputable", lambda _: [])
    models.load(Model(path=model_folders["llama"]))
    with pytest.raises(ModelError, match="gradient_checkpointing: LlamaForCausalLM has no layers"):
        models.load(Model(path=model_folders["llama"], gradient_checkpointing=True))


def test_the_choice_is_each_owners_own():
    own = OwnFile(name="mine", machine=Machine(gradient_checkpointing=True))
    assert own.model(Model()).gradient_checkpointing
    assert not OwnFile(name="mine").model(Model(gradient_checkpointing=True)).gradient_checkpointing


def test_objectives_do_not_notice(make_adapted):
    """The whole loop: the update of two steps with a KL term."""
    import numpy as np

    from fgrpo_secure.learning.grpo.local_update import PromptGroups

    settings = Grpo(num_generations=GROUP, max_completion_length=9, beta=0.3, learning_rate=0.05, optimizer="sgd")
    updates = []
    for again in (False, True):
        adapted = make_adapted(factors="full")
        changed = adapted.base.settings.model_copy(update={"gradient_checkpointing": again})
        adapted.base = dataclasses.replace(adapted.base, settings=changed)
        rewards = np.random.default_rng(2).normal(size=(2, GROUP))
        groups = PromptGroups(batch(18), rewards)
        updates.append(local_update.run(adapted, lambda _, groups=groups: groups, settings, 0, 2))
    assert np.linalg.norm(updates[0] - updates[1]) <= 1e-5 * np.linalg.norm(updates[0])
