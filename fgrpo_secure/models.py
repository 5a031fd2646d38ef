"""The base model of a run: any Hugging Face causal language model, frozen, with digests of what was really loaded.

Only safetensors are read: other weight files are pickles, and those run code. For the same reason a model that
brings its own code is refused.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from fgrpo_secure.config import Model
from fgrpo_secure.errors import UnusableInput

BUILTIN = "builtin"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NOT_THE_FUNCTION = ("_name_or_path", "architectures", "dtype", "transformers_version")  # the rest of a config is
UNLOADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError)


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


def load(settings: Model) -> BaseModel:
    """The model that `settings` names, in evaluation mode, all parameters frozen.

    Raises ModelError: nothing there, no tokenizer, no causal language model, or weights missing from it.
    """
    _check_device(settings.device)
    source = _source(settings.path)
    tokenizer = _load_tokenizer(source, settings.path)
    model = _load_network(source, settings)
    largest = max(tokenizer.vocab_size - 1, tokenizer.eos_token_id, tokenizer.pad_token_id)
    if largest >= model.get_input_embeddings().num_embeddings:
        raise ModelError(f"model.path {settings.path!r}: its tokenizer knows more tokens than the model embeds")
    digest = state_digest(model.state_dict(), _function_of(model.config))
    model.eval().requires_grad_(False).to(settings.device)
    length = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    return BaseModel(model, tokenizer, digest, _tokenizer_digest(tokenizer), int(length))


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
    except (RuntimeError, AssertionError, NotImplementedError):  # torch raises any of them for a device it lacks
        raise ModelError(f"model.device {device!r} is not available here; 'cpu' always is") from None


def _source(path: str) -> str:
    if path == BUILTIN:
        path = str(resources.files("fgrpo_secure.tasks") / "base_model")
    folder = Path(path)
    if not folder.exists():
        if path.count("/") == 1 and not path.startswith((".", "/")):
            return path  # a hub id
        raise ModelError(f"model.path {path!r} does not exist; give a Hugging Face model folder, a hub id or 'builtin'")
    if not (folder / "config.json").is_file():
        raise ModelError(f"model.path {path!r} is not a Hugging Face model folder: it has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"model.path {path!r} holds no weights: it has no *.safetensors file")
    return path


def _load_tokenizer(source: str, path: str) -> Any:
    try:
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
        with _no_progress_bar():
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
    if "past_key_values" not in signature(type(model).forward).parameters:
        raise ModelError(f"model.path {settings.path!r}: {type(model).__name__} has no key-value cache")
    return model


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Loading takes a moment, and the terminal belongs to the command line."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
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


def _tokenizer_digest(tokenizer: Any) -> bytes:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = repr(sorted(tokenizer.get_vocab().items())) if backend is None else backend.to_str()
    specials = json.dumps({key: str(value) for key, value in tokenizer.special_tokens_map.items()}, sort_keys=True)
    return hashlib.sha256(json.dumps([text, specials]).encode()).digest()
