"""When a client was first asked to begin its present session: on disk before it begins, so that whatever dies knows.

A daemon that comes back announces its client when the one before would have, and trains again only where its owner
had stopped it: neither its time nor a second end tells what the data did to the first. A server that asks for something
else in between makes this forget; that a session was begun before stands in its record, too, where nobody can (`Host`).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from fgrpo_secure import entropy
from fgrpo_secure.storage.run_directory import write_durably


@dataclass
class FirstAsked:
    """See the module. The session is known by the id of the question that begins it."""

    path: Path
    _here: tuple[bytes, float] | None = field(default=None, repr=False)  # asked by this process, on its stopwatch

    def ask(self, id: bytes) -> tuple[float, bool, bool]:
        """The session is asked to begin: the seconds since it first was, whether it may train, and whether it may again
        because its owner had stopped it. OSError if that cannot be kept."""
        found = self._read()
        if found is None or found[0] != id:
            self._write(id, entropy.unix_time(), False)
            self._here = id, entropy.stopwatch()
            return 0.0, True, False
        _, since, stopped = found
        if stopped:
            self._write(id, since, False)
        if self._here is not None and self._here[0] == id:
            return entropy.stopwatch() - self._here[1], stopped, stopped
        return max(0.0, entropy.unix_time() - since), stopped, stopped

    def forgive(self) -> None:
        """Its owner stops it: what it was doing has not ended it."""
        found = self._read()
        if found is not None:
            self._write(found[0], found[1], True)

    def _write(self, id: bytes, since: float, stopped: bool) -> None:
        record = {"question": id.hex(), "since": since, "stopped": stopped}
        write_durably(self.path, json.dumps(record).encode(), mode=0o600)

    def _read(self) -> tuple[bytes, float, bool] | None:
        """What was written, which only a disk can have spoiled: then nothing is known."""
        try:
            found = json.loads(self.path.read_bytes())
            return bytes.fromhex(found["question"]), float(found["since"]), bool(found["stopped"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
