from inspect import signature

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from fgrpo_secure.learning.grpo.forward import Reading, reads_from_cache

GROUP = 2


@pytest.fixture
def batch(make_adapted, prompts, family):
    """(policy, prompt ids, prompt mask, completion tokens)."""
    adapted = make_adapted(family)
    encoded = adapted.base.tokenizer(prompts, padding=True, return_tensors="pt")
    ids = torch.randint(2, 18, (len(prompts) * GROUP, 5), generator=torch.Generator().manual_seed(1))
    return adapted, encoded["input_ids"], encoded["attention_mask"], ids


def one_by_one(adapted, prompt_ids, prompt_mask, ids):
    """Logits that predict `ids`, from whole sequences without padding, cache or batch."""
    rows = []
    for row, completion in enumerate(ids):
        prompt = prompt_ids[row // GROUP][prompt_mask[row // GROUP].bool()]
        logits = adapted.network(input_ids=torch.cat([prompt, completion])[None]).logits[0]
        rows.append(logits[len(prompt) - 1 : -1])
    return torch.stack(rows)


def read_at_once(adapted, prompt_ids, prompt_mask, ids):
    reading = Reading(adapted.network, prompt_ids, prompt_mask, GROUP)
    return torch.cat([reading.next_logits.unsqueeze(1), reading.feed(ids[:, :-1])], dim=1)


def read_in_pieces(adapted, prompt_ids, prompt_mask, ids):
    reading = Reading(adapted.network, prompt_ids, prompt_mask, GROUP)
    pieces = [reading.feed(piece) for piece in (ids[:, :1], ids[:, 1:3], ids[:, 3:4])]
    return torch.cat([reading.next_logits.unsqueeze(1), *pieces], dim=1)


@pytest.mark.parametrize("read", [read_at_once, read_in_pieces])
def test_reading_a_prompt_once_gives_the_logits_of_whole_sequences(batch, read):
    torch.testing.assert_close(read(*batch), one_by_one(*batch), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("read", [read_at_once, read_in_pieces])
def test_gradients_pass_through_prompts_that_were_read_once(batch, read):
    parameters = batch[0].trainable(0)
    logits = read(*batch)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad((logits * direction).sum(), parameters)
    expected = torch.autograd.grad((one_by_one(*batch) * direction).sum(), parameters)
    assert all(gradient.abs().max() > 1e-2 for gradient in expected)
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain, atol=2e-4 * plain.abs().max().item(), rtol=1e-3)


class Wrapped(torch.nn.Module):
    """A network behind a forward of its own, as another version of the library, or another author, might write it."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        taken = signature(type(network).forward).parameters
        self.argument = next(name for name in ("cache", "past_key_values") if name in taken)

    def get_input_embeddings(self):
        return self.network.get_input_embeddings()

    def read(self, input_ids, attention_mask, cache, use_cache):
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        return self.network(
            input_ids=input_ids,
            attention_mask=attention_mask,
            use_cache=use_cache,
            position_ids=positions,
            **{self.argument: cache},
        )


class NamedAsItWas(Wrapped):
    def forward(self, input_ids, attention_mask, past_key_values: "Cache | None" = None, use_cache=True):  # noqa: F821
        return self.read(input_ids, attention_mask, past_key_values, use_cache)


class NamedAsItIsNow(Wrapped):
    def forward(self, input_ids, attention_mask, cache: "Cache | None" = None, use_cache=True):  # noqa: F821
        return self.read(input_ids, attention_mask, cache, use_cache)


class NamedAsNobodyThought(Wrapped):
    def forward(self, input_ids, attention_mask, remembered: "DynamicCache | None" = None, use_cache=True):  # noqa: F821
        return self.read(input_ids, attention_mask, remembered, use_cache)


class NotDeclared(Wrapped):
    def forward(self, input_ids, attention_mask, use_cache=True, **others):
        return self.read(input_ids, attention_mask, next(iter(others.values()), None), use_cache)


class Swallowed(Wrapped):
    def forward(self, input_ids, attention_mask, use_cache=True, **others):
        return self.read(input_ids, attention_mask[:, -input_ids.shape[1] :], None, use_cache)


class NeverReturned(Wrapped):
    def forward(self, input_ids, attention_mask, cache: "Cache | None" = None, use_cache=True):  # noqa: F821
        return self.read(input_ids, attention_mask, None, False)


@pytest.mark.parametrize("wrap", [NamedAsItWas, NamedAsItIsNow, NamedAsNobodyThought, NotDeclared])
def test_a_model_is_read_from_its_cache_whatever_the_argument_is_called(make_adapted, prompts, wrap):
    adapted = make_adapted()
    encoded = adapted.base.tokenizer(prompts, padding=True, return_tensors="pt")
    ids = torch.full((8, 2), 5)
    known = Reading(adapted.network, encoded["input_ids"], encoded["attention_mask"], GROUP)
    wrapped = wrap(adapted.network)
    other = Reading(wrapped, encoded["input_ids"], encoded["attention_mask"], GROUP)
    assert torch.allclose(known.next_logits, other.next_logits, atol=1e-5)
    assert torch.allclose(known.feed(ids), other.feed(ids), atol=1e-5)
    assert reads_from_cache(wrapped)


@pytest.mark.parametrize("wrap", [Swallowed, NeverReturned])
def test_a_cache_that_is_swallowed_or_never_returned_is_none(make_adapted, wrap):
    assert not reads_from_cache(wrap(make_adapted().network))


def test_a_recurrent_model_that_reads_on_token_by_token_has_no_cache_to_train_from():
    torch.manual_seed(1)
    recurrent = MambaForCausalLM(MambaConfig(vocab_size=18, hidden_size=16, num_hidden_layers=2)).eval()
    assert not reads_from_cache(recurrent)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_in_half_precision_is_not_taken_for_a_missing_cache(make_adapted, family, dtype):
    assert reads_from_cache(make_adapted(family).network.to(dtype))


class Unplaced(Wrapped):
    """Forgets the positions of what it reads on, and adds the same to the logits of all tokens."""

    def __init__(self, network, offset, forgets):
        super().__init__(network)
        self.offset, self.forgets, self.config = offset, forgets, network.config

    def forward(self, input_ids, attention_mask, cache: "Cache | None" = None, use_cache=True):  # noqa: F821
        if self.forgets and cache is not None:
            out = self.network(
                input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache, **{self.argument: cache}
            )
        else:
            out = self.read(input_ids, attention_mask, cache, use_cache)
        out.logits = out.logits + self.offset
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, -30.0, -100.0])
def test_what_all_tokens_have_in_common_hides_no_wrong_position(make_adapted, dtype, offset):
    """Softmax does not see it, and trained models' logits often have much in common."""
    network = make_adapted("gpt2").network.to(dtype)
    assert reads_from_cache(Unplaced(network, offset, forgets=False))
    assert not reads_from_cache(Unplaced(network, offset, forgets=True))
