"""A second family of problems, which no setting was chosen on: eight tasks of reasoning-gym in a few characters each.

The shipped model reads single characters and was taught eight tasks of its own; of these it passes next to nothing. So
it is taught them a little, as it once was its own: on prompts of the training split, until its pass rate on held-out
problems is `ENOUGH`. Tasks, their sizes and that moment were chosen by the pass rate before any federated run alone.

    pip install reasoning-gym==0.1.19
    python -m benchmarks compact

writes again what lies here: `compact/TASK.jsonl` for the clients, `compact/TASK-held-out.jsonl`, the model in
`compact/model`, and where it starts in `results/compact_start.json`. Runs on them need no reasoning-gym.
Each client of a run has rows of its own: a task's are dealt out to as many clients as the run has.
"""

import atexit
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import record
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from fgrpo_secure.config import model_files
from fgrpo_secure.learning.tasks import make_base_model
from fgrpo_secure.learning.tasks.draws import Draws
from fgrpo_secure.learning.tasks.files import Row, read_rows
from fgrpo_secure.learning.tasks.make_base_model import BATCH, BETAS, IGNORED, MAX_GRAD_NORM, Competence
from fgrpo_secure.learning.tasks.procedural import MAX_ANSWER, Problem, split_of

FOLDER = Path(__file__).parent / "compact"
NAME = "compact"
START = record.RESULTS / "compact_start.json"
DRAWN, SEED = 12_000, 1  # of each task by reasoning-gym; a prompt counts once
CLIENTS, HELD_OUT = 800, 100  # problems of a task that are kept
ENOUGH, EVERY, LEARNING_RATE = 0.20, 25, 2e-3  # the quickstart's own start is 24 %
KEPT = {"keep_smaller": "<", "keep_larger": ">", "remove_smaller": "]", "remove_larger": "["}


def _joined(rows: list[list[int]]) -> str:
    return "".join(str(cell) for row in rows for cell in row)


# How a problem of each task is asked, and what limits its size; answers are reasoning-gym's own, without blanks.
ASKED: Mapping[str, tuple[Callable[[dict[str, Any]], str], dict[str, Any]]] = {
    "gcd": (lambda of: "&".join(map(str, of["numbers"])), {"max_numbers": 2, "max_value": 99}),
    "simple_equations": (
        lambda of: of["equation"].replace(of["variable"], "x") + "?",
        {"min_terms": 2, "max_terms": 2, "min_value": 1, "max_value": 20},
    ),
    "number_filtering": (
        lambda of: "".join(of["original_numbers"]) + KEPT[of["operation"]] + of["filter_value"],
        {
            "min_numbers": 4, "max_numbers": 4, "min_decimals": 0, "max_decimals": 0, "min_value": 0, "max_value": 9,
        },
    ),
    "rotate_matrix": (lambda of: f"{_joined(of['matrix'])}@{of['num_rotations'] % 4}", {"min_n": 2, "max_n": 2}),
    "spiral_matrix": (lambda of: f"~{_joined(of['matrix'])}", {"min_n": 2, "max_n": 2}),
    "binary_alternation": (lambda of: f"^{of['string']}", {"min_n": 8, "max_n": 12}),
    "count_primes": (lambda of: f"#{of['start']},{of['end']}", {"max_n": 99}),
    "largest_island": (
        lambda of: "/".join("".join(map(str, row)) for row in of["grid"]),
        {
            "min_rows": 3, "max_rows": 3, "min_cols": 4, "max_cols": 4, "min_num_islands": 0, "max_num_islands": 4,
            "min_island_size": 0, "max_island_size": 5,
        },
    ),
}  # fmt: skip
TASKS = tuple(ASKED)


def drawn(task: str) -> list[Row]:
    """All different problems of a task that fit, in reasoning-gym's order."""
    library = importlib.import_module("reasoning_gym")
    ask, limits = ASKED[task]
    found: dict[str, str] = {}
    for problem in library.create_dataset(task, size=DRAWN, seed=SEED, **limits):
        prompt = ask(problem["metadata"]).replace(" ", "")
        answer = "".join(character for character in problem["answer"] if character not in " \n[]',")
        if 0 < len(answer) <= MAX_ANSWER:
            found.setdefault(prompt if prompt.endswith("?") else f"{prompt}=", answer)
    return [{"prompt": prompt, "answer": answer} for prompt, answer in found.items()]


def held_out() -> dict[str, list[Row]]:
    """The problems that runs are marked on, by task: prompts that neither the model nor a client has met."""
    return {task: read_rows(str(FOLDER / f"{task}-held-out.jsonl")) for task in TASKS}


def clients(kinds: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The quickstart's kinds of clients, each split into tables with a count, with these tasks in place of its own.

    Rewards and their scales stay. A table becomes one for each client, with a file of its own.
    """
    found = []
    for task, parts in zip(TASKS, kinds, strict=True):
        number, total = 0, sum(part["count"] for part in parts)
        for part in parts:
            kept = {key: part[key] for key in ("reward", "reward_scale") if key in part}
            _, broken, fault = part["name"].partition("-")
            for _ in range(part["count"]):
                data = str(_dealt(total) / f"{task}-{number}.jsonl")
                found.append({"name": f"{task}{broken}{fault}-{number}", "data": data, **kept})
                number += 1
    return found


@lru_cache
def _dealt(count: int) -> Path:
    """A folder with every task's rows in `count` files; no row is in two. It lies there as long as the process."""
    folder = Path(mkdtemp())
    atexit.register(rmtree, folder)
    for task in TASKS:
        rows = (FOLDER / f"{task}.jsonl").read_text().splitlines(keepends=True)
        for number in range(count):
            (folder / f"{task}-{number}.jsonl").write_text("".join(rows[number::count]))
    return folder


def competence(model: Any, tokenizer: Any, rows: Mapping[str, list[Row]]) -> dict[str, Competence]:
    """Pass rates by task, exact."""
    return {
        task: make_base_model.competence(
            model, tokenizer, [Problem(str(row["prompt"]), str(row["answer"]), "") for row in asked]
        )
        for task, asked in rows.items()
    }


def taught(model: Any, tokenizer: Any, lessons: Mapping[str, list[Row]]) -> Iterator[int]:
    """Train in place, all tasks alike; yields the number of steps so far, from 0 on, every `EVERY` of them."""
    draws = Draws("compact", SEED)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=0.01)
    step = 0
    while True:
        if step % EVERY == 0:
            yield step
        rows = [draws.choice(lessons[draws.choice(TASKS)]) for _ in range(BATCH)]
        tokens, labels = make_base_model.encode_answers(tokenizer, [(row["prompt"], row["answer"]) for row in rows])
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimiser.step()
        step += 1


def _points(found: Mapping[str, Competence]) -> dict[str, list[float]]:
    return {task: [round(100 * each.sampled, 2), round(100 * each.greedy, 2)] for task, each in found.items()}


def main() -> None:
    """Draw the problems, teach the model until it half knows them, and say where it starts."""
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    lessons: dict[str, list[Row]] = {}
    for task in TASKS:
        rows = drawn(task)
        lessons[task] = [row for row in rows if split_of(task, str(row["prompt"])) == "train"]
        kept = [row for row in rows if split_of(task, str(row["prompt"])) == "evaluation"][:HELD_OUT]
        for name, chosen in ((task, lessons[task][:CLIENTS]), (f"{task}-held-out", kept)):
            (FOLDER / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    tokenizer = make_base_model.make_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(model_files.folder(model_files.BUILTIN), dtype=torch.float32)
    shipped = competence(model, tokenizer, held_out())
    found, steps = shipped, 0
    for steps in taught(model, tokenizer, lessons):
        found = competence(model, tokenizer, held_out())
        mean = sum(each.sampled for each in found.values()) / len(found)
        sys.stdout.write(f"{steps} steps: {mean:.1%} sampled\n")
        if mean >= ENOUGH:
            break
    make_base_model.save(model, tokenizer, FOLDER / "model")
    said = {"steps": steps, "shipped": _points(shipped), "start": _points(found), **record.facts()}
    START.write_text(json.dumps(said, indent=2) + "\n")


if __name__ == "__main__":
    main()
