"""A project that runs at once and is meant to be edited: configuration, rewards, data of four organisations, an
evaluation set of its own, and three steps in a README. `fgrpo init` writes it.

The data is of a kind (questions with answers, chat messages with a rule, rows about subjects) that the shipped model
can express: 64 symbols, lower case, 64 tokens of context. Evaluation rows are split off: no client holds them.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgrpo_secure.config import model_files
from fgrpo_secure.config.files import PROJECT
from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.learning.tasks.draws import Draws
from fgrpo_secure.learning.tasks.procedural import named

CLIENTS = ("north", "harbour", "valley", "lakeside")
ROWS = 48  # of each client
HELD_OUT = 20  # rows of each organisation's kind that go to the evaluation instead
ROWS_PER_SUBJECT = 2
MODEL = "model"
LONGEST_NAME = 64  # of a run
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}="


class ProjectExists(UnusableInput):
    """The folder holds something that would be written over."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of data: what it is, the unit it protects, and what its configuration says besides."""

    about: str
    unit: str
    task: str
    client: str = ""
    sections: str = ""
    reward: str = ""
    server_step: int = 400


EXACT = '''"""The reward: called as TRL calls one, with completions and each column of the data by keyword.

It runs in a process of its own, and sees one organisation's rows at a time. Change it, then: fgrpo plan --try
"""


def reward(completions, answer, **_):
    """1 for the answer, up to 0.3 for its first characters: something to climb."""
    return [pay(said.strip(), right) for said, right in zip(completions, answer)]


def pay(said, right):
    """Of one completion."""
    return 1.0 if said == right else 0.3 * common(said, right)


def common(said, right):
    """The share of the answer that the completion begins with."""
    same = 0
    while same < min(len(said), len(right)) and said[same] == right[same]:
        same += 1
    return same / max(len(said), len(right), 1)
'''
RULE = '''"""The reward: a rule that every reply must keep, called as TRL calls a reward for messages.

It runs in a process of its own, and sees one organisation's rows at a time. Change it, then: fgrpo plan --try
"""


def reward(completions, **_):
    """1 for a reply that is a number of two digits, 0.3 for digits alone, else 0. A reply is a list of messages."""
    return [mark("".join(message["content"] for message in reply).strip()) for reply in completions]


def mark(said):
    """The rule itself."""
    if not said.isdecimal():
        return 0.0
    return 1.0 if len(said) == 2 else 0.3
'''
KINDS: Mapping[str, Kind] = {
    "questions": Kind("questions with answers; each row is protected", "prompt_group", "add", reward=EXACT),
    "chat": Kind(
        "chat messages and a rule that replies must keep; each row is protected",
        "prompt_group",
        "mod",
        sections=f'[model]\npath = "{MODEL}"  # the shipped one with a chat template; see README.md\n\n',
        reward=RULE,
        server_step=100,  # a rule that every prompt shares pulls all ways at once: 400 overshot after three rounds
    ),
    "subjects": Kind(
        "rows about subjects, such as patients; all rows about one are protected together",
        "subject",
        "sub",
        client='subject = "patient"\n',
        reward=EXACT,
    ),
}


def write(folder: Path, kind: str) -> list[Path]:
    """Make the project in `folder`. Returns its files. Raises ProjectExists, or UnusableInput for a folder that cannot
    be written; what is there already stays as it is."""
    files = {**_texts(kind, run_name(folder)), **{f"data/{name}.jsonl": text for name, text in _data(kind).items()}}
    taken = [name for name in (*files, MODEL) if (folder / name).exists()]
    if taken:
        raise ProjectExists(f"{folder} holds {taken[0]} already; choose another folder: fgrpo init FOLDER")
    try:
        (folder / "data").mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, "utf-8")
        if KINDS[kind].sections:
            _copy_model(folder / MODEL)
    except OSError as problem:
        raise UnusableInput(f"{folder} cannot hold a project: {problem.strerror}") from None
    return [folder / name for name in files]


def _copy_model(target: Path) -> None:
    source = model_files.folder(model_files.BUILTIN)
    if source is None:
        raise UnusableInput("the installation lacks the shipped model")
    shutil.copytree(source, target)
    (target / "chat_template.jinja").write_text(TEMPLATE, "utf-8")


def _data(kind: str) -> dict[str, str]:
    """File name -> JSON Lines. The last rows of each organisation's kind make the evaluation."""
    draws, found, held_out = Draws("project", kind), {}, []
    task, seen = named(KINDS[kind].task), set[str]()
    for name in CLIENTS:
        rows: list[dict[str, Any]] = []
        while len(rows) < ROWS + HELD_OUT:
            problem = task.problem(draws, 1, "train")
            if problem.prompt not in seen:
                seen.add(problem.prompt)
                rows.append(_row(kind, problem.prompt, problem.answer, len(rows)))
        found[name] = rows[:ROWS]
        held_out += rows[ROWS:]
    return {name: _lines(rows) for name, rows in {**found, "evaluation": held_out}.items()}


def _row(kind: str, prompt: str, answer: str, number: int) -> dict[str, Any]:
    if kind == "chat":
        return {"prompt": [{"role": "user", "content": f"a number near {prompt.rstrip('=')}"}]}
    row = {"prompt": prompt, "answer": answer}
    return {**row, "patient": f"p{number // ROWS_PER_SUBJECT:02}"} if kind == "subjects" else row


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def run_name(folder: Path) -> str:
    """What a run of the project in `folder` is called: the folder's name, in characters that a run may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip("-._")[:LONGEST_NAME] or "mine"


def _texts(kind: str, name: str) -> dict[str, str]:
    about = KINDS[kind]
    units = ROWS if about.unit == "prompt_group" else ROWS // ROWS_PER_SUBJECT
    clients = "\n".join(
        f'[[client]]\nname = "{client}"\ndata = "data/{client}.jsonl"\nreward = "rewards:reward"\n{about.client}'
        for client in CLIENTS
    )
    evaluation = 'data = "data/evaluation.jsonl"  # rows that no client holds, and that may be public\n'
    evaluation += 'reward = "rewards:reward"\n' if kind == "chat" else ""
    config = HEAD.format(
        name=name,
        about=about.about,
        unit=about.unit,
        units=units,
        evaluation=evaluation,
        sections=about.sections,
        server_step=about.server_step,
    )
    readme = README.format(name=name, about=about.about, more=CHAT if kind == "chat" else OTHER_MODEL)
    return {PROJECT: config + clients, "rewards.py": about.reward, "README.md": readme}


HEAD = """# Four organisations: {about}. Every key: fgrpo config

[run]
name = "{name}"

[federation]
rounds = 6

[evaluation]
{evaluation}every = 3

[privacy]
unit = "{unit}"
epsilon = 8.0  # for the whole run, against the server and readers of the model
units_per_client = {units}  # the most that any client holds; public
clip_norm = 0.01

[aggregation]
max_dropout = 0.0  # a sum of fewer than four would show too much; with more clients some may be lost

[server]
learning_rate = {server_step}.0

[engine]
processes = 2  # all four are simulated on this machine

{sections}"""
README = """# A federation of your own

Four organisations train one adapter on data that stays with each: {about}.

1. `fgrpo plan`, in this folder: what it costs and guarantees, and whether it can learn. Then `fgrpo run`: a few minutes
   at most.
2. `fgrpo verify runs/{name}`, and open `runs/{name}/report.html`.
3. Make it yours, and begin again with `fgrpo plan --try`: `data/*.jsonl` has one JSON object on each line, with a
   `prompt`; other columns reach the reward in `rewards.py` by name. `data/evaluation.jsonl` holds rows of nobody, which
   pass rates are measured on. `fgrpo.toml` says who takes part and what is protected; `fgrpo config` explains each key.

On this machine all organisations are simulated, and whoever runs it can read everything. What each of them accepts from
a server stands in `runs/{name}.owners/policies/` after the first run. A guarantee for each organisation as a whole
is out of reach of four: without `units_per_client`, and with `privacy.unit = "client"`, `fgrpo plan` says what it
takes. A reward that fails for a row costs that row its say and shows nowhere but in the log of its owner,
`runs/{name}.owners/host-*/NAME.log`.

{more}"""
OTHER_MODEL = """The shipped model is tiny: 64 symbols, lower case, 64 tokens of prompt and completion together.
`fgrpo plan` refuses prompts that it cannot read. For other text take any Hugging Face causal language model that has
safetensors: download it (`hf download Qwen/Qwen2.5-0.5B-Instruct --local-dir model`), write `[model] path = "model"`,
and raise `grpo.max_completion_length`.
"""
CHAT = """The folder `model/` is the shipped tiny model with a chat template: 64 symbols, lower case, 64 tokens of
prompt and reply together. It shows the way and cannot talk. For real messages put another model into its place:

    hf download Qwen/Qwen2.5-0.5B-Instruct --local-dir model

and set `grpo.max_completion_length = 128`. Any causal language model of the hub with safetensors and a chat template
will do; `fgrpo plan --try` loads it and says what does not fit.
"""
