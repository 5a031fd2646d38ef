"""What a data owner must remember between messages and runs: identity, sessions, what it witnessed, reward history.

SQLite, synchronous: an answer is on disk before it leaves. One file may hold several owners (the embedded engine
keeps all of a process in one, and commits once for a chunk of them). The file is private to its owners: it
never enters a run directory, a checkpoint or a message.

What is deleted or replaced is overwritten with zeros, and the journal is cut to nothing with each commit: a file that
is stolen later holds no secret of a step that is over. No erasure of the medium below is claimed.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fgrpo_secure.client import session_records
from fgrpo_secure.client.session_records import SessionRecords
from fgrpo_secure.gain import Baseline, Trend

SCHEMA = """
CREATE TABLE IF NOT EXISTS identity (owner INTEGER PRIMARY KEY, seed BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS witnessed (
    identity BLOB NOT NULL, origin TEXT NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL, note TEXT NOT NULL,
    PRIMARY KEY (identity, origin)
) STRICT;
CREATE TABLE IF NOT EXISTS roster (
    one INTEGER PRIMARY KEY CHECK (one = 0), version INTEGER NOT NULL, signed BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS baseline (
    owner INTEGER NOT NULL, run BLOB NOT NULL, training_round INTEGER NOT NULL, sums TEXT NOT NULL,
    PRIMARY KEY (owner, run, training_round)
) STRICT;
CREATE TABLE IF NOT EXISTS moments (
    owner INTEGER NOT NULL, run BLOB NOT NULL, digest TEXT NOT NULL, kept BLOB NOT NULL,
    PRIMARY KEY (owner, run, digest)
) STRICT;
CREATE TABLE IF NOT EXISTS deal (
    owner INTEGER NOT NULL, run BLOB NOT NULL, dealt_by TEXT NOT NULL, PRIMARY KEY (owner, run)
) STRICT;
"""


MOMENTS = "moments"  # in a history's text, beside the sums


class AnswerConflict(ValueError):
    """What is stored once is not stored again, and what only grows does not shrink."""


class ClientStore:
    """The durable state of the owners in one file. `sessions` are their session records."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
        path.chmod(0o600)
        self._db.execute("PRAGMA secure_delete=ON")  # what a row held is zeros once it is replaced
        self._db.execute("PRAGMA journal_mode=TRUNCATE")  # a write-ahead log would keep what a step replaced
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(SCHEMA + session_records.SCHEMA)
        self.sessions = SessionRecords(self._db)

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

        The sessions of the old key are the new one's, and none of them has a further step.
        """
        self._db.execute("UPDATE identity SET seed = ? WHERE owner = ?", (seed, owner))
        self.sessions.hand_over(old, new)
        # What the old key signed last binds the new one: else a rotation would let a server show a shorter ledger.
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

    def complete_roster(self, version: int, signed: bytes) -> None:
        """The same roster with the hand-overs that the stored bytes lack; AnswerConflict for another version."""
        query = "UPDATE roster SET signed = ? WHERE version = ?"
        if self._db.execute(query, (signed, version)).rowcount != 1:
            raise AnswerConflict(f"roster version {version} is not the stored one")

    def witnessed(self, identity: bytes, origin: str) -> tuple[int, bytes] | None:
        """(size, root) of the server's ledger that this identity signed last; None if it never did."""
        query = "SELECT size, root FROM witnessed WHERE identity = ? AND origin = ?"
        row = self._db.execute(query, (identity, origin)).fetchone()
        return None if row is None else (int(row[0]), bytes(row[1]))

    def notes(self, identity: bytes) -> list[str]:
        """The notes that this identity signed last, one for each ledger: what it can show an auditor."""
        query = "SELECT note FROM witnessed WHERE identity = ? ORDER BY origin"
        return [str(note) for (note,) in self._db.execute(query, (identity,))]

    def note(self, identity: bytes, origin: str) -> str | None:
        """What this identity kept when it signed last in this ledger; None if it never did."""
        query = "SELECT note FROM witnessed WHERE identity = ? AND origin = ?"
        row = self._db.execute(query, (identity, origin)).fetchone()
        return None if row is None else str(row[0])

    def put_witnessed(self, identity: bytes, origin: str, size: int, root: bytes, note: str) -> None:
        """Remember what this identity signs, before the signature leaves."""
        self._db.execute(
            "INSERT OR REPLACE INTO witnessed VALUES (?, ?, ?, ?, ?)", (identity, origin, size, root, note)
        )

    def baseline_before(self, owner: int, run: bytes, training_round: int) -> Baseline:
        """The reward history of a run from the rounds before `training_round`."""
        written = self._history_before(owner, run, training_round)
        return Baseline() if written is None else read_baseline(written)

    def moments_before(self, owner: int, run: bytes, training_round: int) -> bytes:
        """What the owner's optimiser remembered after those rounds; empty if nothing was kept."""
        digest = _moments_of(self._history_before(owner, run, training_round))
        query = "SELECT kept FROM moments WHERE owner = ? AND run = ? AND digest = ?"
        row = self._db.execute(query, (owner, run, digest)).fetchone()
        return b"" if row is None else bytes(row[0])

    def put_moments(self, owner: int, run: bytes, moments: bytes) -> None:
        """Keep an optimiser's moments until a history names them, or others come that none names; nothing if empty.

        **Why** Beside histories: what a session writes when it is answered and settled is as short for a round that
        could not train as for one that did.
        """
        if not moments:
            return
        written = self._db.execute("SELECT sums FROM baseline WHERE owner = ? AND run = ?", (owner, run)).fetchall()
        named = {_moments_of(str(sums)) for (sums,) in written} | {_digest(moments)}
        held = self._db.execute("SELECT digest FROM moments WHERE owner = ? AND run = ?", (owner, run)).fetchall()
        for (digest,) in held:
            if digest not in named:
                self._db.execute("DELETE FROM moments WHERE owner = ? AND run = ? AND digest = ?", (owner, run, digest))
        row = (owner, run, _digest(moments), moments)
        self._db.execute("INSERT OR IGNORE INTO moments VALUES (?, ?, ?, ?)", row)

    def _history_before(self, owner: int, run: bytes, training_round: int) -> str | None:
        row = self._db.execute(
            "SELECT sums FROM baseline WHERE owner = ? AND run = ? AND training_round < ? "
            "ORDER BY training_round DESC LIMIT 1",
            (owner, run, training_round),
        ).fetchone()
        return None if row is None else str(row[0])

    def put_baseline(self, owner: int, run: bytes, training_round: int, written: str) -> None:
        """The history after `training_round`, with any moments, which moves both once: a repeated round changes nothing
        any more. A round that could not train leaves the moments as they were."""
        history, before = json.loads(written), self._history_before(owner, run, training_round)
        if not history.get(MOMENTS) and before is not None:
            written = json.dumps({**history, MOMENTS: json.loads(before).get(MOMENTS, "")})
        # The first history of a round stands: a repeated one saw the same data again.
        self._db.execute("INSERT OR IGNORE INTO baseline VALUES (?, ?, ?, ?)", (owner, run, training_round, written))
        # Of a run's history only the newest state is needed, and the one before it for a round that is repeated: of
        # whichever round that was, if the client was away in between.
        self._db.execute(
            "DELETE FROM baseline WHERE owner = ? AND run = ? AND training_round < (SELECT max(training_round) FROM "
            "baseline WHERE owner = ? AND run = ? AND training_round < ?)",
            (owner, run, owner, run, training_round),
        )

    def fix_deal(self, owner: int, run: bytes, dealt_by: str) -> str:
        """By what an owner's units are dealt into the blocks of a run: what was said first, and is kept."""
        self._db.execute("INSERT OR IGNORE INTO deal VALUES (?, ?, ?)", (owner, run, dealt_by))
        row = self._db.execute("SELECT dealt_by FROM deal WHERE owner = ? AND run = ?", (owner, run)).fetchone()
        return str(row[0])

    def forget_baselines(self, run: bytes) -> None:
        """The run is over: what its rewards were says nothing about another one."""
        self._db.execute("DELETE FROM baseline WHERE run = ?", (run,))
        self._db.execute("DELETE FROM moments WHERE run = ?", (run,))


def write_baseline(baseline: Baseline, moments: bytes = b"") -> str:
    """A reward history as text: JSON keeps every digit of a float. With it the name of an optimiser's moments, if it
    has any: what settles moves both on, and what does not settle neither."""
    return json.dumps({**asdict(baseline), MOMENTS: _digest(moments) if moments else ""})


def _moments_of(written: str | None) -> str:
    """The name of the moments in a history's text; empty if it has none."""
    return "" if written is None else str(json.loads(written).get(MOMENTS, ""))


def _digest(moments: bytes) -> str:
    return hashlib.sha256(moments).hexdigest()


def read_baseline(written: str) -> Baseline:
    """A reward history from its text."""
    sums: dict[str, Any] = {name: value for name, value in json.loads(written).items() if name != MOMENTS}
    return Baseline(**{**sums, "trend": Trend(**sums["trend"])})
