"""Answers on the server's disk, from the first piece until their session is settled.

    <root>/<session number>/<id>.part     pieces as they come
                            <id>          whole: synced, then renamed
                            <name>.closed the answers that a step ended with, written before the next step begins

What is whole survives any crash, and what a step ended with is known after it: a server that comes back asks only for
what is missing, and goes on with the very answers that it had.
"""

import json
import os
import shutil
import threading
from collections.abc import Container
from pathlib import Path

from fgrpo_secure.storage.run_directory import write_durably


class Spool:
    """See the module. `open_session` first; a session's number names its folder.

    The round's thread discards while the network's finishes what comes late: whichever is first, both go on.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = root
        self._changing = threading.Lock()

    def open_session(self, name: str) -> None:
        """Keep answers of session `name` from now on, and what is there of it; of any other, nothing."""
        with self._changing:
            self._folder = self._root / name
            for other in self._root.iterdir():
                if other != self._folder:  # a piece on its way may make a file in it meanwhile: the next session's turn
                    shutil.rmtree(other, ignore_errors=True)
            self._folder.mkdir(exist_ok=True, mode=0o700)

    def discard(self, but: Container[bytes] = ()) -> None:
        """The session is settled: nothing of it is needed again but answers `but` these, and their pieces."""
        with self._changing:
            for path in self._folder.iterdir():
                if not _is_one(path.stem, but):
                    path.unlink()

    def drop(self, id: bytes) -> None:
        """What lies there as a whole answer is none."""
        with self._changing:
            (self._folder / id.hex()).unlink(missing_ok=True)

    def whole(self, id: bytes) -> Path | None:
        """The file of an answer that is there from end to end."""
        path = self._folder / id.hex()
        return path if path.exists() else None

    def part(self, id: bytes) -> Path:
        """The file of an answer's pieces so far."""
        return self._folder / f"{id.hex()}.part"

    def kept(self, id: bytes) -> int:
        """How many bytes of an answer are here."""
        path = self.whole(id) or self.part(id)
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0

    def finish(self, id: bytes) -> bool:
        """All pieces are there and synced: the answer is whole. False if they were discarded meanwhile."""
        with self._changing:
            try:
                self.part(id).replace(self._folder / id.hex())
            except FileNotFoundError:
                return False
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return True

    def close_step(self, name: str, clients: list[int]) -> None:
        """The step ended with the answers of these clients: durable when this returns."""
        write_durably(self._folder / f"{name}.closed", json.dumps(clients).encode(), mode=0o600)

    def closed(self, name: str) -> list[int] | None:
        """Whose answers a step ended with before a crash; None if it had not ended."""
        path = self._folder / f"{name}.closed"
        return [int(client) for client in json.loads(path.read_bytes())] if path.exists() else None


def _is_one(name: str, ids: Container[bytes]) -> bool:
    try:
        return bytes.fromhex(name) in ids
    except ValueError:  # the record of a step that ended
        return False
