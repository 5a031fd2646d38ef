"""Checkpoints: complete or absent."""

import pytest
import torch

from fgrpo_secure.storage import checkpoint
from fgrpo_secure.storage.checkpoint import Checkpoint, CheckpointError


def at(rounds):
    return Checkpoint(rounds, {"b": torch.full((2, 2), float(rounds))}, {}, {"seconds": 1.5, "rounds": rounds})


def test_the_newest_checkpoint_comes_back_whole(tmp_path):
    for rounds in (1, 2, 10):
        checkpoint.save(tmp_path, at(rounds))
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found.rounds_done == 10
    assert torch.equal(found.adapter["b"], torch.full((2, 2), 10.0))
    assert found.progress == {"seconds": 1.5, "rounds": 10}


def test_a_checkpoint_that_was_being_written_is_ignored(tmp_path):
    checkpoint.save(tmp_path, at(1))
    (tmp_path / ".writing-round-000002").mkdir()
    (tmp_path / ".writing-round-000002" / "adapter.safetensors").write_bytes(b"half")
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found.rounds_done == 1
    checkpoint.save(tmp_path, at(2))
    assert (checkpoint.latest(tmp_path) or at(0)).rounds_done == 2


def test_old_checkpoints_are_dropped(tmp_path):
    for rounds in range(1, 8):
        checkpoint.save(tmp_path, at(rounds))
    assert len(list(tmp_path.iterdir())) == checkpoint.KEPT


def test_no_checkpoint_is_none_and_a_damaged_one_is_named(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    checkpoint.save(tmp_path, at(3))
    (tmp_path / "round-000003" / "progress.json").write_text("{")
    with pytest.raises(CheckpointError, match="round-000003"):
        checkpoint.latest(tmp_path)
