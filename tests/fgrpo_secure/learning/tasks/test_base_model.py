"""The shipped base model: loads offline, small, half competent as stated, and made by the script next to it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fgrpo_secure.learning.tasks import TASKS, make_base_model, problems
from fgrpo_secure.learning.tasks.make_base_model import (
    CHARACTERS,
    END,
    Competence,
    competence,
    make_model,
    make_tokenizer,
)
from fgrpo_secure.learning.tasks.procedural import MAX_ANSWER

FOLDER = Path(make_base_model.__file__).parent / "base_model"
WEIGHTS_SHA256 = "7429d3fed251c3c35cf7eb13b4985e284cca5164b32ee79ca4b6fd701f0f6aee"
FIRST_LOSSES = [4.25689, 4.24603, 4.12965, 3.98929, 3.84178, 3.68101]


@dataclass(frozen=True)
class Shipped:
    model: Any  # transformers declares `generate` for a type that no model has
    tokenizer: Any  # AutoTokenizer says only what it might be

    def mean(self, level: int, convention: str, count: int = 100) -> Competence:
        """All tasks counted equally, on problems the model never saw."""
        each = [
            competence(self.model, self.tokenizer, problems(task, level, "evaluation", 0, count), convention)
            for task in TASKS
        ]
        return Competence(sum(c.sampled for c in each) / len(each), sum(c.greedy for c in each) / len(each))


@pytest.fixture(scope="module")
def shipped() -> Shipped:
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32, local_files_only=True)
    return Shipped(model.eval(), AutoTokenizer.from_pretrained(FOLDER, local_files_only=True))


def test_the_shipped_weights_are_the_recorded_ones() -> None:
    weights = (FOLDER / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == WEIGHTS_SHA256


def test_the_folder_takes_at_most_half_a_megabyte() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 500_000


def test_the_tokenizer_keeps_every_character_and_pads_prompts_on_the_left(shipped: Shipped) -> None:
    tokenizer = shipped.tokenizer
    assert len(tokenizer) == 64
    ids = tokenizer(CHARACTERS)["input_ids"]
    assert len(ids) == len(CHARACTERS) == len(set(ids))
    assert tokenizer.decode(ids) == CHARACTERS
    padded = tokenizer(["1+2=", "10+2="], padding=True)
    assert padded["input_ids"][0][0] == tokenizer.pad_token_id
    assert padded["attention_mask"] == [[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert tokenizer("A")["input_ids"] == [tokenizer.unk_token_id]
    assert make_tokenizer()(CHARACTERS)["input_ids"] == ids


def test_generation_stops_at_the_end_token_and_decodes_to_the_bare_answer(shipped: Shipped) -> None:
    prompt = shipped.tokenizer(["rabc=", "m4728="], padding=True, return_tensors="pt")
    output = shipped.model.generate(**prompt, do_sample=False)
    completions = output[:, prompt["input_ids"].shape[1] :]
    assert (completions == shipped.tokenizer.eos_token_id).any(1).all()
    assert completions.shape[1] <= MAX_ANSWER + 1
    texts = shipped.tokenizer.batch_decode(completions, skip_special_tokens=True)
    assert texts[0] in ("cba", "abc")
    assert texts[1] in ("82", "28")


def test_competence_is_what_sampling_and_generation_give(shipped: Shipped) -> None:
    asked = problems("sort", 1, "evaluation", 0, 60)
    stated = competence(shipped.model, shipped.tokenizer, asked, "other")
    prompt = shipped.tokenizer([problem.prompt for problem in asked], padding=True, return_tensors="pt")
    output = shipped.model.generate(**prompt, do_sample=False)[:, prompt["input_ids"].shape[1] :]
    texts = shipped.tokenizer.batch_decode(output, skip_special_tokens=True)
    passed = [text == problem.other for text, problem in zip(texts, asked, strict=True)]
    assert stated.greedy == pytest.approx(sum(passed) / len(passed))
    text, problem = texts[passed.index(True)], asked[passed.index(True)]
    whole = shipped.tokenizer([problem.prompt + text + END], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        probabilities = shipped.model(input_ids=whole).logits[0].softmax(-1)
    chance = 1.0
    for place in range(len(problem.prompt), whole.shape[1]):
        chance *= probabilities[place - 1, whole[0, place]].item()
    alone = competence(shipped.model, shipped.tokenizer, [problem], "other")
    assert alone.sampled == pytest.approx(chance, rel=1e-4)


def test_it_half_knows_the_house_convention_and_prefers_the_other(shipped: Shipped) -> None:
    house, other = shipped.mean(1, "answer"), shipped.mean(1, "other")
    assert 0.18 <= house.sampled <= 0.32
    assert house.greedy <= 0.12
    assert 0.45 <= other.sampled <= 0.65
    assert other.greedy >= 0.70


@pytest.mark.parametrize("task", sorted(TASKS))
def test_no_task_is_out_of_reach(shipped: Shipped, task: str) -> None:
    asked = problems(task, 1, "evaluation", 0, 100)
    assert competence(shipped.model, shipped.tokenizer, asked).sampled >= 0.08


def test_it_knows_less_at_higher_levels_but_not_nothing(shipped: Shipped) -> None:
    first, second, third = (shipped.mean(level, "answer").sampled for level in (1, 2, 3))
    assert first > second > third > 0.08


def test_the_script_repeats_its_recorded_first_steps() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        losses = list(
            make_base_model.train(
                make_model(make_base_model.SEED),
                make_tokenizer(),
                make_base_model.SEED,
                steps=len(FIRST_LOSSES),
                planned=make_base_model.STEPS,
            )
        )
    finally:
        torch.set_num_threads(threads)
    assert losses == pytest.approx(FIRST_LOSSES, rel=1e-4)  # other processors may round differently


def test_the_untrained_model_follows_from_its_seed_alone() -> None:
    first, second, other = (list(make_model(seed).parameters()) for seed in (3, 3, 4))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])
