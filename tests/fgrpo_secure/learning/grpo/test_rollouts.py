import dataclasses
import math

import pytest
import torch

from fgrpo_secure.config.schema import Grpo
from fgrpo_secure.learning.grpo import forward, local_update, rollouts
from fgrpo_secure.learning.grpo import prompts as prompt_forms
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.grpo.prompts import PromptTooLong

EOS, PAD = 1, 0


def sequence_probabilities(adapted, prompt, tokens, temperature):
    """Probability of every continuation of `prompt` by `tokens` tokens that does not end early, as a vector."""
    ids = torch.tensor(adapted.base.tokenizer(prompt)["input_ids"])
    probabilities: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(tokens):
        longer = {}
        for path, weight in probabilities.items():
            whole = torch.cat([ids, torch.tensor(path, dtype=torch.long)])
            with torch.no_grad():
                logits = adapted.network(input_ids=whole[None]).logits[0, -1]
            for token, p in enumerate(torch.softmax(logits / temperature, -1).tolist()):
                if token != EOS:
                    longer[(*path, token)] = weight * p
        probabilities = longer
    return probabilities


def test_greedy_equals_the_library_on_prompts_of_different_lengths(make_adapted, prompts, family):
    adapted = make_adapted(family)
    ours = rollouts.greedy(adapted, prompts, Grpo(max_completion_length=9))
    encoded = adapted.base.tokenizer(prompts, padding=True, return_tensors="pt")
    theirs = adapted.network.generate(**encoded, max_new_tokens=9, do_sample=False, eos_token_id=EOS, pad_token_id=PAD)
    width = encoded["input_ids"].shape[1]
    assert ours.completions == adapted.base.tokenizer.batch_decode(theirs[:, width:], skip_special_tokens=True)
    assert len(set(ours.completions)) == len(prompts)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_sequences_have_the_models_probabilities(make_adapted, family, temperature):
    """Pearson's test on all pairs of first tokens, of a padded prompt."""
    adapted = make_adapted(family)
    settings = Grpo(num_generations=4096, max_completion_length=2, temperature=temperature)
    drawn = rollouts.sample(adapted, ["12+3=", "4-"], settings, Streams(0))
    expected = sequence_probabilities(adapted, "4-", 2, temperature)
    cells = {path: 4096 * p for path, p in expected.items() if 4096 * p >= 8}
    counts = dict.fromkeys(cells, 0)
    for row in drawn.ids[4096:].tolist():
        if tuple(row) in counts:
            counts[tuple(row)] += 1
    observed, mean = [*counts.values()], [*cells.values()]
    observed, mean = [*observed, 4096 - sum(observed)], [*mean, 4096 - sum(mean)]
    statistic = sum((o - m) ** 2 / m for o, m in zip(observed, mean, strict=True))
    freedom = len(mean) - 1
    assert freedom > 8
    assert abs(statistic - freedom) < 5 * math.sqrt(2 * freedom)


def test_top_p_keeps_the_smallest_set_of_tokens_that_reaches_it_at_the_temperature(make_adapted):
    adapted = make_adapted()
    settings = Grpo(num_generations=4000, max_completion_length=1, temperature=4.0, top_p=0.6)
    drawn = rollouts.sample(adapted, ["4-"], settings, Streams(0)).ids[:, 0]
    with torch.no_grad():
        ids = torch.tensor(adapted.base.tokenizer("4-")["input_ids"])[None]
        probabilities = torch.softmax(adapted.network(input_ids=ids).logits[0, -1] / 4.0, -1)
    kept, reached = [], 0.0
    for token in probabilities.argsort(descending=True).tolist():
        if reached >= 0.6:
            break
        kept.append(token)
        reached += probabilities[token].item()
    assert 2 < len(kept) < 18
    expected = torch.zeros(18)
    expected[kept] = probabilities[kept] / reached
    frequencies = torch.bincount(drawn, minlength=18) / 4000
    assert not frequencies[expected == 0].any()
    assert (frequencies - expected).abs().max() < 5 * 0.5 / math.sqrt(4000)


def test_rollouts_follow_the_given_streams_and_no_other(make_adapted, prompts, settings):
    adapted = make_adapted()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = rollouts.sample(adapted, prompts, settings, Streams(5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert rollouts.sample(adapted, prompts, settings, Streams(5)).completions == first.completions
    assert rollouts.sample(adapted, prompts, settings, Streams(6)).completions != first.completions


def test_a_completion_counts_up_to_its_end_token_and_padding_follows(make_adapted, prompts):
    adapted = make_adapted()
    drawn = rollouts.sample(adapted, prompts, Grpo(num_generations=64, max_completion_length=6), Streams(0))
    assert drawn.truncated.any()
    assert not drawn.truncated.all()
    for row, mask, truncated, ids in zip(
        drawn.ids.tolist(), drawn.mask.tolist(), drawn.truncated.tolist(), drawn.completion_ids, strict=True
    ):
        ends = row.index(EOS) + 1 if EOS in row else len(row)
        assert mask == [1] * ends + [0] * (len(row) - ends)
        assert row[ends:] == [PAD] * (len(row) - ends)
        assert truncated == (EOS not in row)
        assert ids == row[:ends]


def test_texts_are_the_tokens_without_end_and_padding(make_adapted, prompts, settings):
    adapted = make_adapted()
    drawn = rollouts.sample(adapted, prompts, settings, Streams(0))
    for text, ids in zip(drawn.completions, drawn.completion_ids, strict=True):
        assert text == "".join(adapted.base.tokenizer.convert_ids_to_tokens([i for i in ids if i > EOS]))


def test_sampling_stops_when_every_completion_has_ended(make_adapted):
    adapted = make_adapted()
    calls = []
    adapted.network.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        adapted.network.get_output_embeddings().weight[EOS] *= 100  # ends early, or never: either sign is large
    drawn = rollouts.sample(adapted, ["12+3="], Grpo(num_generations=4, max_completion_length=30), Streams(0))
    longest = max(len(ids) for ids in drawn.completion_ids)
    assert longest < 30
    assert drawn.ids.shape == (4, longest)
    assert len(calls) == longest


def test_completions_of_a_prompt_stand_together(make_adapted):
    adapted = make_adapted()
    prompts = ["12+3=", "4-b"]
    likeliest = rollouts.greedy(adapted, prompts, Grpo(max_completion_length=6))
    cold = Grpo(num_generations=3, max_completion_length=6, temperature=1e-4)
    drawn = rollouts.sample(adapted, prompts, cold, Streams(0))
    assert likeliest.completions[0] != likeliest.completions[1]
    assert drawn.completions == [text for text in likeliest.completions for _ in range(3)]


def test_a_prompt_that_does_not_fit_the_context_is_refused_with_both_lengths(make_adapted, settings):
    adapted = make_adapted()
    base = adapted.base
    prompt_forms.check(base.tokenizer, ["1" * 42], settings, base.context_length)
    for call in (
        lambda: prompt_forms.check(base.tokenizer, ["1", "1" * 43], settings, base.context_length),
        lambda: rollouts.sample(adapted, ["1", "1" * 43], settings, Streams(0)),
    ):
        with pytest.raises(PromptTooLong, match=r"43 tokens and 6 new ones .* context of 48"):
            call()


def test_rollouts_can_be_trained_on(make_adapted, prompts, settings):
    adapted = make_adapted()
    drawn = rollouts.sample(adapted, prompts, settings, Streams(0))
    logits = torch.zeros(*drawn.ids.shape, 18, requires_grad=True)
    (logits.gather(2, drawn.ids.unsqueeze(2)).squeeze(2) * drawn.mask).sum().backward()
    assert logits.grad.sum() == drawn.mask.sum()


def test_showing_rollouts_prints_no_prompt_and_no_completion(make_adapted, settings):
    drawn = rollouts.sample(make_adapted(), ["12+3="], settings, Streams(0))
    assert repr(drawn) == "Rollouts()"


@pytest.mark.parametrize("stop", [(), ("=",), ("ab", "3")])
def test_a_completion_ends_with_any_stop_string_and_then_is_not_truncated(make_adapted, stop):
    settings = Grpo(num_generations=32, max_completion_length=20, stop=stop)
    drawn = rollouts.sample(make_adapted(), ["12+3="], settings, Streams(0))
    for ids, text, truncated in zip(drawn.completion_ids, drawn.completions, drawn.truncated.tolist(), strict=True):
        where = [text.find(each) + len(each) for each in stop if each in text]
        assert truncated == (not where and ids[-1] != EOS)
        if where:
            assert min(where) == len(text)
    assert bool(stop) == any(text.endswith(stop or ("never",)) for text in drawn.completions)


def test_a_completion_ends_with_any_of_the_models_end_tokens(make_adapted):
    adapted = make_adapted()
    other = adapted.base.tokenizer.convert_tokens_to_ids("7")
    adapted.base.model.generation_config.eos_token_id = [EOS, other]
    drawn = rollouts.sample(adapted, ["12+3="], Grpo(num_generations=64, max_completion_length=30), Streams(0))
    cut = drawn.truncated.tolist()
    assert {ids[-1] for ids, short in zip(drawn.completion_ids, cut, strict=True) if not short} == {EOS, other}
    assert not any({EOS, other} & set(ids[:-1]) for ids in drawn.completion_ids)
    assert all(len(ids) == 30 for ids, short in zip(drawn.completion_ids, cut, strict=True) if short)


def test_a_model_whose_padding_is_its_end_token_counts_the_end_once(make_adapted):
    adapted = make_adapted()
    adapted.base.tokenizer.pad_token = adapted.base.tokenizer.eos_token
    drawn = rollouts.sample(adapted, ["12+3=", "4"], Grpo(num_generations=8, max_completion_length=30), Streams(0))
    assert drawn.mask.sum(1).tolist() == [len(ids) for ids in drawn.completion_ids]
    assert all(ids.count(EOS) <= 1 for ids in drawn.completion_ids)
    assert drawn.truncated.tolist() == [EOS not in ids for ids in drawn.completion_ids]


def test_greedy_with_a_repetition_penalty_equals_the_library(make_adapted, prompts, family):
    adapted = make_adapted(family)
    ours = rollouts.greedy(adapted, prompts, Grpo(max_completion_length=9, repetition_penalty=2.0))
    for prompt, completion in zip(prompts, ours.completions, strict=True):  # alone: the library counts padding as seen
        encoded = adapted.base.tokenizer(prompt, return_tensors="pt")
        ids = adapted.network.generate(
            **encoded, max_new_tokens=9, do_sample=False, eos_token_id=EOS, pad_token_id=PAD, repetition_penalty=2.0
        )
        width = encoded["input_ids"].shape[1]
        assert completion == adapted.base.tokenizer.decode(ids[0, width:], skip_special_tokens=True)
    assert ours.completions != rollouts.greedy(adapted, prompts, Grpo(max_completion_length=9)).completions


def test_a_model_that_is_read_in_plain_rows_draws_and_learns_the_same(make_adapted, prompts, settings, monkeypatch):
    adapted = make_adapted()
    cached = rollouts.sample(adapted, prompts, settings, Streams(0))
    logp = local_update.completion_logp(adapted, cached, 1.0)
    adapted.base = dataclasses.replace(adapted.base, from_cache=False)
    monkeypatch.setattr(forward, "Reading", None)
    rows = rollouts.sample(adapted, prompts, settings, Streams(0))
    assert rows.completions == cached.completions
    torch.testing.assert_close(local_update.completion_logp(adapted, rows, 1.0), logp, atol=1e-5, rtol=1e-4)


def test_a_prompt_that_no_context_holds_is_not_made_into_tokens(make_adapted, monkeypatch):
    adapted = make_adapted()
    monkeypatch.setattr(adapted, "base", dataclasses.replace(adapted.base, tokenizer=None))
    with pytest.raises(PromptTooLong, match="characters"):
        rollouts.greedy(adapted, ["1+1=", "1" * 200_000], Grpo())
