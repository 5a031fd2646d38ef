"""Makes the tiny base model that ships with the package.

Run it as `python -m fgrpo_secure.learning.tasks.make_base_model --out DIR`.

A Llama of 0.2 million parameters over single characters, trained on *correct* answers to the procedural tasks
in two conventions, the house one less often: partially competent on purpose, so that reinforcement learning
has something to learn. It only ever sees prompts of the training split. An answer ends with the end token,
which is also where generation stops. Seeded; with one thread the same machine and libraries give the same
weights.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split as SplitText
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fgrpo_secure.learning.tasks.draws import Draws
from fgrpo_secure.learning.tasks.procedural import DIFFICULTIES, MAX_ANSWER, TASKS, Problem, problems

PAD, END, UNKNOWN = "<pad>", "<end>", "<unk>"
CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz +-*/%=,.:;<>?!()[]^~|#&@"
MAX_CONTEXT = 64
SEED, STEPS, BATCH = 0, 2500, 128
LEARNING_RATE, WARM_UP, WEIGHT_DECAY, BETAS, MAX_GRAD_NORM = 4e-3, 50, 0.05, (0.9, 0.98), 1.0
IGNORED = -100
# Shares of the tasks and difficulties in a batch: what needs carries or division comes more often.
TASK_POOL = (*("add", "sub") * 4, *("mul",) * 7, *("mod",) * 6, *("sort", "rev") * 3, *("cnt", "minmax") * 2)
DIFFICULTY_POOL = (1, 1, 1, 1, 2, 3)


@dataclass(frozen=True, slots=True)
class Competence:
    """Exact pass rates on evaluation problems, both in [0, 1]: sampled at temperature 1, and greedy."""

    sampled: float
    greedy: float


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, 64 in all; any other character becomes `<unk>`."""
    vocabulary = {text: place for place, text in enumerate((PAD, END, UNKNOWN, *CHARACTERS))}
    core = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    core.pre_tokenizer = SplitText(Regex(r"[\s\S]"), "isolated")
    core.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=MAX_CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def make_model(seed: int) -> LlamaForCausalLM:
    """The untrained model; its parameters follow from `seed`."""
    config = LlamaConfig(
        vocab_size=len(CHARACTERS) + 3,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.08,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, config.initializer_range, generator=generator)
    return model


def encode_answers(
    tokenizer: PreTrainedTokenizerFast, answered: Sequence[tuple[str, str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, labels) of (prompt, answer) pairs, both (count, length); only answer and end are labelled."""
    texts = [f"{prompt}{answer}{END}" for prompt, answer in answered]
    encoded = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    tokens, real = encoded["input_ids"], encoded["attention_mask"].bool()
    starts = torch.tensor([len(prompt) for prompt, _ in answered])[:, None]
    counted = real & (torch.arange(tokens.shape[1]) >= starts)
    return tokens, torch.where(counted, tokens, IGNORED)


def draw_answered(draws: Draws, size: int) -> list[tuple[str, str]]:
    """(prompt, answer) pairs of the training split, the answer in either convention."""
    return [_answered(draws) for _ in range(size)]


def _answered(draws: Draws) -> tuple[str, str]:
    task = TASKS[draws.choice(TASK_POOL)]
    problem = task.problem(draws, draws.choice(DIFFICULTY_POOL), "train")
    return problem.prompt, problem.answer if draws.chance(task.house_share) else problem.other


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then linear decay to zero."""
    return LEARNING_RATE * min((step + 1) / WARM_UP, (steps - step) / max(steps - WARM_UP, 1))


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    steps: int,
    planned: int | None = None,
) -> Iterator[float]:
    """Train in place, yielding each step's loss; learning rates are those of `planned` steps."""
    draws = Draws("base-model", seed)
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, planned or steps)
        tokens, labels = encode_answers(tokenizer, draw_answered(draws, BATCH))
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimiser.step()
        yield loss.item()
    model.eval()


@torch.no_grad()
def competence(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    asked: Sequence[Problem],
    convention: str = "answer",
) -> Competence:
    """Pass rates in one convention ("answer" or "other"), without sampling.

    The sampled rate is the mean probability of answer and end token; greedy passes where each of them is the
    most probable token after the ones before.
    """
    answered = [(problem.prompt, str(getattr(problem, convention))) for problem in asked]
    tokens, labels = encode_answers(tokenizer, answered)
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].float()
    targets = labels[:, 1:]
    counted = targets != IGNORED
    chosen = logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    sampled = chosen.where(counted, 0.0).sum(1).exp()
    greedy = ((logits.argmax(-1) == targets) | ~counted).all(1)
    return Competence(sampled.mean().item(), greedy.double().mean().item())


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights (float16), configuration, generation limits and tokenizer as a Hugging Face folder."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        max_new_tokens=MAX_ANSWER + 1, pad_token_id=0, eos_token_id=1, do_sample=True, temperature=1.0
    )
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Train with a progress bar, print the pass rates and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order: the same seed gives the same weights
    console = Console()
    model, tokenizer = make_model(options.seed), make_tokenizer()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        progress = bar.add_task("training the base model", total=options.steps)
        for loss in train(model, tokenizer, options.seed, options.steps):
            bar.update(progress, advance=1, description=f"training the base model, loss {loss:.3f}")
    for name in TASKS:
        for level in DIFFICULTIES:
            console.print(_line(model, tokenizer, name, level))
    save(model, tokenizer, options.out)
    console.print(f"written to {options.out}")


def _line(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, name: str, level: int) -> str:
    asked = problems(name, level, "evaluation", 0, 200)
    house, other = (competence(model, tokenizer, asked, convention) for convention in ("answer", "other"))
    return (
        f"{name:7} level {level}: house {house.sampled:.2f} sampled, {house.greedy:.2f} greedy; "
        f"other {other.sampled:.2f} and {other.greedy:.2f}"
    )


if __name__ == "__main__":
    main()
