import pytest
import torch

from fgrpo_secure.grpo.forward import Reading

GROUP = 2


@pytest.fixture
def batch(make_policy, prompts, family):
    """(policy, prompt ids, prompt mask, completion tokens)."""
    policy = make_policy(family)
    encoded = policy.base.tokenizer(prompts, padding=True, return_tensors="pt")
    ids = torch.randint(2, 18, (len(prompts) * GROUP, 5), generator=torch.Generator().manual_seed(1))
    return policy, encoded["input_ids"], encoded["attention_mask"], ids


def one_by_one(policy, prompt_ids, prompt_mask, ids):
    """Logits that predict `ids`, from whole sequences without padding, cache or batch."""
    rows = []
    for row, completion in enumerate(ids):
        prompt = prompt_ids[row // GROUP][prompt_mask[row // GROUP].bool()]
        logits = policy.network(input_ids=torch.cat([prompt, completion])[None]).logits[0]
        rows.append(logits[len(prompt) - 1 : -1])
    return torch.stack(rows)


def read_at_once(policy, prompt_ids, prompt_mask, ids):
    reading = Reading(policy.network, prompt_ids, prompt_mask, GROUP)
    return torch.cat([reading.next_logits.unsqueeze(1), reading.feed(ids[:, :-1])], dim=1)


def read_in_pieces(policy, prompt_ids, prompt_mask, ids):
    reading = Reading(policy.network, prompt_ids, prompt_mask, GROUP)
    pieces = [reading.feed(piece) for piece in (ids[:, :1], ids[:, 1:3], ids[:, 3:4])]
    return torch.cat([reading.next_logits.unsqueeze(1), *pieces], dim=1)


@pytest.mark.parametrize("read", [read_at_once, read_in_pieces])
def test_reading_a_prompt_once_gives_the_logits_of_whole_sequences(batch, read):
    torch.testing.assert_close(read(*batch), one_by_one(*batch), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("read", [read_at_once, read_in_pieces])
def test_gradients_pass_through_prompts_that_were_read_once(batch, read):
    parameters = batch[0].trainable(0)
    direction = torch.randn(8, 5, 18, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad((read(*batch) * direction).sum(), parameters)
    expected = torch.autograd.grad((one_by_one(*batch) * direction).sum(), parameters)
    assert all(gradient.abs().max() > 1e-2 for gradient in expected)
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain, atol=2e-4 * plain.abs().max().item(), rtol=1e-3)


def test_a_model_that_takes_neither_positions_nor_kept_logits_is_read_too(make_policy, prompts):
    policy = make_policy()
    network = policy.network
    llama = type(network)

    class Bare(torch.nn.Module):
        def forward(self, input_ids, attention_mask, past_key_values=None, use_cache=True):
            return llama.forward(
                network,
                input_ids=input_ids,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                use_cache=use_cache,
                position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :],
            )

    encoded = policy.base.tokenizer(prompts, padding=True, return_tensors="pt")
    ids = torch.full((8, 2), 5)
    known = Reading(network, encoded["input_ids"], encoded["attention_mask"], GROUP)
    bare = Reading(Bare(), encoded["input_ids"], encoded["attention_mask"], GROUP)
    assert torch.allclose(known.next_logits, bare.next_logits, atol=1e-5)
    assert torch.allclose(known.feed(ids), bare.feed(ids), atol=1e-5)
