"""Adapters of every variant that PEFT makes: read as PEFT itself reads them, or refused by the key that differs."""

import json
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from fgrpo_secure.config.schema import Adapter, Model
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.models import ModelError

IDS = torch.tensor([[3, 4, 12, 5, 14], [6, 12, 7, 8, 14]])
TARGETS = ["down_proj", "o_proj"]
READ = [
    {},
    {"init_lora_weights": "gaussian"},
    {"lora_dropout": 0.3},
    {"target_modules": r".*\.(down_proj|o_proj)"},
    {"target_modules": [*TARGETS, "q_proj"], "exclude_modules": ["q_proj"]},
]
REFUSED = [
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "olora"},
    {"init_lora_weights": "pissa_niter_4"},
    {"init_lora_weights": "orthogonal"},
    {"use_rslora": True},
    {"use_dora": True},
    {"alpha_pattern": {"o_proj": 32}},
    {"rank_pattern": {"o_proj": 2}},
    {"bias": "lora_only"},
    {"lora_bias": True},
    {"modules_to_save": ["lm_head"]},
    {"layers_to_transform": [0]},
    {"trainable_token_indices": [3]},
    {"alora_invocation_tokens": [3]},
    {"layer_replication": [[0, 2], [0, 2]]},
]

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's, about some of the variants


def saved(folder, base, variant):
    """An adapter folder of PEFT's own making, its factors moved, and the logits of PEFT's own loading."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(4)
        settings = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "task_type": "CAUSAL_LM"} | variant
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and "lora" in name:
                    parameter.add_(0.3 * torch.randn(parameter.shape))
        model.save_pretrained(folder, save_embedding_layers=False)
        theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
        with torch.no_grad():
            return theirs(input_ids=IDS).logits


def ours(folder, base, **run):
    settings = Adapter(**{"targets": tuple(TARGETS), "init_from": str(folder)} | run)
    adapted = adapters.attach(models.load(Model(path=base)), settings, 3)
    with torch.no_grad():
        return adapted.network(input_ids=IDS).logits


@pytest.mark.parametrize("variant", READ, ids=str)
def test_plain_lora_is_read_as_peft_reads_it(tmp_path, model_folders, variant):
    theirs = saved(tmp_path, model_folders["llama"], variant)
    torch.testing.assert_close(ours(tmp_path, model_folders["llama"]), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("variant", "run"),
    [
        ({"use_rslora": True}, {"rslora": True}),
        ({"target_modules": "all-linear"}, {"targets": "all-linear"}),
        ({"target_modules": "all-linear", "use_rslora": True}, {"targets": "all-linear", "rslora": True}),
        ({"lora_dropout": 0.3}, {"dropout": 0.1}),
    ],
    ids=str,
)
def test_a_variant_that_the_run_asks_for_is_read_as_peft_reads_it(tmp_path, model_folders, variant, run):
    theirs = saved(tmp_path, model_folders["llama"], variant)
    torch.testing.assert_close(ours(tmp_path, model_folders["llama"], **run), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", REFUSED, ids=str)
def test_a_variant_is_refused_by_the_key_that_makes_it_one(tmp_path, model_folders, variant):
    saved(tmp_path, model_folders["llama"], variant)
    with pytest.raises(ModelError, match=next(iter(variant))) as refusal:
        ours(tmp_path, model_folders["llama"])
    assert "\n" not in str(refusal.value)


def test_a_key_of_a_later_version_is_refused_unless_it_is_off(tmp_path, model_folders):
    theirs = saved(tmp_path, model_folders["llama"], {})
    about = tmp_path / "adapter_config.json"
    stated = json.loads(about.read_text())
    about.write_text(json.dumps(stated | {"use_something": False}))
    torch.testing.assert_close(ours(tmp_path, model_folders["llama"]), theirs, atol=1e-5, rtol=1e-5)
    about.write_text(json.dumps(stated | {"use_something": True}))
    with pytest.raises(ModelError, match="use_something = true"):
        ours(tmp_path, model_folders["llama"])


def test_an_adapter_in_the_models_own_folder_is_refused_and_so_are_weights_that_would_be_lost(tmp_path, model_folders):
    saved(tmp_path, model_folders["llama"], {})
    model = AutoModelForCausalLM.from_pretrained(model_folders["llama"])
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"holds a PEFT adapter.*adapter\.init_from"):
        models.load(Model(path=str(tmp_path)))
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "adapter_model.safetensors").unlink()
    models.AutoTokenizer.from_pretrained(model_folders["llama"]).save_pretrained(tmp_path)
    assert models.load(Model(path=str(tmp_path))).from_cache
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    model.save_pretrained(tmp_path, state_dict=state | {"value_head.weight": torch.zeros(2)})
    with pytest.raises(ModelError, match=r"does not use, such as 'value_head\.weight' \(1 in all\)"):
        models.load(Model(path=str(tmp_path)))
