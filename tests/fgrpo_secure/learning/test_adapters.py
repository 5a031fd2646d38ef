import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from fgrpo_secure.config.schema import Adapter, Model
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.models import ModelError

IDS = torch.tensor([[3, 4, 12, 5, 14], [6, 12, 7, 8, 14]])


def logits(network):
    with torch.no_grad():
        return network(input_ids=IDS).logits


def attach(folder, seed=3, **settings):
    return adapters.attach(models.load(Model(path=folder)), Adapter(**settings), seed)


def test_a_fresh_adapter_changes_nothing(make_adapted, model_folders, family):
    adapted = make_adapted(family, moved=0)
    plain = models.load(Model(path=model_folders[family])).model
    assert torch.equal(logits(adapted.network), logits(plain))


def test_fresh_factors_depend_on_the_public_seed_alone(model_folders):
    torch.manual_seed(1)
    first = attach(model_folders["llama"])
    torch.manual_seed(2)
    second, other = attach(model_folders["llama"]), attach(model_folders["llama"], seed=4)
    assert first.adapter_digest() == second.adapter_digest()
    assert first.frozen_digest() == second.frozen_digest()
    assert first.adapter_digest() != other.adapter_digest()
    assert first.frozen_digest() != other.frozen_digest()


def test_fresh_factors_are_uniform_within_the_bound_of_their_layer(model_folders):
    state = attach(model_folders["llama"], rank=16, targets=("down_proj",)).full_state()
    drawn = torch.cat([tensor.flatten() for name, tensor in state.items() if "lora_A" in name])
    bound = 24**-0.5  # inputs of down_proj
    assert drawn.abs().max() <= bound
    deviation = bound / math.sqrt(3)
    assert abs(drawn.mean()) < 4 * deviation / math.sqrt(drawn.numel())
    # the fourth moment of a uniform variable is 9/5 of its variance squared
    assert abs(drawn.var() / deviation**2 - 1) < 4 * math.sqrt(0.8 / drawn.numel())
    assert all(not tensor.any() for name, tensor in state.items() if "lora_B" in name)


@pytest.mark.parametrize(
    ("factors", "by_round"), [("ffa", ("B", "B")), ("alternate", ("B", "A")), ("full", ("AB", "AB"))]
)
def test_each_round_trains_and_sends_its_factors_and_no_others(make_adapted, rng, factors, by_round):
    adapted = make_adapted(factors=factors)
    for round_number, letters in enumerate(by_round):
        before = adapted.full_state()
        names = [name for name in sorted(before) if any(f"lora_{letter}" in name for letter in letters)]
        assert adapted.factors(round_number) == letters
        trained = adapted.trainable(round_number)
        assert [p.shape for p in trained] == [before[name].shape for name in names]
        assert {id(p) for p in adapted.model.parameters() if p.requires_grad} == {id(p) for p in trained}
        vector = rng.normal(size=adapted.dimension(round_number))
        adapted.set_vector(round_number, vector)
        after = adapted.full_state()
        assert [name for name in sorted(before) if not torch.equal(before[name], after[name])] == names
        expected = np.concatenate([after[name].numpy().ravel() for name in names])
        assert np.array_equal(expected, vector.astype(np.float32))


def test_reading_a_vector_and_writing_it_back_changes_no_bit(make_adapted):
    adapted = make_adapted()
    digest = adapted.adapter_digest()
    vector = adapted.get_vector(0)
    assert vector.dtype == np.float64
    adapted.set_vector(0, vector)
    assert adapted.adapter_digest() == digest


def test_a_vector_of_another_length_is_refused(make_adapted):
    adapted = make_adapted()
    with pytest.raises(ValueError, match="this round's has"):
        adapted.set_vector(0, np.zeros(adapted.dimension(0) + 1))


def test_the_frozen_digest_names_the_factors_that_no_round_trains(make_adapted):
    adapted = make_adapted(factors="ffa")
    digest = adapted.frozen_digest()
    adapted.set_vector(0, adapted.get_vector(0) + 1)
    assert adapted.frozen_digest() == digest
    state = adapted.full_state()
    next(tensor for name, tensor in state.items() if "lora_A" in name)[0, 0] += 1e-6
    adapted.load_full_state(state)
    assert adapted.frozen_digest() != digest


def test_a_state_of_another_adapter_is_refused(make_adapted):
    adapted = make_adapted()
    state = adapted.full_state()
    state.popitem()
    with pytest.raises(ValueError, match="names and shapes"):
        adapted.load_full_state(state)


def test_a_state_is_a_copy(make_adapted):
    adapted = make_adapted()
    digest = adapted.adapter_digest()
    for tensor in adapted.full_state().values():
        tensor.zero_()
    assert adapted.adapter_digest() == digest


def test_without_adapter_is_the_base_model(make_adapted, model_folders, family):
    adapted = make_adapted(family)
    plain = logits(models.load(Model(path=model_folders[family])).model)
    with adapted.reference():
        assert torch.equal(logits(adapted.network), plain)
    assert not torch.allclose(logits(adapted.network), plain, atol=0.1)


def test_merged_weights_compute_the_same_function_and_leave_no_trace(make_adapted, family):
    adapted = make_adapted(family)
    before = {name: tensor.clone() for name, tensor in adapted.model.state_dict().items()}
    unmerged = logits(adapted.network)
    for _ in range(3):
        with adapted.merged():
            merged = logits(adapted.network)
    assert not torch.equal(merged, unmerged)  # really another computation
    torch.testing.assert_close(merged, unmerged, atol=1e-4, rtol=1e-4)
    after = adapted.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert torch.equal(logits(adapted.network), unmerged)


def test_an_error_while_merged_leaves_no_trace(make_adapted):
    adapted = make_adapted()
    before = logits(adapted.network)
    with pytest.raises(RuntimeError), adapted.merged():
        raise RuntimeError
    assert torch.equal(logits(adapted.network), before)


def test_in_half_precision_factors_stay_apart_from_the_weights(model_folders):
    base = models.load(Model(path=model_folders["llama"], dtype="bfloat16"))
    adapted = adapters.attach(base, Adapter(), 3)
    adapted.set_vector(0, adapted.get_vector(0) + 1e-3)
    unmerged = logits(adapted.network)
    with adapted.merged():
        assert torch.equal(logits(adapted.network), unmerged)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT 0.21 asks by the old name
def test_peft_loads_the_saved_folder_and_computes_the_same(make_adapted, model_folders, family, tmp_path):
    adapted = make_adapted(family)
    adapted.save(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(model_folders[family])
    loaded = PeftModel.from_pretrained(plain, tmp_path).eval()
    torch.testing.assert_close(logits(loaded), logits(adapted.network), atol=1e-5, rtol=1e-5)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(logits(merged), logits(adapted.network), atol=1e-4, rtol=1e-4)


OPTIONS = [
    {"targets": "all-linear"},
    {"rslora": True, "rank": 3},
    {"dropout": 0.5},
    {"targets": "all-linear", "rslora": True, "dropout": 0.2, "alpha": 5.0},
]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT 0.21 asks by the old name
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_with_every_option_peft_loads_the_same_from_the_folder_and_so_does_a_run(
    make_adapted, model_folders, family, options, tmp_path
):
    adapted = make_adapted(family, **options)
    adapted.save(tmp_path)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folders[family]), tmp_path).eval()
    torch.testing.assert_close(logits(loaded), logits(adapted.network), atol=1e-5, rtol=1e-5)
    with adapted.merged():
        torch.testing.assert_close(logits(adapted.network), logits(loaded), atol=1e-4, rtol=1e-4)
    again = make_adapted(family, moved=0, init_from=str(tmp_path), **options)
    assert again.adapter_digest() == adapted.adapter_digest()


@pytest.mark.filterwarnings("ignore")  # PEFT's, about what GPT-2 stores transposed
def test_all_linear_is_every_layer_that_peft_takes_and_not_the_output(model_folders, family):
    adapted = attach(model_folders[family], targets="all-linear")
    theirs = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model_folders[family]), LoraConfig(target_modules="all-linear")
    )
    assert set(adapted.shapes()) == {name for name, _ in theirs.named_parameters() if "lora_" in name}
    assert not any("lm_head" in name for name in adapted.shapes())


def test_dropout_thins_what_trains_and_nothing_else(make_adapted):
    adapted = make_adapted(dropout=0.5)
    whole, drawn = logits(adapted.network), torch.random.get_rng_state()
    with adapted.thinned(1):
        one = logits(adapted.network)
    with adapted.thinned(1):
        assert torch.equal(logits(adapted.network), one), "a mask follows from its seed"
    with adapted.thinned(2):
        assert not torch.equal(logits(adapted.network), one)
    assert not torch.equal(one, whole)
    assert torch.equal(logits(adapted.network), whole)
    assert torch.equal(torch.random.get_rng_state(), drawn)


def test_dropout_is_refused_where_a_layer_is_computed_twice(model_folders):
    base = models.load(Model(path=model_folders["llama"], gradient_checkpointing=True))
    with pytest.raises(models.ModelError, match="would draw another mask"):
        adapters.attach(base, Adapter(targets=("down_proj",), dropout=0.1), seed=3)


def test_without_dropout_nothing_is_drawn(make_adapted):
    adapted = make_adapted()
    whole = logits(adapted.network)
    with adapted.thinned(1):
        assert torch.equal(logits(adapted.network), whole)


def test_saving_does_not_ask_the_model_hub(make_adapted, tmp_path):
    adapted = make_adapted()
    adapted.model.peft_config["default"].base_model_name_or_path = "some/model"
    adapted.save(tmp_path)  # asking in vain is a warning, and a warning is an error here
    assert (tmp_path / "adapter_model.safetensors").is_file()


def test_a_run_starts_from_a_saved_folder(make_adapted, model_folders, tmp_path):
    adapted = make_adapted("llama")
    adapted.save(tmp_path)
    again = make_adapted("llama", moved=0, init_from=str(tmp_path))
    assert again.adapter_digest() == adapted.adapter_digest()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: shutil.rmtree(folder), "is not a PEFT adapter folder"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"?"), "cannot be read"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read"),
        (lambda folder: edit(folder, r=2), "has r 2, but this run's adapter has 4"),
        (lambda folder: edit(folder, lora_alpha=16), "has lora_alpha 16, but this run's adapter has 8.0"),
        (lambda folder: edit(folder, peft_type="IA3"), "has peft_type 'IA3'"),
        (lambda folder: edit(folder, use_rslora=True), "has use_rslora True, but this run's adapter has False"),
    ],
)
def test_another_kind_of_folder_to_start_from_is_refused(make_adapted, tmp_path, change, reason):
    make_adapted("llama").save(tmp_path / "adapter")
    change(tmp_path / "adapter")
    with pytest.raises(ModelError, match=reason):
        make_adapted("llama", init_from=str(tmp_path / "adapter"))


def test_the_kl_term_compares_with_the_adapter_that_the_run_started_from(make_adapted, model_folders, tmp_path):
    start = make_adapted("llama")
    start.save(tmp_path)
    expected = logits(start.network)
    adapted = make_adapted("llama", moved=0.2, init_from=str(tmp_path))
    before = logits(adapted.network)
    with adapted.reference():
        assert torch.equal(logits(adapted.network), expected)
    assert torch.equal(logits(adapted.network), before)
    assert not torch.equal(before, expected)


def test_a_folder_with_other_targets_is_refused(make_adapted, model_folders, tmp_path):
    make_adapted("llama").save(tmp_path)
    with pytest.raises(ModelError, match="other targets or another model"):
        attach(model_folders["llama"], targets=("up_proj",), init_from=str(tmp_path))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("c_attn", "no module of that name"),
        ("embed_tokens", "not a linear layer"),
        ("lm_head", "shares with its embedding"),
    ],
)
def test_a_target_that_cannot_be_adapted_is_refused_by_name(model_folders, target, reason):
    with pytest.raises(ModelError, match=f"'{target}'.*{reason}"):
        attach(model_folders["llama"], targets=("down_proj", target))


def edit(folder: Path, **changes):
    about = folder / "adapter_config.json"
    about.write_text(json.dumps(json.loads(about.read_bytes()) | changes))
