"""What a data owner must remember between messages and runs: identity, rounds seen, answers given, reward baseline.

SQLite, synchronous: an answer is on disk before it leaves. One file may hold several owners (the embedded engine
keeps all of a process in one, and commits once for a chunk of them). The file is private to its owners: it
never enters a run directory, a checkpoint or a message. Answers of settled rounds are deleted, but no forensic
erasure is claimed.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fgrpo_secure.gain import Baseline
from protocols.wire import Step

SCHEMA = """
CREATE TABLE IF NOT EXISTS identity (owner INTEGER PRIMARY KEY, seed BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS round (identity BLOB PRIMARY KEY, last INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS answer (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    identity BLOB NOT NULL, session BLOB NOT NULL, step TEXT NOT NULL,
    request_digest BLOB NOT NULL, state BLOB NOT NULL, reply BLOB NOT NULL,
    UNIQUE (identity, session, step)
) STRICT;
CREATE TABLE IF NOT EXISTS witnessed (
    identity BLOB NOT NULL, origin TEXT NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL, note TEXT NOT NULL,
    PRIMARY KEY (identity, origin)
) STRICT;
CREATE TABLE IF NOT EXISTS roster (
    one INTEGER PRIMARY KEY CHECK (one = 0), version INTEGER NOT NULL, signed BLOB NOT NULL
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

    def enrol(self, owner: int, seed: bytes) -> None:
        """Store a new owner's 32-byte identity seed. AnswerConflict if it has one."""
        try:
            self._db.execute("INSERT INTO identity VALUES (?, ?)", (owner, seed))
        except sqlite3.IntegrityError:
            raise AnswerConflict(f"client {owner} has an identity already") from None

    def is_enrolled(self, owner: int) -> bool:
        """Whether the owner has an identity."""
        return self._db.execute("SELECT 1 FROM identity WHERE owner = ?", (owner,)).fetchone() is not None

    def identity_seed(self, owner: int) -> bytes:
        """The owner's identity seed. KeyError if it was never enrolled."""
        row = self._db.execute("SELECT seed FROM identity WHERE owner = ?", (owner,)).fetchone()
        if row is None:
            raise KeyError(owner)
        return bytes(row[0])

    def replace_identity(self, owner: int, seed: bytes, old: bytes, new: bytes) -> None:
        """Store the seed that follows the owner's present one; `old` and `new` are the public keys of both.

        The new key begins at the old one's last round.
        """
        self._db.execute("UPDATE identity SET seed = ? WHERE owner = ?", (seed, owner))
        last = self.last_round(old)
        if last > self.last_round(new):
            self.advance(new, last)
        self._db.execute("UPDATE OR REPLACE witnessed SET identity = ? WHERE identity = ?", (new, old))

    def roster(self) -> bytes | None:
        """The newest signed roster that the owners of this file accepted; None before the first."""
        row = self._db.execute("SELECT signed FROM roster").fetchone()
        return None if row is None else bytes(row[0])

    def put_roster(self, version: int, signed: bytes) -> None:
        """Replace the roster; AnswerConflict unless the version is above the stored one's."""
        changed = self._db.execute(
            "INSERT INTO roster VALUES (0, ?, ?) ON CONFLICT (one) DO UPDATE "
            "SET version = excluded.version, signed = excluded.signed WHERE excluded.version > roster.version",
            (version, signed),
        ).rowcount
        if changed != 1:
            raise AnswerConflict(f"roster version {version} is not newer than the stored one")

    def last_round(self, identity: bytes) -> int:
        """The newest round this identity ever accepted a plan for, in any run; -1 if none."""
        row = self._db.execute("SELECT last FROM round WHERE identity = ?", (identity,)).fetchone()
        return -1 if row is None else int(row[0])

    def advance(self, identity: bytes, round_number: int) -> None:
        """Record an accepted plan; AnswerConflict unless the number is above `last_round`."""
        changed = self._db.execute(
            "INSERT INTO round VALUES (?, ?) ON CONFLICT (identity) DO UPDATE SET last = excluded.last "
            "WHERE excluded.last > round.last",
            (identity, round_number),
        ).rowcount
        if changed != 1:
            raise AnswerConflict(f"round {round_number} is not newer than the last one this client accepted")

    def reply(self, identity: bytes, session: bytes, step: Step) -> tuple[bytes, bytes] | None:
        """(digest of the request, reply) if this step of this session is answered."""
        row = self._db.execute(
            "SELECT request_digest, reply FROM answer WHERE identity = ? AND session = ? AND step = ?",
            (identity, session, step.value),
        ).fetchone()
        return None if row is None else (bytes(row[0]), bytes(row[1]))

    def state(self, identity: bytes, session: bytes) -> bytes | None:
        """The protocol state that the last answered step of the session left. Secret."""
        row = self._db.execute(
            "SELECT state FROM answer WHERE identity = ? AND session = ? ORDER BY number DESC LIMIT 1",
            (identity, session),
        ).fetchone()
        return None if row is None else bytes(row[0])

    def put(
        self, identity: bytes, session: bytes, step: Step, request_digest: bytes, state: bytes, reply: bytes
    ) -> None:
        """Store the one answer to a step; raises AnswerConflict if there is one already."""
        try:
            self._db.execute(
                "INSERT INTO answer (identity, session, step, request_digest, state, reply) VALUES (?, ?, ?, ?, ?, ?)",
                (identity, session, step.value, request_digest, state, reply),
            )
        except sqlite3.IntegrityError:
            raise AnswerConflict(f"step {step.value!r} of this session was answered before") from None

    def forget_sessions(self, identity: bytes) -> None:
        """Delete all answers. Safe between sessions: a finished round is never answered again, because its number
        is not newer than `last_round`."""
        self._db.execute("DELETE FROM answer WHERE identity = ?", (identity,))

    def witnessed(self, identity: bytes, origin: str) -> tuple[int, bytes] | None:
        """(size, root) of the server's ledger that this identity signed last; None if it never did."""
        query = "SELECT size, root FROM witnessed WHERE identity = ? AND origin = ?"
        row = self._db.execute(query, (identity, origin)).fetchone()
        return None if row is None else (int(row[0]), bytes(row[1]))

    def notes(self, identity: bytes) -> list[str]:
        """The notes that this identity signed last, one for each ledger: what it can show an auditor."""
        query = "SELECT note FROM witnessed WHERE identity = ? ORDER BY origin"
        return [str(note) for (note,) in self._db.execute(query, (identity,))]

    def put_witnessed(self, identity: bytes, origin: str, size: int, root: bytes, note: str) -> None:
        """Remember what this identity signs, before the signature leaves."""
        self._db.execute(
            "INSERT OR REPLACE INTO witnessed VALUES (?, ?, ?, ?, ?)", (identity, origin, size, root, note)
        )

    def baseline_before(self, owner: int, training_round: int) -> Baseline:
        """The reward baseline from the rounds before `training_round`."""
        row = self._db.execute(
            "SELECT mean, variance, observations FROM baseline WHERE owner = ? AND training_round < ? "
            "ORDER BY training_round DESC LIMIT 1",
            (owner, training_round),
        ).fetchone()
        return Baseline() if row is None else Baseline(*row)

    def forget_baselines(self) -> None:
        """Another run begins, with a model of its own: what rewards were before says nothing about it."""
        self._db.execute("DELETE FROM baseline")

    def put_baseline(self, owner: int, training_round: int, baseline: Baseline) -> None:
        """The baseline after `training_round`; a repeated round replaces its own observation."""
        self._db.execute(
            "INSERT OR REPLACE INTO baseline VALUES (?, ?, ?, ?, ?)",
            (owner, training_round, baseline.mean, baseline.variance, baseline.observations),
        )
