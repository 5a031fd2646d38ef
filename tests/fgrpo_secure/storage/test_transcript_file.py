"""A spoiled session's transcript, written as its messages come."""

import mmap

import pytest

from fgrpo_secure.storage.transcript_file import Writer
from protocols import wire
from protocols.transcript import Entry
from protocols.wire import Step


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, 100_000])
def test_a_message_is_written_as_its_one_byte_form_also_from_a_file_that_is_not_read_whole(tmp_path, size):
    (tmp_path / "message").write_bytes(message := bytes(range(256)) * (size // 256) + bytes(size % 256))
    expected = wire.encode(Entry(Step.MASK, 70_000, message))
    messages = [message]
    if size:
        with (tmp_path / "message").open("rb") as file:
            messages.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    for each in messages:
        writer = Writer(tmp_path / "sessions", b"s" * 32, b"plan", b"roster")
        writer(Step.MASK, 70_000, each)
        writer.keep()
        (written,) = (tmp_path / "sessions").iterdir()
        assert written.read_bytes().endswith(len(expected).to_bytes(4, "big") + expected)
