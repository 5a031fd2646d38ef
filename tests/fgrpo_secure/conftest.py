"""Small random models of three families, saved as Hugging Face folders with a tokenizer of single characters."""

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from fgrpo_secure import adapters, models
from fgrpo_secure.config import Adapter, Model

CHARACTERS = "0123456789+-=ab "
CONTEXT = 48
SHAPE: dict[str, Any] = {
    "vocab_size": len(CHARACTERS) + 2,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.5,  # far from uniform, so that differences show
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
TARGETS = {"llama": ("o_proj", "down_proj"), "qwen2": ("q_proj", "v_proj"), "gpt2": ("c_attn", "c_proj")}


def make_tokenizer():
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", *CHARACTERS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def make_network(family):
    torch.manual_seed(5)
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**SHAPE))
    sizes: dict[str, Any] = {"intermediate_size": 24, "num_key_value_heads": 1}
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**SHAPE, **sizes, tie_word_embeddings=True))
    return Qwen2ForCausalLM(Qwen2Config(**SHAPE, **sizes))


def save_model(folder, family):
    make_network(family).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {family: str(save_model(root / family, family)) for family in TARGETS}


@pytest.fixture
def make_policy(model_folders):
    """A policy on a freshly loaded model, its factors moved away from the start unless `moved` is 0."""

    def make(family="llama", factors="full", moved=0.3, **settings):
        base = models.load(Model(path=model_folders[family]))
        policy = adapters.attach(base, Adapter(targets=TARGETS[family], factors=factors, **settings), seed=3)
        random = torch.Generator().manual_seed(11)
        state = policy.full_state()
        for tensor in state.values():
            tensor += moved * torch.randn(tensor.shape, generator=random)
        policy.load_full_state(state)
        return policy

    return make


@pytest.fixture(params=sorted(TARGETS))
def family(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(7)
