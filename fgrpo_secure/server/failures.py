"""What the server remembers of sessions that its clients paid for: on disk before anybody pays, kept over crashes.

From it follows whether a run goes on in shards, and which shards stay closed because somebody in them paid for two
sessions without a sum. It names nobody: who is to be left out is the authority's to say, from transcripts.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from fgrpo_secure.ledger.entries import ids_text, read_ids
from fgrpo_secure.plan.division import MOST_PAID
from fgrpo_secure.storage.run_directory import RunDirectoryError

MOST_CLIENTS = 1 << 20
Kind = Literal["asked", "spoiled", "left out"]


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`asked`: these clients are about to be asked for masked vectors. `spoiled`: they paid, and somebody among them
    lied, whoever, in this `session`. `left out`: a new roster revokes some of them, and the run begins to trust the
    others again."""

    kind: Kind
    clients: str
    training_round: int = -1
    session: str = ""


class Failures:
    """The record at `path`. Written by one server only, line by line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[tuple[Kind, int, tuple[int, ...]]] = []
        self._spoiled: set[str] = set()
        for text in path.read_text().splitlines(keepends=True) if path.exists() else ():
            if text.endswith("\n"):  # a last line cut short by a crash came before anybody was asked
                self._lines.append(self._read(text))

    def asked(self, training_round: int, clients: Iterable[int]) -> None:
        """Before anybody is asked for a masked vector."""
        self._write("asked", tuple(clients), training_round)

    def spoiled(self, clients: Iterable[int], session: bytes) -> None:
        """A session of these clients ended without a sum after they paid, because one of them lied. It counts once,
        however often it is told: by whoever conducted it elsewhere, and after a crash again."""
        if session.hex() not in self._spoiled:
            self._write("spoiled", tuple(clients), session=session.hex())

    def left_out(self, clients: Iterable[int]) -> None:
        """The authority's new roster revokes these clients."""
        self._write("left out", tuple(clients))

    def goes_on_in_shards(self, training_round: int) -> bool:
        """Whether the next session of a round should be in shards, if the cohort can be divided.

        Once somebody spoiled a session; or where clients would refuse to repeat a round with everybody again.
        """
        if any(kind == "spoiled" for kind, _, _ in self._since_left_out()):
            return True
        asked: defaultdict[int, Counter[int]] = defaultdict(Counter)
        for kind, number, ids in self._lines:
            if kind == "asked":
                for client in ids:
                    asked[client][number] += 1
        return any(
            rounds[training_round] and rounds.total() - len(rounds) >= MOST_PAID - 1 for rounds in asked.values()
        )

    def may_open(self, clients: Iterable[int]) -> bool:
        """Whether nobody among these clients paid for two sessions that somebody spoiled."""
        spoiled = [set(ids) for kind, _, ids in self._since_left_out() if kind == "spoiled"]
        return all(sum(client in ids for ids in spoiled) < MOST_PAID for client in clients)

    def any_spoiled(self) -> bool:
        """Whether a liar showed itself since the last revocation: from then on transcripts are worth keeping."""
        return any(kind == "spoiled" for kind, _, _ in self._since_left_out())

    def _since_left_out(self) -> list[tuple[Kind, int, tuple[int, ...]]]:
        places = [place for place, (kind, _, _) in enumerate(self._lines) if kind == "left out"]
        return self._lines[places[-1] + 1 :] if places else self._lines

    def _write(self, kind: Kind, clients: tuple[int, ...], training_round: int = -1, session: str = "") -> None:
        line = Line(kind, ids_text(clients), training_round, session)
        with self._path.open("a") as file:
            file.write(json.dumps(msgspec.to_builtins(line)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._lines.append((kind, training_round, tuple(sorted(clients))))
        self._spoiled.add(session)

    def _read(self, text: str) -> tuple[Kind, int, tuple[int, ...]]:
        try:
            line = msgspec.json.decode(text, type=Line)
            self._spoiled.add(line.session)
            return line.kind, line.training_round, read_ids(line.clients, MOST_CLIENTS)
        except (msgspec.MsgspecError, ValueError):
            raise RunDirectoryError(
                f"{self._path} is damaged: a line says nothing; put back an undamaged copy"
            ) from None
