"""The base model of a run: any Hugging Face causal language model, frozen, with digests of what was really loaded."""

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fgrpo_secure.config import Model

BUILTIN = "builtin"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ModelError(ValueError):
    """The model cannot be used; the sentence says why and what is allowed."""


@dataclass(frozen=True)
class BaseModel:
    """A frozen model and its tokenizer. Digests are 32 bytes."""

    model: Any
    tokenizer: Any
    digest: bytes
    tokenizer_digest: bytes
    context_length: int


def load(settings: Model) -> BaseModel:
    """The model that `settings` names, in evaluation mode, all parameters frozen. Raises ModelError."""
    source = _source(settings.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(source, dtype=DTYPES[settings.dtype])
        model = torch.nn.Module.to(model, settings.device)
    except (OSError, ValueError, KeyError, RuntimeError) as problem:
        first_line = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise ModelError(
            f"model.path {settings.path!r} is not a causal language model that loads: {first_line}"
        ) from None
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model.path {settings.path!r}: its tokenizer has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.eval().requires_grad_(False)
    length = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    return BaseModel(model, tokenizer, state_digest(model.state_dict()), _tokenizer_digest(tokenizer), int(length))


def state_digest(state: dict[str, torch.Tensor]) -> bytes:
    """SHA-256 over names, types, shapes and bytes of tensors, in the order of their names."""
    hasher = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        hasher.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.digest()


def _source(path: str) -> str:
    if path == BUILTIN:
        return str(resources.files("fgrpo_secure.tasks") / "base_model")
    folder = Path(path)
    if not folder.exists():
        if path.count("/") == 1 and not path.startswith((".", "/")):
            return path  # a hub id
        raise ModelError(f"model.path {path!r} does not exist; give a Hugging Face model folder, a hub id or 'builtin'")
    if not (folder / "config.json").is_file():
        raise ModelError(f"model.path {path!r} is not a Hugging Face model folder: it has no config.json")
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise ModelError(f"model.path {path!r} holds no weights: neither *.safetensors nor *.bin")
    return path


def _tokenizer_digest(tokenizer: Any) -> bytes:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    specials = repr(sorted((key, str(value)) for key, value in tokenizer.special_tokens_map.items()))
    return hashlib.sha256(f"{text}\n{specials}".encode()).digest()
