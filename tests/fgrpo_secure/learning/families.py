"""Small random models of every causal family that the installed transformers knows, and what reading them comes to.

`python tests/fgrpo_secure/learning/families.py` goes through all of them, a line each; the tests take a few.
"""

import sys
import warnings

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from fgrpo_secure.learning.grpo import forward

VOCABULARY, LONGEST, GROUP, TOLERANCE = 64, 6_000_000, 2, 1e-5
PROMPTS, COMPLETION = (3, 21, 12), 9  # tokens: beyond the window below, and at different places in it
WINDOW = 8
KEPT = [1, 4, 5]  # of the sequences: one of the shortest prompt's, both of the last's
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "n_embd": 32, "d_model": 32, "dim": 32, "intermediate_size": 48,
    "ffn_dim": 48, "n_inner": 48, "num_hidden_layers": 4, "n_layer": 4, "n_layers": 4, "num_layers": 4,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 64, "n_positions": 64, "initializer_range": 0.1, "pad_token_id": 0, "eos_token_id": 1,
    "bos_token_id": 1, "sliding_window": WINDOW, "attention_window": WINDOW, "moe_intermediate_size": 16,
    "num_experts": 4, "n_routed_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "shared_expert_intermediate_size": 16, "rotary_dim": 8, "is_decoder": True,
}  # fmt: skip


class NotSmall(Exception):
    """No small model of this family can be made from its configuration's usual keys; the sentence says why."""


def names():
    """Every causal family, by its model type."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def small(family):
    """A random model in evaluation mode, in float32. Raises NotSmall."""
    transformers.logging.set_verbosity_error()
    kind = CONFIG_MAPPING[family]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            usual = kind()
            known = {key: value for key, value in SMALL.items() if key in usual.to_dict()}
            config = kind(**known | ({"num_key_value_heads": 4} if "kv_lora_rank" in known else {}))
            with torch.device("meta"):
                size = sum(each.numel() for each in AutoModelForCausalLM.from_config(config).parameters())
            if size > LONGEST:
                raise NotSmall(f"{size:,} parameters")
            torch.manual_seed(5)
            network = AutoModelForCausalLM.from_config(config).float().eval()
            network(input_ids=torch.arange(WINDOW)[None], use_cache=False)
            return network
    except NotSmall:
        raise
    except Exception as problem:  # noqa: BLE001 - any family may refuse a combination of keys in its own way
        raise NotSmall(type(problem).__name__) from None


def judge(network, from_cache=None):
    """How a model is read, as `models.load` decides it, and by how much log-probabilities differ from plain ones."""
    from_cache = forward.reads_from_cache(network) if from_cache is None else from_cache
    if not (from_cache or forward.is_causal(network)):
        return "refused", 0.0
    width = max(PROMPTS)
    draws = torch.Generator().manual_seed(1)
    prompts = torch.randint(2, VOCABULARY, (len(PROMPTS), width), generator=draws)
    mask = torch.stack([(torch.arange(width) >= width - length).long() for length in PROMPTS])
    ids = torch.randint(2, VOCABULARY, (len(PROMPTS) * GROUP, COMPLETION), generator=draws)
    with torch.no_grad():
        logits = forward.opened(network, prompts, mask, GROUP, from_cache).follow(ids)
        ours = torch.log_softmax(logits, -1).gather(2, ids[..., None])
        plain = torch.stack([_plain(network, prompts, mask, ids, row) for row in range(len(ids))])
        stepped = _token_by_token(network, prompts, mask, ids, from_cache)
    differences = [ours - plain, stepped - plain[KEPT]]
    return "cache" if from_cache else "rows", max(float(each.abs().max()) for each in differences)


def _token_by_token(network, prompts, mask, ids, from_cache):
    """As sampling reads; sequences other than KEPT are dropped halfway."""
    reading, read, kept = forward.opened(network, prompts, mask, GROUP, from_cache), [], torch.tensor(KEPT)
    logits, present = reading.next_logits, torch.arange(len(ids))
    with forward.told(padded=True):
        for number in range(COMPLETION):
            if number == COMPLETION // 2:
                reading.keep(kept)
                present, logits, read = kept, logits[kept], [each[kept] for each in read]
            read.append(torch.log_softmax(logits, -1).gather(1, ids[present, number, None]))
            logits = reading.feed(ids[present, number, None])[:, -1]
    return torch.stack(read, dim=1)


def _plain(network, prompts, mask, ids, row):
    prompt = prompts[row // GROUP][mask[row // GROUP].bool()]
    logits = network(input_ids=torch.cat([prompt, ids[row]])[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1).gather(1, ids[row][:, None])


def main(first=""):
    """One line for each family from `first` on; 1 if any is read wrongly."""
    wrong = 0
    for family in (each for each in names() if each >= first):
        try:
            read, error = judge(small(family))
            wrong += error > TOLERANCE
            said = f"{read:8} {error:.1e}{'  WRONG' if error > TOLERANCE else ''}"
        except NotSmall as reason:
            said = f"skipped  {reason}"
        sys.stdout.write(f"{family:28} {said}\n")
        sys.stdout.flush()
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
