"""The privacy budget ledger: what each owner spent, append-only, refusing before the budget is passed.

Every round is two entries: an `intent`, charged at once for the worst outcome before any noise is drawn,
then `settled` at what the round really cost, or `aborted`. A crash between the two keeps the charge: it can
over-charge, never under-charge. Entries are canonical JSON of strings and integers, leaves of one Merkle
tree (RFC 6962) per owner. Each row also carries the sums and the tree frontier after it, so that appending
never reads history.

SQLite in WAL mode with synchronous=FULL: an entry is on disk before its method returns (inside
`transaction`: before the transaction ends). One file may hold several owners. Rows can be neither changed
nor deleted through SQL; that nobody rewrote the file is what `verify` and signed checkpoints
(`checkpoint.py`) are for.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from fractions import Fraction
from pathlib import Path
from urllib.parse import quote

from fgrpo_secure.errors import CheckFailed
from fgrpo_secure.ledger import checkpoint_note
from fgrpo_secure.ledger import entries as ledger_entry
from fgrpo_secure.ledger.checkpoint_note import Checkpoint, Signer
from fgrpo_secure.ledger.entries import Columns, Facts, Phase, Row
from fgrpo_secure.privacy.accounting import BudgetExceeded as BudgetExceeded  # what `intent` raises
from protocols import merkle

SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    owner TEXT NOT NULL, position INTEGER NOT NULL,
    session TEXT NOT NULL, phase INTEGER NOT NULL, content BLOB NOT NULL,
    budget TEXT NOT NULL, spent TEXT NOT NULL, frontier BLOB NOT NULL,
    PRIMARY KEY (owner, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS plan (session TEXT PRIMARY KEY, signed BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS once ON entry (owner, session, phase) WHERE phase > 0;
CREATE TRIGGER IF NOT EXISTS never_change BEFORE UPDATE ON entry
    BEGIN SELECT RAISE(ABORT, 'ledger entries are never changed'); END;
CREATE TRIGGER IF NOT EXISTS never_delete BEFORE DELETE ON entry
    BEGIN SELECT RAISE(ABORT, 'ledger entries are never deleted'); END;
CREATE TRIGGER IF NOT EXISTS never_replace BEFORE INSERT ON entry
    WHEN NEW.position <> (SELECT COALESCE(MAX(position), -1) + 1 FROM entry WHERE owner = NEW.owner)
        OR EXISTS (SELECT 1 FROM entry WHERE phase > 0
            AND owner = NEW.owner AND session = NEW.session AND phase = NEW.phase)
    BEGIN SELECT RAISE(ABORT, 'ledger entries are only ever appended'); END;
"""


class LedgerError(CheckFailed, ValueError):
    """A ledger that cannot do what was asked of it."""


class LedgerMisuse(LedgerError):
    """An entry out of order: a second intent for a session, or an end without an intent, or a second end."""


class LedgerCorrupt(LedgerError):
    """A stored row does not follow from the entries before it: the file was tampered with or damaged."""


class Ledgers:
    """All ledgers in one file. Several processes may read while one writes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(SCHEMA)

    @staticmethod
    def read(path: Path) -> "Ledgers":
        """The ledgers in an existing file, to read only; another process may be writing. LedgerCorrupt if it is none.

        Without a writer's journal beside it the file is opened as it is, and nothing is left beside it either. No table
        is read before the file's form is known: a view of somebody else's would answer, or compute without end.
        """
        live = path.with_name(f"{path.name}-wal").exists()
        ledgers = Ledgers.__new__(Ledgers)
        try:
            with ExitStack() as unless_read:
                place = f"file:{quote(str(path.absolute()))}?mode=ro{'' if live else '&immutable=1'}"
                ledgers._db = sqlite3.connect(place, uri=True, isolation_level=None, timeout=30)
                unless_read.callback(ledgers._db.close)
                ledgers._db.execute("PRAGMA trusted_schema=OFF")
                ledgers._check_form()
                unless_read.pop_all()
        except sqlite3.Error:
            raise LedgerCorrupt(f"{path} is missing or not a ledger") from None
        return ledgers

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def existing(self, owner: str) -> "Ledger":
        """The ledger of an owner that has one, as it is; LedgerCorrupt if there is none."""
        if self.last_row(owner) is None:
            raise LedgerCorrupt(f"there is no ledger of {owner!r} in the file")
        return Ledger(self, owner)

    def owners(self) -> tuple[str, ...]:
        """The owners with a ledger in this file."""
        return tuple(name for (name,) in self._db.execute("SELECT DISTINCT owner FROM entry ORDER BY owner"))

    def open(self, owner: str | int, budget: Fraction) -> "Ledger":
        """The owner's ledger with a budget of `budget` (sum of mu^2, above 0).

        A budget that differs from the recorded one is an entry of its own: changes stay visible.
        """
        if budget <= 0:
            raise ValueError(f"a budget is {budget}; it must be above 0")
        ledger = Ledger(self, str(owner))
        with self.transaction():
            last = self.last_row(ledger.owner)
            if last is None or last.filter.budget != budget:
                self.append(ledger_entry.budget(ledger.owner, last, budget))
        return ledger

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One synced commit for everything written inside, for all owners; nothing if an exception leaves."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")  # takes the write lock first: no two writers read the same sums
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def last_row(self, owner: str) -> Row | None:
        """The owner's newest row."""
        query = "SELECT * FROM entry WHERE owner = ? ORDER BY position DESC LIMIT 1"
        found = self._db.execute(query, (owner,)).fetchone()
        return None if found is None else Row.load(found)

    def row_at(self, owner: str, position: int) -> Row:
        """The owner's row at `position` (from 0), or IndexError."""
        query = "SELECT * FROM entry WHERE owner = ? AND position = ?"
        found = self._db.execute(query, (owner, position)).fetchone()
        if found is None:
            raise IndexError(f"the ledger of {owner!r} has no entry {position}")
        return Row.load(found)

    def row_of(self, owner: str, session: bytes, phase: Phase) -> Row | None:
        """The owner's row of one phase of a session, if it was reached."""
        # "phase > 0" says nothing new to a reader: it lets SQLite use the partial index
        query = "SELECT * FROM entry WHERE owner = ? AND session = ? AND phase = ? AND phase > 0"
        found = self._db.execute(query, (owner, session.hex(), phase)).fetchone()
        return None if found is None else Row.load(found)

    def open_sessions(self, owner: str) -> tuple[bytes, ...]:
        """The owner's sessions with an intent and no end, oldest first."""
        query = (
            "SELECT session FROM entry AS opened WHERE owner = ? AND phase = ? AND NOT EXISTS "
            "(SELECT 1 FROM entry WHERE owner = opened.owner AND session = opened.session AND phase = ? AND phase > 0) "
            "ORDER BY position"
        )
        found = self._db.execute(query, (owner, Phase.INTENT, Phase.END))
        return tuple(bytes.fromhex(session) for (session,) in found)

    def sessions(self, owner: str) -> int:
        """How many sessions were charged and did not get it back: those whose noise may have been seen."""
        query = (
            "SELECT COALESCE(SUM(CASE WHEN phase = ? THEN 1 WHEN phase = ? AND json_extract(CAST(content AS TEXT), "
            "'$.charge') = '0/1' THEN -1 ELSE 0 END), 0) FROM entry WHERE owner = ? AND phase > 0"
        )
        (count,) = self._db.execute(query, (Phase.INTENT, Phase.END, owner)).fetchone()
        return int(count)

    def rows(self, owner: str) -> Iterator[Row]:
        """All rows of an owner, oldest first."""
        return map(Row.load, self.stored(owner))

    def stored(self, owner: str) -> Iterator[Columns]:
        """The columns of `rows`, as they are stored."""
        return iter(self._db.execute("SELECT * FROM entry WHERE owner = ? ORDER BY position", (owner,)))

    def keep_plan(self, session: bytes, signed: bytes) -> None:
        """Keep the server's signed plan of a session: an entry names its session, which is the plan's digest."""
        self._db.execute("INSERT INTO plan VALUES (?, ?)", (session.hex(), signed))

    def plans(self) -> dict[str, bytes]:
        """Session, hex -> its signed plan, of every session that was ever charged here."""
        return dict(self._db.execute("SELECT session, signed FROM plan"))

    def _check_form(self) -> None:
        """Returns if the file has our tables, triggers and nothing else; LedgerCorrupt otherwise."""
        with closing(sqlite3.connect(":memory:")) as ours:
            ours.executescript(SCHEMA)
            found = _form(self._db)
            if not found:
                raise sqlite3.DatabaseError("no tables at all")
            if _form(ours) != found:
                raise LedgerCorrupt("the ledger's file holds other tables than a ledger")

    def append(self, row: Row) -> None:
        """Write a row that the caller derived from `last_row` within the same transaction."""
        self._db.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row.dump())


def _form(database: sqlite3.Connection) -> list[tuple[str, ...]]:
    return sorted(map(tuple, database.execute("SELECT type, name, tbl_name, COALESCE(sql, '') FROM sqlite_master")))


class Ledger:
    """One owner's ledger. A write is durable when its method, or the `transaction` around it, ends."""

    def __init__(self, store: Ledgers, owner: str) -> None:
        self._store = store
        self.owner = owner

    @staticmethod
    def open(path: Path, owner: str | int, budget: Fraction) -> "Ledger":
        """The ledger of the only, or one, owner of a file; the file is created if it does not exist."""
        return Ledgers(path).open(owner, budget)

    def close(self) -> None:
        """Close the file, for all its owners."""
        self._store.close()

    def intent(
        self,
        session: bytes,
        round_number: int,
        charge: Fraction,
        facts: Facts | None = None,
        plans: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """Charge `charge` (mu^2) for a session that is about to open.

        Raises BudgetExceeded before anything is written if the sum would pass the budget, LedgerMisuse if
        the session was charged before. `facts` are public integers and strings. `plans` are the signed plans of the
        sessions that the entry charges, kept in the same commit.
        """
        with self._store.transaction():
            if self._store.row_of(self.owner, session, Phase.INTENT) is not None:
                raise LedgerMisuse("this session was charged before")
            self._store.append(ledger_entry.intent(self._last(), session, round_number, charge, facts or {}))
            for named, signed in (plans or {}).items():
                self._store.keep_plan(named, signed)

    def settle(self, session: bytes, survivors: int, charge: Fraction, facts: Facts | None = None) -> None:
        """Lower a session's charge to what the noise of `survivors` made of it: above 0, at most the intent.

        The caller holds the quorum on that survivor list; without one it leaves the charge as it is.
        """
        with self._store.transaction():
            intent = self._open_intent(session)
            self._store.append(ledger_entry.settled(self._last(), intent, survivors, charge, facts or {}))

    def abort(self, session: bytes, refund: bool) -> None:
        """Close a session without a result; `refund` its charge only if no masked input left the client."""
        with self._store.transaction():
            intent = self._open_intent(session)
            self._store.append(ledger_entry.aborted(self._last(), intent, refund))

    def close_run(self, facts: Facts) -> None:
        """Write the last entry of a run: what it released. LedgerMisuse with a session open, or a second time."""
        if self.open_sessions() or self.closing() is not None:
            raise LedgerMisuse("the run has a session open, or ended before")
        with self._store.transaction():
            self._store.append(ledger_entry.closed(self._last(), facts))

    def closing(self) -> Facts | None:
        """The facts of the run's last entry; None if it did not end."""
        entry = self._last().entry
        return dict(entry["facts"]) if entry["kind"] == "closed" else None

    def is_charged(self, session: bytes) -> bool:
        """Whether the session was ever charged, however it ended."""
        return self._store.row_of(self.owner, session, Phase.INTENT) is not None

    def is_open(self, session: bytes) -> bool:
        """Whether the session was charged and neither settled nor aborted."""
        return self.is_charged(session) and self._store.row_of(self.owner, session, Phase.END) is None

    def is_paid(self, session: bytes) -> bool:
        """Whether the session was charged and closed without a refund."""
        end = self._store.row_of(self.owner, session, Phase.END)
        return end is not None and Fraction(str(end.entry["charge"])) > 0

    def paid(self, session: bytes) -> tuple[Fraction, int, Fraction]:
        """(its charge as it stands, how many survived in it: 0 unless it settled, its charge before it ended)."""
        end, intent = (self._store.row_of(self.owner, session, phase) for phase in (Phase.END, Phase.INTENT))
        if intent is None:
            return Fraction(0), 0, Fraction(0)  # it was never charged
        row = end or intent
        return row.charge, int(row.entry.get("survivors", 0)), intent.charge

    def open_sessions(self) -> tuple[bytes, ...]:
        """The sessions that were charged and neither settled nor aborted, oldest first."""
        return self._store.open_sessions(self.owner)

    def sessions(self) -> int:
        """How many sessions were charged and not refunded, open ones included."""
        return self._store.sessions(self.owner)

    def spent(self) -> Fraction:
        """The sum of mu^2 so far, open intents included."""
        return self._last().filter.spent

    def spent_by_end(self) -> tuple[Fraction, ...]:
        """`spent` after each session that ended, oldest first."""
        return tuple(row.filter.spent for row in self.rows() if row.phase is Phase.END)

    def remaining(self) -> Fraction:
        """What may still be charged; 0 if a lowered budget is already passed."""
        return max(Fraction(0), self._last().filter.remaining)

    def budget(self) -> Fraction:
        """The budget in force."""
        return self._last().filter.budget

    def size(self) -> int:
        """The number of entries."""
        return self._last().position + 1

    def root(self) -> bytes:
        """The Merkle root (32 bytes) over all entries."""
        return self._last().root

    def plans(self) -> dict[str, bytes]:
        """See `Ledgers.plans`."""
        return self._store.plans()

    def entries(self) -> tuple[Mapping[str, object], ...]:
        """All entries, oldest first."""
        return tuple(row.entry for row in self._store.rows(self.owner))

    def end_of(self, session: bytes) -> int:
        """The position of the entry that settled or aborted a session; LedgerMisuse if there is none."""
        end = self._store.row_of(self.owner, session, Phase.END)
        if end is None:
            raise LedgerMisuse("this session was neither settled nor aborted")
        return end.position

    def rows(self) -> Iterator[Row]:
        """All rows, oldest first."""
        return self._store.rows(self.owner)

    def prove(self, position: int) -> tuple[bytes, tuple[bytes, ...]]:
        """(content of the entry at `position`, its inclusion path under `root`), or IndexError."""
        path = merkle.inclusion_proof(self._subtree, position, self.size())
        return self._store.row_at(self.owner, position).content, path

    def prove_growth(self, first: int) -> tuple[bytes, ...]:
        """The consistency proof from the ledger of `first` entries to this one, or IndexError."""
        return merkle.consistency_proof(self._subtree, first, self.size())

    def root_at(self, size: int) -> bytes:
        """The root when the ledger had `size` entries, or IndexError."""
        return self._store.row_at(self.owner, size - 1).root

    def verify(self) -> None:
        """Derive every row again from the entries before it; raises LedgerCorrupt where one differs."""
        before: Row | None = None
        intents: dict[str, Row] = {}
        try:
            for stored in self._store.stored(self.owner):
                derived = ledger_entry.replay(self.owner, before, intents, stored[ledger_entry.CONTENT])
                if derived.dump() != stored:
                    raise ValueError(f"entry {derived.position} does not follow from those before it")
                before = derived
        except (ValueError, KeyError, TypeError) as error:
            place = 0 if before is None else before.position + 1
            raise LedgerCorrupt(f"the ledger of {self.owner!r} breaks at entry {place}: {error}") from None

    def checkpoint(self, origin: str, signer: Signer) -> str:
        """A signed note of size and root, for others to keep."""
        last = self._last()
        return checkpoint_note.sign(Checkpoint(origin, last.position + 1, last.root), signer)

    def _subtree(self, level: int, index: int) -> bytes:
        """The root of a complete subtree. A left one ends its row's frontier; a right one is made of its halves."""
        if level == 0:
            return merkle.leaf_hash(self._store.row_at(self.owner, index).content)
        if index % 2 == 0:
            return self._store.row_at(self.owner, ((index + 1) << level) - 1).frontier[-1]
        return merkle.root((self._subtree(level - 1, 2 * index), self._subtree(level - 1, 2 * index + 1)))

    def _last(self) -> Row:
        last = self._store.last_row(self.owner)
        if last is None:
            raise LedgerCorrupt(f"the ledger of {self.owner!r} has no entry")
        return last

    def _open_intent(self, session: bytes) -> Row:
        intent = self._store.row_of(self.owner, session, Phase.INTENT)
        if intent is None:
            raise LedgerMisuse("this session was never charged")
        if self._store.row_of(self.owner, session, Phase.END) is not None:
            raise LedgerMisuse("this session was settled or aborted before")
        return intent
