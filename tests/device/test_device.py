"""On an accelerator the built-in trainer samples, learns and runs as on the processor, within its rounding.

`make device` runs this and measures. Tolerances are for float32, with tensor cores' shorter products left off, as torch
leaves them.
"""

import dataclasses
import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fgrpo_secure.config.schema import Adapter, Grpo, Model
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.grpo import local_update, memory, rollouts, sampling
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.grpo.local_update import PromptGroups

PROMPTS = ["12+3=", "4-1=", "1+1+1=", "33-2=", "7+8="]
SETTINGS = Grpo(num_generations=4, max_completion_length=24, temperature=2.0)
LOGP, GRADIENT, DRAW = 1e-4, 1e-3, 1e-4  # nats; of the gradient's length; of a draw's probability
ROUNDED = 0.3  # nats of a token, with weights of eight binary digits
KINDS = ("addition", "subtraction", "products", "sorting", "reversal", "counting", "remainders", "extremes")
FEW = (
    "federation.rounds=2", "privacy.unit=none", "evaluation.prompts=4", "evaluation.samples=1", "engine.processes=1",
    *(f"client.{kind}.count=1" for kind in KINDS),
)  # fmt: skip


def loaded(device, dtype="float32", path="builtin", moved=0.3):
    """A model with an adapter that was moved away from its start, by the same draws on every device."""
    base = models.load(Model(path=path, device=device, dtype=dtype))
    adapted = adapters.attach(base, Adapter(factors="full", rank=2), 3)
    random = torch.Generator().manual_seed(11)
    state = adapted.full_state()
    adapted.load_full_state(
        {name: each + moved * torch.randn(each.shape, generator=random).to(each) for name, each in state.items()}
    )
    return adapted


def there(made, device):
    """Rollouts with their tensors on a device."""
    tensors = ("prompt_ids", "prompt_mask", "ids", "mask", "truncated")
    return dataclasses.replace(made, **{name: getattr(made, name).to(device) for name in tensors})


def groups_of(made):
    shape = (len(PROMPTS), SETTINGS.num_generations)
    return PromptGroups(made, np.random.default_rng(1).normal(size=shape))


def gradient(adapted, groups):
    found = local_update.gradients(adapted, adapted.trainable(0), groups, SETTINGS, 1)
    return torch.cat([each.reshape(-1) for each in found]).double().cpu()


def check_same_draws(plain, found, expected):
    """Completions are the same up to the first token whose draw lies between the two, by rounding alone."""
    uniform = Streams(9).uniform(
        [row[mask.bool()].tolist() for row, mask in zip(expected.prompt_ids, expected.prompt_mask, strict=True)],
        SETTINGS.num_generations,
        24,
    )
    for row, (ours, theirs) in enumerate(zip(found.completion_ids, expected.completion_ids, strict=True)):
        if ours != theirs:
            at = next(place for place, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other)
            prompt = expected.prompt_ids[row // SETTINGS.num_generations]
            asked = prompt[expected.prompt_mask[row // SETTINGS.num_generations].bool()]
            with torch.no_grad():
                read = torch.cat([asked, torch.tensor(theirs[:at], dtype=torch.long)])[None]
                weights = sampling.weights(plain.network(input_ids=read).logits[:, -1], None, SETTINGS)[0].double()
            edges = (weights.cumsum(0) / weights.sum())[[ours[at], theirs[at]]]
            assert float((edges - uniform[row, at]).abs().min()) < DRAW


def test_log_probabilities_and_a_steps_gradient_are_the_processors(device):
    plain, other = loaded("cpu"), loaded(device)
    made = rollouts.sample(plain, PROMPTS, SETTINGS, Streams(9))
    with torch.no_grad():
        expected = local_update.completion_logp(plain, made, 1.0)
        found = local_update.completion_logp(other, there(made, device), 1.0)
    torch.testing.assert_close(found.cpu(), expected, atol=LOGP, rtol=0)
    one, two = gradient(plain, groups_of(made)), gradient(other, groups_of(there(made, device)))
    assert one.norm() > 0
    assert (one - two).norm() <= GRADIENT * one.norm()


def test_seeded_completions_are_the_processors_but_for_draws_on_an_edge(device):
    plain, other = loaded("cpu"), loaded(device)
    expected = rollouts.sample(plain, PROMPTS, SETTINGS, Streams(9))
    found = rollouts.sample(other, PROMPTS, SETTINGS, Streams(9))
    assert found.ids.device.type == device
    check_same_draws(plain, found, expected)
    same = sum(one == two for one, two in zip(found.completion_ids, expected.completion_ids, strict=True))
    assert same >= len(expected.completion_ids) - 1


def test_a_completion_does_not_depend_on_its_batch(device):
    plain, adapted = loaded("cpu"), loaded(device)
    together = rollouts.sample(adapted, PROMPTS, SETTINGS, Streams(9))
    alone = [rollouts.sample(adapted, [prompt], SETTINGS, Streams(9)).completion_ids for prompt in PROMPTS]
    apart = dataclasses.replace(together, completion_ids=[ids for group in alone for ids in group])
    check_same_draws(plain, apart, there(together, "cpu"))


def test_factors_in_float32_learn_on_a_base_in_bfloat16(device):
    plain, half = loaded("cpu"), loaded(device, "bfloat16")
    made = there(rollouts.sample(plain, PROMPTS, SETTINGS, Streams(9)), device)
    with torch.no_grad():
        expected = local_update.completion_logp(plain, there(made, "cpu"), 1.0)
        found = local_update.completion_logp(half, made, 1.0)
    assert float((found.cpu() - expected).abs().mean()) < ROUNDED
    sampled = rollouts.sample(half, PROMPTS, SETTINGS, Streams(9))
    update = local_update.run(half, lambda step: groups_of(sampled), SETTINGS, 0, 1)
    assert {each.dtype for each in half.trainable(0)} == {torch.float32}
    assert np.isfinite(update).all()
    assert np.linalg.norm(update) > 0


def synchronisations(adapted, length):
    """How often one sampling waited for the accelerator, by torch's own count."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            rollouts.sample(adapted, PROMPTS, SETTINGS.model_copy(update={"max_completion_length": length}), Streams(9))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(each.message) for each in said)


def test_sampling_waits_for_the_accelerator_at_looks_alone(accelerator, monkeypatch):
    adapted = loaded(accelerator, moved=3.0)  # so far off that hardly anything ends
    monkeypatch.setattr(rollouts, "_looks_every", lambda _: 10_000)
    synchronisations(adapted, 4)  # the first time libraries set themselves up
    assert synchronisations(adapted, 4) == synchronisations(adapted, 44)


def test_a_step_of_many_completions_stays_within_its_memory(accelerator, tmp_path):
    tokenizer = loaded("cpu").base.tokenizer
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8}
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(vocab_size=16_000, max_position_embeddings=512, **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    adapted = loaded(accelerator, path=str(tmp_path))
    settings = Grpo(num_generations=16, max_completion_length=256)
    made = rollouts.sample(adapted, PROMPTS[:4], settings, Streams(9))
    groups = PromptGroups(made, np.random.default_rng(1).normal(size=(4, 16)))
    torch.cuda.reset_peak_memory_stats()
    resting = torch.cuda.memory_allocated()
    local_update.run(adapted, lambda step: groups, settings, 0, 1)
    assert torch.cuda.max_memory_allocated() - resting < 1.5 * memory.STEP_BYTES


@pytest.mark.slow
def test_a_whole_run_trains_there(device, tmp_path):
    changes = [f"--set={each}" for each in (*FEW, f"model.device={device}")]
    command = [sys.executable, "-m", "fgrpo_secure", "run", "quickstart", *changes, "--out", str(tmp_path / "run")]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["rounds"] == 2
    assert 0 <= summary["pass_rate.final"] <= 1
