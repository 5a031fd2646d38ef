"""docs/reference/failures.md is what the command line really says: each row is typed in and its sentence copied.

To write the page anew: `python -m tests.fgrpo_secure.cli.test_failures > docs/reference/failures.md`
"""

import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from typer.testing import CliRunner

from fgrpo_secure.cli import app
from fgrpo_secure.config import model_files
from fgrpo_secure.learning.grpo.isolated_reward import IsolatedReward, Limits

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "failures.md"
HEAD = """# What goes wrong, and what you read then

Prompts, models, rewards and trainers that cannot be used, with the sentence that the command line prints and the first
command that prints it: `plan` is `fgrpo plan CONFIG`, which loads no model, `try` is `fgrpo try CONFIG`. A run
begins with the same checks, before its first round. Nothing of a row is ever quoted. A test types all of it in and
copies the sentences here.

| you did | you read | when |
|---|---|---|
"""
REWARDS = """
def good(completions, **kw): return [float(len(each)) for each in completions]
def same(completions, **kw): return [0.5] * len(completions)
def never(completions, **kw): return [None] * len(completions)
def nan(completions, **kw): return [float("nan")] * len(completions)
def few(completions, **kw): return [1.0]
def words(completions, **kw): return ["good"] * len(completions)
def breaks(completions, answer, **kw): raise KeyError(answer[0])
def leaves(completions, **kw): raise SystemExit
def asks(completions, mood): return [1.0] * len(completions)
def slow(completions, **kw): __import__("time").sleep(60)
"""
ROWS = tuple({"prompt": f"{number}+{number}=", "answer": f"{2 * number}"} for number in range(10, 16))
OPEN = IsolatedReward.open
Prepared = Callable[[Path], None]


@dataclass(frozen=True)
class Failure:
    """What a user did: other rows, another client's table, other sections, a model's folder changed in some way."""

    did: str
    rows: tuple[Mapping[str, Any], ...] = ROWS
    client: str = 'reward = "rw:good"'
    more: str = ""
    model: Prepared | None = None
    says: str = ""  # where nothing is refused: how the line begins that says it
    text: str = field(default="", repr=False)  # the file of rows as it stands
    reward_seconds: float = 60.0  # what one call of a reward may take here
    task: str = 'task = "add"\nrows = 6'  # of the others
    lacks: str | None = None  # a library that is not installed for whoever types this in
    needs: str | None = None  # one that is: where it is not, the page's row cannot be copied anew


def without(*names: str) -> Prepared:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without_end(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in told.items() if key not in ("eos_token", "pad_token")}))


def special_digits(folder: Path) -> None:
    """Tokens that texts are made without, like those that a model calls a tool with."""
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    told["added_tokens"] += [
        {"id": told["model"]["vocab"][str(each)], "content": str(each), **plain} for each in range(10)
    ]
    path.write_text(json.dumps(told))


def template(text: str) -> Prepared:
    return lambda folder: (folder / "chat_template.jinja").write_text(text) and None


MESSAGES = tuple({**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS)
REFUSING = "{{ raise_exception('roles must alternate') }}"
FAILURES = (
    Failure("a prompt longer than the context", rows=({"prompt": "1" * 70, "answer": "1"},)),
    Failure("a prompt with symbols that the tokenizer does not know", rows=({"prompt": "1+É=", "answer": "1"},)),
    Failure("an empty prompt", rows=({"prompt": "", "answer": "1"},)),
    Failure("rows without a prompt", rows=({"question": "1+1="},)),
    Failure("a file that is no JSON Lines", text="prompt,answer\n1+1=,2\n"),
    Failure("messages without roles", rows=({"prompt": [{"content": "1+1="}]},)),
    Failure("messages, and a model without a chat template", rows=MESSAGES),
    Failure("messages that the chat template refuses", rows=MESSAGES, model=template(REFUSING)),
    Failure("a chat template that is broken", rows=MESSAGES, model=template("{% for %}")),
    Failure("a system prompt for prompts that are strings", more='[grpo]\nsystem_prompt = "be brief"\n'),
    Failure("a column with a name that training uses", rows=({"prompt": "1+1=", "completions": "2"},)),
    Failure("weights without a tokenizer", model=without("tokenizer.json", "tokenizer_config.json")),
    Failure("a tokenizer without an end of sequence", model=without_end),
    Failure("pickled weights", model=pickled),
    Failure("a folder without weights", model=without("model.safetensors")),
    Failure("a model that is not there", more='[model]\npath = "./nowhere"\n'),
    Failure("a reward that is neither built in nor a function", client='reward = "best"'),
    Failure("a reward in a module without it", client='reward = "rw:none"'),
    Failure("a reward that asks for a column that no row has", client='reward = "rw:asks"'),
    Failure("a reward that raises", client='reward = "rw:breaks"'),
    Failure("a reward that ends its process", client='reward = "rw:leaves"'),
    Failure("a reward that returns one number for all", client='reward = "rw:few"'),
    Failure("a reward that returns words", client='reward = "rw:words"'),
    Failure("a reward that marks nothing", client='reward = "rw:never"'),
    Failure("a reward that is not a number", client='reward = "rw:nan"'),
    Failure("a reward that takes 60 s, where its owner allows half a second (60 s without a word)",
            client='reward = "rw:slow"', reward_seconds=0.5),
    Failure("weights for another number of rewards", client='reward = ["rw:good", "exact"]\nreward_weights = [1.0]'),
    Failure("a pattern that is none", client='reward = "format(()"'),
    Failure("reward 'math' without the extra `math`", client='reward = "math"', lacks="math_verify"),
    Failure("a tolerance that is none", client='reward = "math(-1)"'),
    Failure("a task of reasoning-gym without the extra `tasks`", task='task = "reasoning-gym:leg_counting"',
            lacks="reasoning_gym"),
    Failure("a data set that reasoning-gym does not have", task='task = "reasoning-gym:leg_count"',
            needs="reasoning_gym"),
    Failure("a parameter that a data set of reasoning-gym does not have", needs="reasoning_gym",
            task='task = "reasoning-gym:leg_counting"\ntask_settings = {animals = 3}'),
    Failure("a parameter out of a data set's range", needs="reasoning_gym",
            task='task = "reasoning-gym:leg_counting"\ntask_settings = {min_animals = 5, max_animals = 2}'),
    Failure("a seed that is none", task='task = "reasoning-gym:leg_counting"\ntask_settings = {seed = -1}',
            needs="reasoning_gym"),
    Failure("a data set of reasoning-gym that draws other problems at every start", needs="reasoning_gym",
            task='task = "reasoning-gym:ransom_note"'),
    Failure("a data set of reasoning-gym whose answers cannot be marked apart", needs="reasoning_gym",
            task='task = "reasoning-gym:arc_agi"'),
    Failure("parameters of a task that has none", task='task = "add"\ntask_settings = {seed = 1}'),
    Failure("a difficulty of a data set of reasoning-gym", task='task = "reasoning-gym:gcd"\ndifficulty = 2'),
    Failure("a trainer in a module that is not there", client='reward = "rw:good"\ntrainer = "nowhere:train"'),
    Failure("a trainer, and a unit below the client", client='reward = "rw:good"\ntrainer = "rw:good"',
            more='[privacy]\nunit = "prompt_group"\nunits_per_client = 6\nepsilon = 8.0\n'),
    Failure("rewards that are all equal", client='reward = "rw:same"', says="  no group has two different rewards"),
    Failure("a data set of one row", rows=ROWS[:1], says="  rows: 1"),
    Failure("completions that are all empty", model=special_digits, says="  32 of them have no text"),
    Failure("completions that never end", more="[grpo]\nmax_completion_length = 1\n", says="  most are cut off"),
)  # fmt: skip


@contextmanager
def lacking(library: str | None) -> Iterator[None]:
    """As if the library were not installed; whatever else is imported meanwhile stays."""
    held = sys.modules.pop(library, None) if library else None
    if library:
        sys.modules[library] = None  # type: ignore[assignment]  # how Python marks what cannot be imported
    yield
    if library:
        del sys.modules[library]
    if library and held is not None:
        sys.modules[library] = held


def said(failure: Failure, folder: Path) -> tuple[str, str]:
    """(sentence, command) of the first command that says something."""
    folder.mkdir()
    (folder / "rw.py").write_text(REWARDS)
    rows = "".join(json.dumps(row) + "\n" for row in failure.rows)
    (folder / "rows.jsonl").write_text(failure.text or rows)
    more = failure.more
    if failure.model is not None:
        source = model_files.folder(model_files.BUILTIN)
        assert source is not None
        shutil.copytree(source, folder / "model")
        failure.model(folder / "model")
        more += '[model]\npath = "model"\n'
    privacy = "" if "[privacy]" in more else '[privacy]\nunit = "none"\n'
    clients = f'[[client]]\nname = "mine"\ndata = "rows.jsonl"\n{failure.client}\n[[client]]\nname = "others"\n'
    (folder / "run.toml").write_text(f"{clients}{failure.task}\ncount = 7\n{more}{privacy}")
    for command in ("plan", "try"):
        allowed = Limits(failure.reward_seconds)
        limited = patch.object(IsolatedReward, "open", lambda spec: OPEN(spec).within(allowed))  # noqa: B023  # used at once
        with limited, lacking(failure.lacks):
            outcome = CliRunner().invoke(app, [command, str(folder / "run.toml")])
        if outcome.exit_code == 2:
            (line,) = outcome.stderr.strip().splitlines()
            return line.removeprefix("fgrpo: ").replace(f"{folder}/", ""), command
        assert outcome.exit_code == 0, outcome.output
    (line,) = [line.strip() for line in outcome.output.splitlines() if failure.says and line.startswith(failure.says)]
    return f"{line} (a hint: nothing is refused)", "try"


def page(folder: Path) -> str:
    rows = []
    for number, failure in enumerate(FAILURES):
        if failure.needs is not None and importlib.util.find_spec(failure.needs) is None:
            rows += [f"{row}\n" for row in PAGE.read_text("utf-8").splitlines() if row.startswith(f"| {failure.did} |")]
            continue
        sentence, when = said(failure, folder / str(number))
        rows.append(f"| {failure.did} | {sentence.replace('|', chr(92) + '|')} | {when} |\n")
    return HEAD + "".join(rows)


def test_every_failure_is_one_sentence_and_the_page_has_it(tmp_path):
    assert page(tmp_path) == PAGE.read_text("utf-8")


if __name__ == "__main__":
    sys.stdout.write(page(Path(tempfile.mkdtemp())))
