"""Everything that a configuration names, looked at without a model and without torch: files, columns, subjects,
rewards and their signatures, the evaluation, the model's folder, and whether prompts fit it.

`fgrpo plan` and `fgrpo run` both begin here, so that a plan refuses what a run would. What needs the model itself is
in `preflight`. Sentences name files and lines, and quote nothing that an owner's data says.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from fgrpo_secure.config import model_files
from fgrpo_secure.config.schema import GYM, Client, Config
from fgrpo_secure.config.unit_rules import SMALL_UNITS
from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.learning.grpo import prompts
from fgrpo_secure.learning.grpo.isolated_reward import IsolatedReward
from fgrpo_secure.learning.grpo.reward_call import RewardError, RewardFunction
from fgrpo_secure.learning.tasks import (
    ALL_TASKS,
    Row,
    UnusableData,
    evaluation_reward,
    evaluation_sets,
    gym,
    open_source,
    open_units,
    reward_of,
)
from fgrpo_secure.learning.tasks.files import TAKEN
from fgrpo_secure.learning.tasks.sources import FileSource
from fgrpo_secure.learning.trainers import trainer_process
from fgrpo_secure.run import same_data

SAMPLED_PROMPTS = 64  # of a procedural task, whose prompts are all alike
HUB_SECONDS = 5.0
TOKENIZER = "tokenizer.json"
SPECIAL = ("bos_token", "eos_token", "unk_token")
LEFT = "whether prompts fit the model: `fgrpo plan --try` loads it and says"
LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx")  # what families call the length of their context


class UnusableModel(UnusableInput):
    """The base model cannot be used; the sentence says why and what is allowed."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was found. `not_checked` needs the model itself."""

    rows: tuple[tuple[str, int], ...]
    not_checked: tuple[str, ...]

    def facts(self) -> dict[str, object]:
        """By public name."""
        return {
            "inputs.rows": dict(self.rows),
            "inputs.not_checked": list(self.not_checked),
        }


def check(config: Config) -> Inputs:
    """Raises UnusableData, UnusableModel or RewardError with the first thing that a run would refuse."""
    check_clients(config)
    evaluation = evaluation_sets(config.client, config.evaluation)
    for problems in evaluation.values():
        _check_columns("evaluation", [evaluation_reward(config.evaluation, problems)], problems)
    same_data.refuse(config)
    fits, not_checked = _fitting(config)
    counts, held = [], []
    for client in config.client:
        found = rows(config, client)
        held.append(found[:1])
        check_rewards(client, found)
        fits(found, f"client {client.name!r}")
        if client.data is not None or client.rows is not None:
            counts.append((client.name, len(found)))
    for name, problems in evaluation.items():
        fits(problems, f"evaluation set {name!r}")
    messages = any(isinstance(row["prompt"], list) for found in (*held, *evaluation.values()) for row in found)
    return Inputs(tuple(counts), not_checked or ((LEFT,) if messages else ()))


def check_clients(config: Config) -> None:
    """Tasks that do not exist, rewards or trainers that cannot be found. Raises UnusableData,
    RewardError or TrainerError."""
    for client in config.client:
        if client.task is not None and client.task.startswith(GYM):
            gym.check(client)
        elif client.task is not None and client.task not in ALL_TASKS:
            allowed = f"{', '.join(ALL_TASKS)}, or '{GYM}NAME'"
            raise UnusableData(f"client {client.name!r} has task {client.task!r}; allowed are {allowed}")
        for spec in client.rewards:
            reward_of(client, spec)
        if client.trainer is not None:
            trainer_process.check(client.trainer, client.trainer_settings)


def rows(config: Config, client: Client) -> list[Row]:
    """All rows of a file, or some of a procedural task. Raises UnusableData."""
    if config.privacy.unit not in SMALL_UNITS:
        source = open_source(client, config.run.seed, 0)
        return source.rows if isinstance(source, FileSource) else source.batch(0, 0, SAMPLED_PROMPTS)
    table = open_units(client, config.run.seed, 0, config.privacy.unit, config.units_per_client)
    if table.left_out:
        raise UnusableData(table.left_out[0])
    if not table.rows:
        raise UnusableData(f'{client.data} has no rows; each line must be a JSON object with a "prompt" string')
    return [row for rows in table.rows.values() for row in rows]


def check_rewards(client: Client, found: Sequence[Row]) -> list[RewardFunction]:
    """The client's reward functions, if they can be called with these rows. Raises RewardError."""
    functions = [reward_of(client, spec) for spec in client.rewards]
    _check_columns(f"client {client.name!r}", functions, found)
    return functions


def _check_columns(whose: str, functions: Sequence[RewardFunction], found: Sequence[Row]) -> None:
    columns = {column for row in found for column in row} | set(TAKEN)
    for function in (each for each in functions if isinstance(each, IsolatedReward)):
        for missing in sorted(function.asks - columns):
            raise RewardError(f"{whose}: reward {function.spec!r} asks for {missing!r}, which no row has")


Fits = Callable[[Sequence[Row], str], None]


def _fitting(config: Config) -> tuple[Fits, tuple[str, ...]]:
    """A function that refuses prompts which the model cannot take; and what is left for the loaded model to say."""
    folder = _model_folder(config.model.path)
    length = None if folder is None else _context(folder, config.model.path)
    if folder is None or length is None or not (folder / TOKENIZER).is_file() or config.grpo.prompts != "as_given":
        return (lambda *_: None), (LEFT,)
    tokenizer = FileTokenizer.read(folder, config.model.path)

    def fits(found: Sequence[Row], whose: str) -> None:
        try:
            texts = [row["prompt"] for row in found if isinstance(row["prompt"], str)]
            prompts.check(tokenizer, texts, config.grpo, length)
        except prompts.UnusablePrompt as problem:
            raise UnusableData(f"{whose}: a prompt cannot be used: {problem}") from None
        except (ValueError, TypeError):  # half of a surrogate pair is no text
            raise UnusableData(f"{whose}: a prompt cannot be used: it is no text that can be encoded") from None

    return fits, ()


@dataclass(frozen=True, slots=True)
class FileTokenizer:
    """A tokenizer as its file says, with what `prompts.check` asks of a loaded one. It knows no chat template."""

    tokens: Any
    special: Mapping[str, int | None]

    @staticmethod
    def read(folder: Path, path: str) -> "FileTokenizer":
        """Raises UnusableModel."""
        try:
            tokens = Tokenizer.from_buffer((folder / TOKENIZER).read_bytes())
        except OSError as problem:
            raise UnusableModel(f"model.path {path!r}: its {TOKENIZER} cannot be read: {problem.strerror}") from None
        except ValueError as problem:
            said = str(problem).splitlines()[0][:120]
            raise UnusableModel(f"model.path {path!r} has no tokenizer that loads: {said}") from None
        tokens.no_padding()
        tokens.no_truncation()
        named = _object(folder / "tokenizer_config.json")
        return FileTokenizer(tokens, {key: _id(tokens, named.get(key)) for key in SPECIAL})

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": self.tokens.encode(text).ids}

    @property
    def bos_token_id(self) -> int | None:
        return self.special["bos_token"]

    @property
    def eos_token_id(self) -> int | None:
        return self.special["eos_token"]

    @property
    def unk_token_id(self) -> int | None:
        return self.special["unk_token"]


def _id(tokens: Any, named: object) -> int | None:
    text = named.get("content") if isinstance(named, dict) else named
    return tokens.token_to_id(text) if isinstance(text, str) else None


def _object(file: Path) -> dict[str, Any]:
    """What a JSON file holds; empty if it holds no object."""
    try:
        stated = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return stated if isinstance(stated, dict) else {}


def _model_folder(path: str) -> Path | None:
    """The model's folder; None for the id of one on the hub that can be had. Raises UnusableModel."""
    try:
        folder = model_files.folder(path)
        exists = Path(path).exists()
    except (OSError, ValueError):
        folder, exists = None, False
    if folder is None:
        if exists or path.count("/") != 1 or path.startswith((".", "/")):
            raise UnusableModel(
                f"model.path {path[:80]!r} does not exist; give a Hugging Face model folder, a hub id or 'builtin'"
            )
        _check_hub(path)
        return None
    problem = model_files.problem_of(folder)
    if problem:
        raise UnusableModel(f"model.path {path!r} {problem}")
    return folder


def _check_hub(path: str) -> None:
    """Returns if the model is here already, or the hub has it. Raises UnusableModel, within seconds."""
    import huggingface_hub  # only a hub id needs it, and half a second to load
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    # Of the library that carries the request, whichever it is.
    unreachable = tuple(each for each in HfHubHTTPError.__bases__ if issubclass(each, Exception))
    try:
        if isinstance(huggingface_hub.try_to_load_from_cache(path, "config.json"), str):
            return
        huggingface_hub.HfApi().model_info(path, timeout=HUB_SECONDS)
    except HFValidationError:
        raise UnusableModel(f"model.path {path!r} is neither a folder here nor an id of the hub") from None
    except OfflineModeIsEnabled:
        reason = "the hub is switched off here"
    except HfHubHTTPError:
        raise UnusableModel(
            f"model.path {path!r} is neither a folder here nor a model that the hub gives out"
        ) from None
    except unreachable as problem:
        reason = f"the hub cannot be reached ({type(problem).__name__})"
    else:
        return
    raise UnusableModel(
        f"model.path {path!r} is no folder here, and {reason}; download the model where there is a network and give "
        "the path of its folder"
    )


def _context(folder: Path, path: str) -> int | None:
    """Tokens of the model's context, as its config.json says; None if it does not."""
    stated = _object(folder / "config.json")
    if not stated:
        raise UnusableModel(f"model.path {path!r}: its config.json is no JSON object that says anything")
    return next((stated[name] for name in LENGTHS if isinstance(stated.get(name), int)), None)
