"""What a model's folder says of itself without loading it: the shapes of its weights and its family.

Only safetensors headers and `config.json` are read. Nothing here runs code of a model, or needs torch.
"""

import json
from importlib import resources
from pathlib import Path

from safetensors import SafetensorError, safe_open

BUILTIN = "builtin"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

Shape = tuple[int, ...]


def folder(path: str) -> Path | None:
    """The folder that a configuration's `model.path` names; None if it names none here, as a hub id does."""
    if path == BUILTIN:
        return Path(str(resources.files("fgrpo_secure"))) / "learning" / "tasks" / "base_model"
    return Path(path) if Path(path).is_dir() else None


def problem_of(model: Path) -> str:
    """What makes a folder no base model, if anything: the sentence goes on from its name."""
    if not (model / "config.json").is_file():
        return "is not a Hugging Face model folder: it has no config.json"
    if (model / "adapter_config.json").is_file():  # the library would load it into the base, unseen
        return "holds a PEFT adapter: name its base model there, and the adapter in adapter.init_from"
    return "" if any(model.glob("*.safetensors")) else "holds no weights: it has no *.safetensors file"


def shapes(model: Path) -> dict[str, Shape] | None:
    """Name and shape of every weight; None if the folder has no safetensors that can be read."""
    found: dict[str, Shape] = {}
    try:
        for part in _parts(model):
            with safe_open(part, framework="np") as weights:
                found |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None
    return found or None


def model_type(model: Path) -> str:
    """The family that `config.json` names; empty if it names none."""
    try:
        stated = json.loads((model / "config.json").read_bytes())
    except (OSError, ValueError):
        return ""
    return str(stated.get("model_type", "")) if isinstance(stated, dict) else ""


def _parts(model: Path) -> list[Path]:
    if (model / WEIGHTS).is_file():
        return [model / WEIGHTS]
    named = set(json.loads((model / INDEX).read_bytes())["weight_map"].values())
    return [model / Path(name).name for name in sorted(named)]  # a part lies in the folder, whatever the index says
