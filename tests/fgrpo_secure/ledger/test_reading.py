"""What a ledger answers when it is asked for what is not there, and which entry it names when it is broken."""

import sqlite3
from contextlib import closing
from fractions import Fraction

import pytest

from fgrpo_secure.ledger.store import Ledger, LedgerCorrupt, LedgerMisuse, Ledgers

S = [bytes([i]) * 32 for i in range(8)]
HALF, THIRD = Fraction(1, 2), Fraction(1, 3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "not" / "there" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    opened = Ledger.open(path, "clinic", Fraction(2))
    yield opened
    opened.close()


def test_the_end_of_a_session_is_the_entry_that_settled_or_aborted_it(ledger):
    ledger.intent(S[0], 1, HALF)
    with pytest.raises(LedgerMisuse, match="neither settled nor aborted"):
        ledger.end_of(S[0])
    ledger.intent(S[1], 2, HALF)
    ledger.settle(S[0], 4, THIRD)
    ledger.abort(S[1], refund=True)
    assert (ledger.end_of(S[0]), ledger.end_of(S[1])) == (3, 4)
    with pytest.raises(LedgerMisuse):
        ledger.end_of(S[2])


def test_an_owner_without_entries_has_no_root(ledger, path):
    with closing(Ledgers.read(path)) as ledgers:
        with pytest.raises(LedgerCorrupt, match="'nobody' has no entry"):
            Ledger(ledgers, "nobody").root()
        with pytest.raises(LedgerCorrupt, match="no ledger of 'nobody'"):
            ledgers.existing("nobody")


def test_a_file_is_read_without_a_change_while_another_writes_it(ledger, path):
    ledger.intent(S[0], 1, HALF)
    with closing(Ledgers.read(path)) as ledgers:
        found = ledgers.existing("clinic")
        assert (found.owner, found.root(), found.spent()) == ("clinic", ledger.root(), HALF)
        assert ledgers.owners() == ("clinic",)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            found.intent(S[1], 2, HALF)


class Noted(sqlite3.Connection):
    """A connection that says whether it was closed."""

    closed = False

    def close(self):
        self.closed = True
        super().close()


@pytest.mark.parametrize("tables", ["", "CREATE TABLE entry (position)"])
def test_a_file_that_is_no_ledger_is_not_left_open(tmp_path, monkeypatch, tables):
    path, opened, connect = tmp_path / "other.sqlite", [], sqlite3.connect
    with closing(connect(path)) as other:
        other.executescript(tables)

    def noted(*arguments, **named):
        opened.append(connect(*arguments, **named, factory=Noted))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", noted)
    with pytest.raises(LedgerCorrupt):
        Ledgers.read(path)
    assert [each.closed for each in opened] == [True, True], "the file, and the form that it is held against"


@pytest.mark.parametrize("position", range(4))
def test_verify_names_the_first_entry_that_does_not_follow(ledger, path, position):
    for i in range(3):
        ledger.intent(S[i], i, Fraction(1, 10))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        db.execute("UPDATE entry SET spent = '7/8' WHERE position = ?", (position,))
    with pytest.raises(LedgerCorrupt, match=f"'clinic' breaks at entry {position}:"):
        ledger.verify()
