"""A completion's draws are its own: the same in every batch, rightly distributed, and without waiting for a device."""

import math
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fgrpo_secure.config.schema import Grpo
from fgrpo_secure.learning.grpo import rollouts, sampling
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.grpo.rollouts import NotFinite

PROMPTS = ["12+3=", "4-", "1+1=", "7", "33-2=", "5+5+5=", "a", "b=b"]
DRAWS = 60_000
LOGITS = 3 * torch.randn(40, generator=torch.Generator().manual_seed(2))
SEEN = torch.arange(40) % 3 == 0


def drawn(adapted, prompts, group, seed=9, **settings):
    """Tokens and whether they are all, of each completion of each prompt."""
    asked = Grpo(num_generations=group, **settings)
    made = rollouts.sample(adapted, prompts, asked, Streams(seed))
    rows = list(zip(made.completion_ids, made.truncated.tolist(), strict=True))
    return [rows[start : start + group] for start in range(0, len(rows), group)]


@pytest.mark.parametrize("case", range(8))
def test_a_completion_is_the_same_whatever_else_is_in_its_batch_and_in_whatever_order(make_adapted, family, case):
    chance = random.Random(case)
    adapted = make_adapted(family)
    shaped = {"max_completion_length": 12, "temperature": chance.choice([0.7, 1.0, 1.6])}
    shaped |= chance.choice([{}, {"top_k": 6}, {"top_p": 0.8, "min_p": 0.02}, {"repetition_penalty": 1.3}])
    alone = {prompt: drawn(adapted, [prompt], 4, **shaped)[0] for prompt in PROMPTS}
    assert len({len(ids) for group in alone.values() for ids, _ in group}) > 1  # they end at different times
    for _ in range(4):
        batch = chance.sample(PROMPTS, chance.randint(1, len(PROMPTS)))
        group = chance.randint(2, 4)
        expected = [alone[prompt][:group] for prompt in batch]
        assert drawn(adapted, batch, group, **shaped) == expected


def test_a_prompt_that_is_asked_again_has_other_completions_wherever_it_stands(make_adapted):
    adapted = make_adapted()
    twice = drawn(adapted, ["4-", "7", "4-"], 6, max_completion_length=8)
    assert twice[0] != twice[2]
    streams, asked = Streams(9), Grpo(num_generations=6, max_completion_length=8)
    later = [rollouts.sample(adapted, ["4-"], asked, streams).completion_ids for _ in range(2)]
    assert later == [[ids for ids, _ in twice[index]] for index in (0, 2)]


def test_streams_differ_by_seed_prompt_and_completion_and_begin_alike_at_every_length():
    prompts = [[1, 2], [1], [2, 1], [1, 2, 0]]
    rows = np.concatenate([Streams(seed).uniform(prompts, 3, 8) for seed in (0, 1, 2**63 - 1, 2**64 - 1)])
    assert len({row.tobytes() for row in rows}) == len(rows)
    assert (Streams(1).uniform(prompts, 3, 5) == Streams(1).uniform(prompts, 3, 8)[:, :5]).all()
    numbers = Streams(1).uniform([[0]], 1000, 100).ravel()
    assert numbers.min() > 0
    assert numbers.max() <= 1
    counts = np.histogram(numbers, bins=100, range=(0, 1))[0]
    assert abs(((counts - 1000) ** 2 / 1000).sum() - 99) < 5 * math.sqrt(2 * 99)


def test_the_numbers_of_a_stream_are_what_they_were():
    """Seeded runs rest on them."""
    expected = [0.3766439016544294, 0.6049097926113045, 0.6309092083564596]
    np.testing.assert_array_equal(Streams(7).uniform([[3, 1, 4], [3, 1, 4]], 2, 2)[[0, 1, 3], [0, 1, 1]], expected)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.6},
        {"top_k": 7},
        {"top_p": 0.7},
        {"min_p": 0.1},
        {"repetition_penalty": 1.7},
        {"temperature": 2.0, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 0.8},
    ],
)
def test_draws_have_the_distribution_that_the_settings_shape(changes):
    """Pearson's test; tokens that are expected less than eight times are one cell."""
    weights = sampling.weights(LOGITS[None], SEEN[None], Grpo(**changes))
    uniform = torch.from_numpy(Streams(3).uniform([[1]], 1, DRAWS))[0]
    counts = torch.bincount(sampling.inverse_cdf(weights.expand(DRAWS, -1), uniform), minlength=40)
    expected = DRAWS * (weights / weights.sum())[0].double()
    assert not counts[expected == 0].any()
    often = expected >= 8
    observed, mean = (torch.cat([each[often], each[~often].sum()[None]]) for each in (counts.double(), expected))
    terms = ((observed - mean) ** 2 / mean)[mean > 0]
    freedom = len(terms) - 1
    assert freedom >= 3
    assert abs(float(terms.sum()) - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("exact", [torch.float32, torch.float64])
def test_no_number_stands_for_a_token_without_probability(exact):
    weights = torch.tensor([[0.0, 0.0, 0.3, 0.0, 1e-9, 0.7, 0.0]])
    numbers = torch.tensor([2.0**-53, 0.1, 0.3, 0.300001, 0.5, 1 - 2.0**-53, 1.0], dtype=exact)
    found = sampling.inverse_cdf(weights.expand(len(numbers), -1), numbers)
    assert set(found.tolist()) <= {2, 4, 5}
    assert (found[0], found[-1]) == (2, 5)


def test_rare_tokens_of_a_large_vocabulary_are_drawn_as_often_as_they_should():
    """Each by itself: the numbers that stand for it are as wide as its probability, to 12 digits."""
    weights = torch.softmax(torch.full((1, 50_000), -12.0).index_fill(1, torch.tensor([7]), 0.0), dim=-1)
    total = float(weights.double().sum())
    edges = weights.double().cumsum(1)[0, [20_000, 20_001, 49_998]] / total
    for edge, token in zip(edges.tolist(), (20_000, 20_001, 49_998), strict=True):
        numbers = torch.tensor([edge * (1 - 1e-12), edge * (1 + 1e-12)], dtype=torch.float64)
        assert sampling.inverse_cdf(weights.expand(2, -1), numbers).tolist() == [token, token + 1]


class Waits(TorchDispatchMode):
    """Counts the operations that would wait for a device: numbers read from a tensor, and shapes that follow values."""

    NAMES = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::is_nonzero")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        indices = args[1] if func._schema.name in ("aten::index", "aten::index_put_") else []
        by_mask = any(each is not None and each.dtype == torch.bool for each in indices)
        self.count += by_mask or func._schema.name in self.NAMES
        return func(*args, **(kwargs or {}))


class Reads(TorchFunctionMode):
    """Counts what brings a whole tensor to the host: without an accelerator no operation shows it."""

    NAMES = ("tolist", "numpy", "cpu")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += getattr(func, "__name__", "") in self.NAMES
        return func(*args, **(kwargs or {}))


def waits_of(adapted, prompts, **shaped):
    """How often one sampling would wait for a device."""
    with Reads() as reads, Waits() as waits:
        drawn(adapted, prompts, 4, **shaped)
    return waits.count + reads.count


@pytest.fixture
def seldom_ending(make_adapted):
    """A model whose end token comes now and then, not for all."""
    adapted = make_adapted()
    with torch.no_grad():
        adapted.network.get_output_embeddings().weight[1] = 0.0
    return adapted


SHAPED = [{}, {"top_k": 6, "top_p": 0.8, "min_p": 0.02, "repetition_penalty": 1.3}, {"stop": ("ab",)}]


@pytest.mark.parametrize("shaped", SHAPED)
@pytest.mark.parametrize("prompts", [PROMPTS, ["7", "4"]])  # padded, and all of one length
def test_nothing_comes_back_from_the_device_for_each_token(seldom_ending, monkeypatch, prompts, shaped):
    monkeypatch.setattr(rollouts, "_looks_every", lambda _: 10_000)
    looked = [waits_of(seldom_ending, prompts, max_completion_length=length, **shaped) for length in (4, 24)]
    assert looked[0] == looked[1]


@pytest.mark.parametrize("read", [torch.Tensor.tolist, torch.Tensor.cpu, torch.any, torch.nonzero])
def test_a_sampler_that_reads_from_the_device_at_each_token_would_be_found(seldom_ending, monkeypatch, read):
    own = sampling.inverse_cdf

    def reading(weights, uniform):
        if read(weights) is None or (read is torch.any and not read(weights)):
            raise AssertionError
        return own(weights, uniform)

    monkeypatch.setattr(rollouts, "_looks_every", lambda _: 10_000)
    monkeypatch.setattr(sampling, "inverse_cdf", reading)
    looked = [waits_of(seldom_ending, PROMPTS, max_completion_length=length) for length in (4, 24)]
    assert looked[1] >= looked[0] + 20


def test_the_library_is_told_of_padding_and_would_else_ask_at_each_token(seldom_ending, monkeypatch):
    monkeypatch.setattr(rollouts, "_looks_every", lambda _: 10_000)
    monkeypatch.setattr(rollouts, "told", lambda padded: nullcontext())
    looked = [waits_of(seldom_ending, PROMPTS, max_completion_length=length) for length in (4, 24)]
    assert looked[1] >= looked[0] + 20


@pytest.mark.parametrize("shaped", [{"temperature": 2.0}, {"temperature": 2.0, "repetition_penalty": 1.3}])
def test_completions_that_have_ended_are_read_no_further(make_adapted, family, monkeypatch, shaped):
    """Tokens read are at most twice those of completions; without dropping each would be read to the longest's end."""
    adapted, read = make_adapted(family), []
    adapted.network.register_forward_pre_hook(
        lambda network, given, named: read.append(named["input_ids"].numel()), with_kwargs=True
    )
    found = drawn(adapted, PROMPTS, 8, max_completion_length=30, **shaped)
    counts = [len(ids) for group in found for ids, _ in group]
    assert sum(read[1:]) <= 2 * sum(counts)
    assert sum(read[1:]) < 0.8 * len(counts) * (max(counts) - 1)
    monkeypatch.setattr(rollouts, "_looks_every", lambda _: 10_000)
    assert drawn(adapted, PROMPTS, 8, max_completion_length=30, **shaped) == found


@pytest.mark.parametrize("every", [1, 3, 8, 100])
@pytest.mark.parametrize("shaped", [{}, {"stop": ("=", "ab")}, {"repetition_penalty": 1.3}])
def test_how_often_it_is_looked_at_what_has_ended_changes_nothing(make_adapted, monkeypatch, every, shaped):
    adapted = make_adapted()
    expected = rollouts.sample(
        adapted, PROMPTS, Grpo(num_generations=4, max_completion_length=14, **shaped), Streams(9)
    )
    monkeypatch.setattr(rollouts, "_looks_every", lambda _: every)
    found = rollouts.sample(adapted, PROMPTS, Grpo(num_generations=4, max_completion_length=14, **shaped), Streams(9))
    assert found.completion_ids == expected.completion_ids
    assert all(torch.equal(getattr(found, name), getattr(expected, name)) for name in ("ids", "mask", "truncated"))


@pytest.mark.parametrize("shaped", [{}, {"top_k": 6, "top_p": 0.8, "min_p": 0.02}])
def test_a_model_whose_probabilities_are_not_finite_is_refused_in_one_sentence(make_adapted, shaped):
    adapted = make_adapted()
    with torch.no_grad():
        adapted.network.get_output_embeddings().weight[5] = float("nan")
    with pytest.raises(NotFinite, match="not finite"):
        drawn(adapted, PROMPTS, 2, max_completion_length=3, **shaped)
