"""Iterate averaging: equal to a direct computation, kept by checkpoints, and never what the next round starts from."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fgrpo_secure.config import files as config_file
from fgrpo_secure.learning import adapters, averaging, models
from fgrpo_secure.learning.averaging import IterateAverage
from fgrpo_secure.run import training
from fgrpo_secure.storage import checkpoint


def state_of(adapted):
    return {name: value.detach().clone() for name, value in adapted.full_state().items()}


def moved(adapted, seed):
    random = torch.Generator().manual_seed(seed)
    adapted.load_full_state({k: v + torch.randn(v.shape, generator=random) for k, v in state_of(adapted).items()})


@pytest.mark.parametrize("decay", [0.1, 0.5, 0.9, 0.999])
def test_the_average_is_the_weighted_mean_of_all_rounds_so_far(make_adapted, decay):
    adapted, average, seen = make_adapted(), IterateAverage(decay), []
    for round_number in range(5):
        moved(adapted, round_number)
        average.add(adapted.full_state())
        seen.append(state_of(adapted))
        weights = np.array([decay ** (round_number - i) for i in range(round_number + 1)])
        last = state_of(adapted)
        with average.shown(adapted):
            for name, value in adapted.full_state().items():
                direct = sum(w * s[name].double().numpy() for w, s in zip(weights, seen, strict=True)) / weights.sum()
                np.testing.assert_allclose(value.detach().numpy(), direct, atol=1e-6)
        for name, value in adapted.full_state().items():
            assert torch.equal(value, last[name]), "the rounds go on from the last adapter"


def test_without_averaging_nothing_is_kept_and_the_last_adapter_is_shown(make_adapted):
    adapted, average = make_adapted(), IterateAverage(0.0)
    average.add(adapted.full_state())
    assert average.state() == {}
    last = state_of(adapted)
    with average.shown(adapted):
        assert all(torch.equal(value, last[name]) for name, value in adapted.full_state().items())


def test_a_resumed_average_goes_on_where_it_was(make_adapted):
    adapted, straight, stopped = make_adapted(), IterateAverage(0.8), IterateAverage(0.8)
    for round_number in range(4):
        moved(adapted, round_number)
        straight.add(adapted.full_state())
        stopped.add(adapted.full_state())
        again = IterateAverage(0.8)
        again.load({"B.momentum_buffer": torch.zeros(3)} | stopped.state())
        stopped = again
    assert all(torch.equal(value, stopped.state()[name]) for name, value in straight.state().items())
    assert list(averaging.without({"B.step": torch.ones(1)} | straight.state())) == ["B.step"]


def test_a_run_saves_the_average_of_its_checkpoints_and_resuming_repeats_it(trial):
    """Post-processing of what was released: the same run with and without it spends the same."""
    directory = trial.run("federation.rounds=3", "server.averaging=0.5", "evaluation.prompts=1")
    released = [
        load_file(directory.checkpoints / f"round-{number:06d}" / "adapter.safetensors") for number in (1, 2, 3)
    ]
    saved = load_file(directory.adapter / "adapter_model.safetensors")
    factors = {name: value for name, value in saved.items() if "lora_B" in name}
    assert factors
    total = sum(
        float((value - released[2][key]).abs().sum())
        for name, value in factors.items()
        for key in released[2]
        if same_factor(key, name)
    )
    assert total > 0, "the average is not the last adapter"
    for name, value in factors.items():
        (key,) = [key for key in released[0] if same_factor(key, name)]
        direct = (0.25 * released[0][key] + 0.5 * released[1][key] + released[2][key]) / 1.75
        torch.testing.assert_close(value, direct.to(value.dtype), atol=1e-6, rtol=1e-5)
    assert json.loads(directory.statement.read_bytes())["run"]["adapter_digest"] == digest_of_average(
        directory, released
    )
    training.resume(directory, trial)
    again = load_file(directory.adapter / "adapter_model.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in saved.items())
    assert any(name.startswith(averaging.PREFIX) for name in checkpoint.latest(directory.checkpoints).optimizer)


def digest_of_average(directory, released):
    config, average = config_file.load(str(directory.config)), IterateAverage(0.5)
    adapted = adapters.attach(models.load(config.model), config.adapter, config.run.seed)
    for adapter in released:
        average.add(adapter)
    with average.shown(adapted):
        return adapted.adapter_digest().hex()


def same_factor(key, name):
    """PEFT's file leaves out the adapter's name that its modules carry."""
    return key.replace(".default", "") == name or name.endswith(key.replace(".default", ""))
