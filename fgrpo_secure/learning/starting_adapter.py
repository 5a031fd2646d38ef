"""A PEFT adapter folder that a run starts from: plain LoRA of the run's shape, read as PEFT reads it, or refused.

PEFT's configuration has dozens of keys that change what the factors mean (scales by layer, other initialisations that
change the base model itself, magnitudes, activation tokens). Whatever is not known to leave the function alone is
refused by name: a key of a later version, too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file

from fgrpo_secure.config.schema import Adapter
from fgrpo_secure.learning.models import ModelError

# What says nothing about the function, or is compared by the tensors themselves. Dropout sleeps outside training.
HARMLESS = frozenset(
    {
        "task_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
        "target_modules", "exclude_modules", "lora_dropout", "fan_in_fan_out", "megatron_core", "qalora_group_size",
        "ensure_weight_tying",
    }
)  # fmt: skip
PLAIN_STARTS = (True, False, "gaussian")  # of init_lora_weights: others change the base model's weights as well


def factors(settings: Adapter) -> dict[str, torch.Tensor]:
    """The folder's tensors, by the names that a file has for them. Raises ModelError."""
    where = f"adapter.init_from {settings.init_from!r}"
    folder = Path(settings.init_from or "")
    weights, about = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    if not weights.is_file() or not about.is_file():
        raise ModelError(f"{where} is not a PEFT adapter folder with {about.name} and {weights.name}")
    try:
        stated, saved = json.loads(about.read_bytes()), load_file(weights)
    except (OSError, ValueError, SafetensorError):
        raise ModelError(f"{where} holds files that cannot be read") from None
    if not isinstance(stated, dict):
        raise ModelError(f"{where} holds files that cannot be read")
    _check(stated, settings, where)
    return saved


def _check(stated: Mapping[str, Any], settings: Adapter, where: str) -> None:
    usual = LoraConfig().to_dict()
    same = {
        "peft_type": "LORA", "r": settings.rank, "lora_alpha": settings.alpha, "use_rslora": settings.rslora
    }  # fmt: skip
    for key, wanted in same.items():
        if stated.get(key, usual.get(key)) != wanted:
            raise ModelError(f"{where} has {key} {stated.get(key)!r}, but this run's adapter has {wanted!r}")
    if stated.get("init_lora_weights", True) not in PLAIN_STARTS:
        raise ModelError(
            f"{where} has init_lora_weights {stated['init_lora_weights']!r}, with which PEFT may change the base "
            "model's weights, too; convert it to plain LoRA (path_initial_model_for_weight_conversion in PEFT)"
        )
    for key, value in stated.items():
        if key in HARMLESS or key in same or key == "init_lora_weights":
            continue
        if value and value != usual.get(key):
            raise ModelError(
                f"{where} has {key} = {json.dumps(value)}; only plain LoRA, of one rank and one alpha, is supported"
            )
