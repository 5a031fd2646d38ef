"""The base model of a run: any Hugging Face causal language model, frozen, with digests of what was really loaded.

Only safetensors are read: other weight files are pickles, and those run code. For the same reason a model that
brings its own code is refused.
"""

import hashlib
import io
import json
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from fgrpo_secure.config import model_files
from fgrpo_secure.config.schema import Model
from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.learning.grpo import forward

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NOT_THE_FUNCTION = ("_name_or_path", "architectures", "dtype", "transformers_version")  # the rest of a config is
TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model")  # tokenizer.json, vocab.txt or vocab.json, a sentencepiece model
UNLOADABLE = (  # what libraries raise for files that may say anything: no heads, a length of 2^63, half a list
    OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError,
    ArithmeticError, MemoryError, AssertionError, EOFError, struct.error, StrictDataclassError,
)  # fmt: skip


class ModelError(UnusableInput):
    """The model or adapter cannot be used; the sentence says why and what is allowed."""


@dataclass(frozen=True)
class BaseModel:
    """A frozen model and its tokenizer, which pads on the left. Digests are 32 bytes, lengths are in tokens."""

    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    digest: bytes
    tokenizer_digest: bytes
    context_length: int
    settings: Model  # what it was loaded by: a trainer's own process loads it again
    from_cache: bool = True  # whether completions are read from a prompt's cache: see `forward`

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end a completion, ascending: the tokenizer's, and those that the model's own generation
        settings name (a chat model's turn often ends with another token than its texts)."""
        return _end_ids(self.model, self.tokenizer)


def load(settings: Model) -> BaseModel:
    """The model that `settings` names, in evaluation mode, all parameters frozen.

    Raises ModelError: nothing there, no tokenizer, no causal language model, or weights missing from it.
    """
    _check_device(settings.device)
    source = _source(settings.path)
    tokenizer = _load_tokenizer(source, settings.path)
    model = _load_network(source, settings)
    known = tokenizer.get_vocab().values()  # tokens that were added later, too: `vocab_size` leaves those out
    largest = max(*known, tokenizer.eos_token_id, tokenizer.pad_token_id)
    if largest >= model.get_input_embeddings().num_embeddings:
        raise ModelError(f"model.path {settings.path!r}: its tokenizer knows more tokens than the model embeds")
    digest = state_digest(model.state_dict(), _function_of(model.config))
    model.eval().requires_grad_(False).to(settings.device)
    from_cache = forward.reads_from_cache(model)
    if not (from_cache or forward.is_causal(model)):
        raise ModelError(
            f"model.path {settings.path!r}: {type(model).__name__} does not read from left to right; take a causal "
            "language model, which says nothing about a token that depends on later ones"
        )
    if settings.gradient_checkpointing and not forward.recomputable(model):
        raise ModelError(
            f"gradient_checkpointing: {type(model).__name__} has no layers that the library can compute twice; "
            "leave it out"
        )
    length = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    return BaseModel(model, tokenizer, digest, _tokenizer_digest(model, tokenizer), int(length), settings, from_cache)


def state_digest(state: Mapping[str, torch.Tensor], about: str = "") -> bytes:
    """SHA-256 over `about` and the names, types, shapes and bytes of tensors, in the order of their names.

    Each text is preceded by its length and each shape fixes how many bytes follow, so that two different states
    never hash the same bytes. How a model is divided into files does not matter.
    """
    hasher = hashlib.sha256()

    def add(text: str) -> None:
        hasher.update(len(text.encode()).to_bytes(8, "little") + text.encode())

    add(about)
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        add(name)
        add(f"{tensor.dtype} {tuple(tensor.shape)}")
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.digest()


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as problem:  # torch raises either for a device it lacks
        said = str(problem).splitlines()[0][:120]
        raise ModelError(f"model.device {device!r} is not available here; 'cpu' always is: {said}") from None


def _source(path: str) -> str:
    if path == model_files.BUILTIN:
        path = str(model_files.folder(path))
    folder = Path(path)
    if not folder.exists():
        if path.count("/") == 1 and not path.startswith((".", "/")):
            return path  # a hub id
        raise ModelError(f"model.path {path!r} does not exist; give a Hugging Face model folder, a hub id or 'builtin'")
    problem = model_files.problem_of(folder)
    if problem:
        raise ModelError(f"model.path {path!r} {problem}")
    return path


def _load_tokenizer(source: str, path: str) -> Any:
    folder = Path(source)
    if folder.is_dir() and not any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)):
        # Some versions of the library make up a tokenizer of a few tokens for the model's family.
        raise ModelError(f"model.path {path!r} has no tokenizer that loads: give the folder its tokenizer.json")
    try:
        with quietly():
            tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", trust_remote_code=False)
    except UNLOADABLE as problem:
        raise ModelError(f"model.path {path!r} has no tokenizer that loads: {_first_line(problem)}") from None
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model.path {path!r}: its tokenizer has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked: which token it is does not matter
    return tokenizer


def _load_network(source: str, settings: Model) -> Any:
    try:
        with quietly():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=DTYPES[settings.dtype],
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except UNLOADABLE as problem:
        raise ModelError(
            f"model.path {settings.path!r} is not a causal language model that loads: {_first_line(problem)}"
        ) from None
    model, loading = loaded
    missing = sorted(loading["missing_keys"])
    if missing:  # they would be drawn at random, differently in every client
        raise ModelError(
            f"model.path {settings.path!r} is not a complete causal language model: its files lack {missing[0]!r}"
        )
    unused = sorted(loading["unexpected_keys"])
    if unused:
        raise ModelError(
            f"model.path {settings.path!r} holds weights that {type(model).__name__} does not use, such as "
            f"{unused[0]!r} ({len(unused)} in all): they would be lost; save the causal language model by itself"
        )
    return model


@contextmanager
def quietly() -> Iterator[None]:
    """Loading takes a moment, and the terminal belongs to the command line: no bars, and no tables of what was wrong
    beside the sentence that says so."""
    shown, before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
        if shown:
            logging.enable_progress_bar()


def _first_line(problem: BaseException) -> str:
    lines = str(problem).strip().splitlines()
    return lines[0] if lines else type(problem).__name__


def _function_of(config: Any) -> str:
    """What of a model's configuration changes the function it computes, in one canonical form.

    Only what differs from the defaults: a library that learns a new key would otherwise change the digest.
    """
    stated = {key: value for key, value in config.to_diff_dict().items() if key not in NOT_THE_FUNCTION}
    return json.dumps(stated, sort_keys=True, default=str)


def _end_ids(model: Any, tokenizer: Any) -> list[int]:
    stated = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    named = stated if isinstance(stated, list | tuple) else [] if stated is None else [stated]
    return sorted({int(tokenizer.eos_token_id), *map(int, named)})


def _tokenizer_digest(model: Any, tokenizer: Any) -> bytes:
    """Of everything that turns prompts into tokens, and completions into texts that end: the chat template and further
    end tokens where there are any."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = repr(sorted(tokenizer.get_vocab().items())) if backend is None else backend.to_str()
    specials = json.dumps({key: str(value) for key, value in tokenizer.special_tokens_map.items()}, sort_keys=True)
    ends = _end_ids(model, tokenizer)
    more: dict[str, Any] = {"chat_template": tokenizer.chat_template} if tokenizer.chat_template else {}
    more |= {"end_ids": ends} if len(ends) > 1 else {}
    return hashlib.sha256(json.dumps([text, specials, more] if more else [text, specials]).encode()).digest()
