"""One folder per finished round, complete or absent: written aside, synced, then renamed.

Holds only what the server released or may hold: adapter, its optimiser, the round and what it has measured. Never
anything of a client.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.storage.run_directory import settle

KEPT = 3

Part = TypeVar("Part")


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `rounds_done` rounds."""

    rounds_done: int
    adapter: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, torch.Tensor]
    progress: Mapping[str, Any]  # JSON values only


class CheckpointError(UnusableInput):
    """The checkpoint folder cannot be used."""


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` durably under `folder` and drop all but the newest few."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"round-{checkpoint.rounds_done:06d}"
    aside = folder / f".writing-{final.name}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    save_file({k: v.contiguous() for k, v in checkpoint.adapter.items()}, aside / "adapter.safetensors")
    save_file({k: v.contiguous() for k, v in checkpoint.optimizer.items()}, aside / "optimizer.safetensors")
    (aside / "progress.json").write_text(json.dumps(dict(checkpoint.progress), sort_keys=True))
    for path in (*aside.iterdir(), aside):
        settle(path)
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)
    settle(folder)
    for old in _folders(folder)[:-KEPT]:
        shutil.rmtree(old)


def latest(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint under `folder`; None if there is none."""
    found = _folders(folder)
    if not found:
        return None
    newest = found[-1]
    return Checkpoint(
        rounds_done=int(newest.name.removeprefix("round-")),
        adapter=_part(newest / "adapter.safetensors", load_file),
        optimizer=_part(newest / "optimizer.safetensors", load_file),
        progress=_part(newest / "progress.json", lambda path: dict(json.loads(path.read_text()))),
    )


def damaged(folder: Path, rounds_done: int) -> CheckpointError:
    """What to raise where the progress in a checkpoint has not the fields it was written with."""
    return CheckpointError(_complaint(folder / f"round-{rounds_done:06d}" / "progress.json", "damaged"))


def _part(path: Path, read: Callable[[Path], Part]) -> Part:
    if not path.is_file():
        raise CheckpointError(_complaint(path, "missing"))
    try:
        return read(path)
    except (OSError, ValueError, TypeError, SafetensorError):
        raise CheckpointError(_complaint(path, "damaged")) from None


def _complaint(path: Path, harm: str) -> str:
    return f"{path} is {harm}; put it back, or move {path.parent} away to go on from the checkpoint before it"


def _folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("round-[0-9]*"))
