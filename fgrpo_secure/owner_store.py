"""What a data owner must remember between messages and runs: identity, rounds seen, answers given, reward baseline.

SQLite, synchronous: an answer is on disk before it leaves. One file may hold several owners (the embedded engine
keeps all of a process in one, and commits once per step for all of them). The file is private to its owners: it
never enters a run directory, a checkpoint or a message. Answers of settled rounds are deleted, but no forensic
erasure is claimed.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fgrpo_secure.gain import Baseline

SCHEMA = """
CREATE TABLE IF NOT EXISTS identity (owner INTEGER PRIMARY KEY, seed BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS round (owner INTEGER PRIMARY KEY, last INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS answer (
    owner INTEGER NOT NULL, session BLOB NOT NULL, step TEXT NOT NULL,
    request_digest BLOB NOT NULL, state BLOB NOT NULL, reply BLOB NOT NULL,
    PRIMARY KEY (owner, session, step)
) STRICT;
CREATE TABLE IF NOT EXISTS baseline (
    owner INTEGER NOT NULL, training_round INTEGER NOT NULL,
    mean REAL NOT NULL, variance REAL NOT NULL, observations INTEGER NOT NULL,
    PRIMARY KEY (owner, training_round)
) STRICT;
"""


class AnswerConflict(ValueError):
    """The step was answered before, for another request: it is not answered twice."""


class OwnerStore:
    """The durable state of the owners in one file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One synced commit for everything written inside; nothing of it if an exception leaves."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def identity_seed(self, owner: int, fresh: bytes) -> bytes:
        """The owner's 32-byte identity seed: the stored one, or `fresh`, which is stored now."""
        self._db.execute("INSERT OR IGNORE INTO identity VALUES (?, ?)", (owner, fresh))
        row = self._db.execute("SELECT seed FROM identity WHERE owner = ?", (owner,)).fetchone()
        return bytes(row[0])

    def last_round(self, owner: int) -> int:
        """The newest round this owner ever accepted a plan for, in any run; -1 if none."""
        row = self._db.execute("SELECT last FROM round WHERE owner = ?", (owner,)).fetchone()
        return -1 if row is None else int(row[0])

    def advance(self, owner: int, round_number: int) -> None:
        """Record an accepted plan; a round counter never goes back or stays."""
        changed = self._db.execute(
            "INSERT INTO round VALUES (?, ?) ON CONFLICT (owner) DO UPDATE SET last = excluded.last "
            "WHERE excluded.last > round.last",
            (owner, round_number),
        ).rowcount
        if changed != 1:
            raise AnswerConflict(f"round {round_number} is not newer than the last one this client accepted")

    def reply(self, owner: int, session: bytes, step: str) -> tuple[bytes, bytes] | None:
        """(digest of the request, reply) if the owner answered this step of this session."""
        row = self._db.execute(
            "SELECT request_digest, reply FROM answer WHERE owner = ? AND session = ? AND step = ?",
            (owner, session, step),
        ).fetchone()
        return None if row is None else (bytes(row[0]), bytes(row[1]))

    def put(
        self, owner: int, session: bytes, step: str, request_digest: bytes, state: bytes, reply: bytes
    ) -> None:
        """Store the one answer to a step; raises AnswerConflict if there is one already."""
        try:
            self._db.execute(
                "INSERT INTO answer VALUES (?, ?, ?, ?, ?, ?)",
                (owner, session, step, request_digest, state, reply),
            )
        except sqlite3.IntegrityError:
            raise AnswerConflict(f"step {step!r} of this session was answered before") from None

    def forget_other_sessions(self, owner: int, session: bytes) -> None:
        """Delete the answers of all sessions but `session`: a finished round is never answered again,
        because its number is not newer than `last_round`."""
        self._db.execute("DELETE FROM answer WHERE owner = ? AND session != ?", (owner, session))

    def answered(self, owner: int, session: bytes, step: str) -> bool:
        """Whether an answer to `step` may have left this owner."""
        return self.reply(owner, session, step) is not None

    def baseline_before(self, owner: int, training_round: int) -> Baseline:
        """The reward baseline from the rounds before `training_round`."""
        row = self._db.execute(
            "SELECT mean, variance, observations FROM baseline WHERE owner = ? AND training_round < ? "
            "ORDER BY training_round DESC LIMIT 1",
            (owner, training_round),
        ).fetchone()
        return Baseline() if row is None else Baseline(*row)

    def put_baseline(self, owner: int, training_round: int, baseline: Baseline) -> None:
        """The baseline after `training_round`; a repeated round replaces its own observation."""
        self._db.execute(
            "INSERT OR REPLACE INTO baseline VALUES (?, ?, ?, ?, ?)",
            (owner, training_round, baseline.mean, baseline.variance, baseline.observations),
        )
