"""The released adapter, read without torch: shapes for the plan, and the digest that clients signed in the end."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgrpo_secure.config.schema import Adapter
from fgrpo_secure.plan.adapter_shape import AdapterShape
from fgrpo_secure.storage.signed_file import BadFile

NAME = "adapter/adapter_model.safetensors"
LARGEST_HEADER = 16 << 20
PIECE = 1 << 20
FLOAT32 = "F32"
ADDED = ".default.weight"  # how PEFT names a factor that is loaded; it saves it as ".weight"


@dataclass(frozen=True)
class AdapterFile:
    """Shapes by the names that a loaded adapter has, and the digest over its tensors (see `state_digest`)."""

    shapes: Mapping[str, tuple[int, ...]]
    digest: bytes

    def shape(self, settings: Adapter) -> AdapterShape:
        """What a plan must know of it."""
        return AdapterShape(self.shapes, settings)


def read(root: Path) -> AdapterFile:
    """The adapter in a run's directory. BadFile if it is none of float32 factors, in one piece each."""
    path = root / NAME
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LARGEST_HEADER:
                raise BadFile(f"{NAME} has a header of {length:,} bytes")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            shapes = {_loaded(name): _shape(about) for name, about in header.items()}
            offsets = {_loaded(name): about["data_offsets"] for name, about in header.items()}
            _check_layout(offsets, shapes, path.stat().st_size - 8 - length)
            hasher = hashlib.sha256()
            _add(hasher, "")
            for name in sorted(shapes):
                _add(hasher, name)
                _add(hasher, f"torch.float32 {shapes[name]}")
                file.seek(8 + length + offsets[name][0])
                _add_bytes(hasher, file, offsets[name][1] - offsets[name][0])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadFile(f"{NAME} is not an adapter of float32 factors") from None
    return AdapterFile(shapes, hasher.digest())


def _loaded(name: str) -> str:
    if not name.endswith(".weight"):
        raise ValueError("not a factor")
    return name.removesuffix(".weight") + ADDED


def _shape(about: Mapping[str, Any]) -> tuple[int, ...]:
    if about["dtype"] != FLOAT32 or len(about["shape"]) != 2:
        raise ValueError("not a float32 matrix")
    rows, columns = about["shape"]
    return int(rows), int(columns)


def _check_layout(offsets: Mapping[str, list[int]], shapes: Mapping[str, tuple[int, ...]], size: int) -> None:
    """Tensors fill the file without gaps: no byte of it is covered by no digest."""
    end = 0
    for name, (start, stop) in sorted(offsets.items(), key=lambda each: each[1]):
        rows, columns = shapes[name]
        if start != end or stop - start != 4 * rows * columns:
            raise ValueError("tensors overlap or leave gaps")
        end = stop
    if end != size:
        raise ValueError("bytes after the tensors")


def _add(hasher: Any, text: str) -> None:
    hasher.update(len(text.encode()).to_bytes(8, "little") + text.encode())


def _add_bytes(hasher: Any, file: Any, count: int) -> None:
    while count:
        piece = file.read(min(count, PIECE))
        if not piece:
            raise ValueError("cut short")
        hasher.update(piece)
        count -= len(piece)
