"""What a plan must know of an adapter: the shapes of its factors. Nothing of their values, and no torch.

A running client or server takes the shapes from the adapter it has; `fgrpo plan` reads them off the model's files.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fgrpo_secure.config import model_files
from fgrpo_secure.config.schema import Adapter

Shape = tuple[int, ...]
BYTES_PER_NUMBER = 4  # factors are float32, whatever the base model is
ALIGNMENT = 8  # of a safetensors header


@dataclass(frozen=True)
class AdapterShape:
    """The factors of an adapter by name, A with shape (rank, in) and B with shape (out, rank)."""

    tensors: Mapping[str, Shape]
    settings: Adapter

    def dimension(self, training_round: int) -> int:
        """Coordinates that a round trains and sends."""
        letters = self.settings.letters(training_round)
        return sum(
            math.prod(shape)
            for name, shape in self.tensors.items()
            if any(f"lora_{letter}" in name for letter in letters)
        )

    def with_rank(self, rank: int) -> "AdapterShape":
        """The same adapter with another rank."""
        tensors = {
            name: (rank, shape[1]) if "lora_A" in name else (shape[0], rank) for name, shape in self.tensors.items()
        }
        return AdapterShape(tensors, self.settings.model_copy(update={"rank": rank}))

    @property
    def file_bytes(self) -> int:
        """Bytes of all factors as safetensors, which is how a round's adapter reaches the clients."""
        header: dict[str, object] = {}
        end = 0
        for name, shape in sorted(self.tensors.items()):
            begin, end = end, end + BYTES_PER_NUMBER * math.prod(shape)
            header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
        text = len(json.dumps(header, separators=(",", ":")))
        return 8 + -(-text // ALIGNMENT) * ALIGNMENT + end


class Shaped(Protocol):
    """An adapter that is loaded somewhere."""

    @property
    def settings(self) -> Adapter: ...

    def shapes(self) -> Mapping[str, Shape]: ...


def of(adapter: Shaped) -> AdapterShape:
    """The shape of an adapter at hand."""
    return AdapterShape(adapter.shapes(), adapter.settings)


def read(path: str, settings: Adapter) -> AdapterShape | None:
    """The shape of a fresh adapter on the model in folder `path`, from the headers of its weight files.

    None where the files alone do not say: a hub id, weights that are renamed when they are loaded, a target that is
    no matrix, and which matrices are linear layers. Loading the model then says more, or refuses with the reason.
    """
    folder = model_files.folder(path)
    found = None if folder is None else model_files.shapes(folder)
    if folder is None or found is None or isinstance(settings.targets, str):
        return None
    transposed = _transposes(folder)
    tensors: dict[str, Shape] = {}
    for target in settings.targets:
        matches = [name for name in found if _is_weight_of(name, target)]
        if not matches or any(len(found[name]) != 2 for name in matches):
            return None
        for name in matches:
            rows, columns = found[name] if not transposed else found[name][::-1]
            module = "base_model.model." + name.removesuffix(".weight")
            tensors[f"{module}.lora_A.default.weight"] = (settings.rank, columns)
            tensors[f"{module}.lora_B.default.weight"] = (rows, settings.rank)
    return AdapterShape(tensors, settings)


def _is_weight_of(name: str, target: str) -> bool:
    return name == f"{target}.weight" or name.endswith(f".{target}.weight")


def _transposes(folder: Path) -> bool:
    """Whether linear layers are stored as (in, out): GPT-2's and its predecessor's `Conv1D` alone."""
    return model_files.model_type(folder) in {"gpt2", "openai-gpt"}
