import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from fgrpo_secure.config.schema import Model
from fgrpo_secure.learning import models
from fgrpo_secure.learning.grpo import forward
from fgrpo_secure.learning.models import ModelError


@pytest.fixture
def folder(model_folders, tmp_path):
    """A copy of the small Llama that a test may spoil."""
    return Path(shutil.copytree(model_folders["llama"], tmp_path / "model"))


def change_json(path, **changes):
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps(content | changes))


def refusal(path, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a broken folder makes the libraries warn before they give up
        with pytest.raises(ModelError) as caught:
            models.load(Model(path=str(path), **settings))
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def digest(path):
    return models.load(Model(path=str(path))).digest


def test_every_family_loads_frozen_and_in_evaluation_mode(model_folders, family):
    base = models.load(Model(path=model_folders[family]))
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.tokenizer.padding_side == "left"
    assert base.context_length == 48
    assert len(base.digest) == len(base.tokenizer_digest) == 32


def test_the_shipped_model_loads_by_its_name():
    base = models.load(Model(path="builtin"))
    assert base.tokenizer("12+3=")["input_ids"]


def test_weights_are_loaded_in_the_type_that_is_asked_for(model_folders):
    base = models.load(Model(path=model_folders["llama"], dtype="bfloat16"))
    assert {parameter.dtype for parameter in base.model.parameters()} == {torch.bfloat16}


def test_a_tokenizer_without_padding_token_pads_with_the_end_token(folder):
    change_json(folder / "tokenizer_config.json", pad_token=None)
    tokenizer = models.load(Model(path=str(folder))).tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_the_digest_does_not_depend_on_how_weights_are_divided_into_files(folder, tmp_path):
    base = models.load(Model(path=str(folder)))
    base.model.save_pretrained(tmp_path / "sharded", max_shard_size="4KB")
    base.tokenizer.save_pretrained(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert digest(tmp_path / "sharded") == base.digest


def test_the_digest_changes_with_a_single_weight(folder):
    before = digest(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-6
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert digest(folder) != before


def test_the_digest_changes_with_what_the_configuration_computes(folder):
    before = digest(folder)
    change_json(folder / "config.json", rms_norm_eps=1e-3)
    assert digest(folder) != before


def test_the_digest_ignores_which_library_version_saved_the_model(folder):
    before = digest(folder)
    change_json(folder / "config.json", transformers_version="4.0.0")
    assert digest(folder) == before


def test_the_tokenizer_digest_changes_when_two_tokens_are_exchanged(folder):
    before = models.load(Model(path=str(folder))).tokenizer_digest
    content = json.loads((folder / "tokenizer.json").read_bytes())
    vocabulary = content["model"]["vocab"]
    vocabulary["1"], vocabulary["2"] = vocabulary["2"], vocabulary["1"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert models.load(Model(path=str(folder))).tokenizer_digest != before


def test_two_states_with_the_same_bytes_in_other_shapes_have_different_digests():
    flat = torch.arange(6.0)
    assert models.state_digest({"a": flat}) != models.state_digest({"a": flat.reshape(2, 3)})
    assert models.state_digest({"a": flat[:3], "b": flat[3:]}) != models.state_digest({"a": flat})
    assert models.state_digest({"a": flat}) != models.state_digest({"a": flat}, "about")


def test_a_missing_folder_is_refused_by_name(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nothing")


def test_a_folder_without_configuration_is_refused(tmp_path):
    assert "no config.json" in refusal(tmp_path)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    assert "holds no weights" in refusal(folder)


def test_pickled_weights_are_not_read(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "no *.safetensors file" in refusal(folder)
    save_file({"unrelated": torch.zeros(1)}, folder / "unrelated.safetensors")
    assert "is not a causal language model that loads" in refusal(folder)


def test_a_damaged_weight_file_is_refused(folder):
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert "is not a causal language model that loads" in refusal(folder)


def test_weights_that_are_missing_are_not_drawn_at_random(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "lack 'model.layers.1.mlp.up_proj.weight'" in refusal(folder)


def test_a_folder_without_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    assert "no tokenizer that loads" in refusal(folder)


def test_a_tokenizer_without_end_token_is_refused(folder):
    change_json(folder / "tokenizer_config.json", eos_token=None)
    assert "no end-of-sequence token" in refusal(folder)


def test_a_tokenizer_that_knows_more_tokens_than_the_model_is_refused(folder):
    content = json.loads((folder / "tokenizer.json").read_bytes())
    content["model"]["vocab"]["#"] = 18
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert "more tokens than the model embeds" in refusal(folder)


def test_an_encoder_decoder_is_refused(folder):
    for file in ("config.json", "model.safetensors"):
        (folder / file).unlink()
    sizes = {"d_model": 8, "d_ff": 8, "num_layers": 1, "num_heads": 1, "d_kv": 8, "vocab_size": 18}
    T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(folder)
    assert "is not a causal language model" in refusal(folder)


def test_an_encoder_without_language_head_is_refused(folder):
    for file in ("config.json", "model.safetensors"):
        (folder / file).unlink()
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(**sizes, vocab_size=18)).save_pretrained(folder)
    assert "is not a complete causal language model" in refusal(folder)


def test_a_model_without_a_usable_cache_is_read_in_plain_rows_and_one_that_looks_ahead_is_refused(folder, monkeypatch):
    monkeypatch.setattr(forward, "reads_from_cache", lambda network: False)
    assert not models.load(Model(path=str(folder))).from_cache
    monkeypatch.setattr(forward, "is_causal", lambda network: False)
    assert "does not read from left to right" in refusal(folder)


def test_code_that_comes_with_a_model_never_runs(folder, tmp_path):
    trace = tmp_path / "ran"
    (folder / "modeling_own.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    names = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    change_json(folder / "config.json", model_type="own", auto_map=names)
    refusal(folder)
    assert not trace.exists()


def test_a_device_that_is_not_there_is_refused(folder):
    assert "model.device 'cuda:63' is not available" in refusal(folder, device="cuda:63")
    assert "model.device 'abacus' is not available" in refusal(folder, device="abacus")


def test_showing_a_base_model_does_not_print_its_weights(model_folders):
    assert "Parameter" not in repr(models.load(Model(path=model_folders["llama"])))


@pytest.mark.parametrize("key", ["num_attention_heads", "num_key_value_heads", "hidden_size", "head_dim", "vocab_size"])
def test_a_configuration_that_lies_is_one_sentence_and_nothing_beside_it(folder, key, capfd):
    for value in (0, 3, -1, 2**31 - 1, 2**63, 1.5, "many", [1], {}):
        change_json(folder / "config.json", **{key: value})
        assert "model.path" in refusal(folder)
        assert capfd.readouterr().err == ""
