"""Power loss at every write boundary: what was synced is there, what was half written is not.

The model: a commit that has returned is on the disk (SQLite syncs its journal first); of the bytes that a later commit
appends, any prefix may be, its last sector torn; while the journal is folded into the file, any subset of pages may
have arrived, but the journal is still whole.
"""

import itertools
import random
import shutil
import sqlite3
from fractions import Fraction

import pytest

from fgrpo_secure.ledger.store import Ledger, LedgerCorrupt, Ledgers

SECTOR = 512
PAGE = 4096
CHARGES = [Fraction(1, n) for n in (3, 5, 7, 9, 11)]


@pytest.fixture
def states(tmp_path):
    """[(file, journal, sum released so far)] after every commit of a few rounds."""
    path = tmp_path / "ledger.sqlite"
    store = Ledgers(path)
    store._db.execute("PRAGMA wal_autocheckpoint=0")  # the journal keeps every commit: each can be cut out of it
    ledger = store.open("clinic", Fraction(10))
    found = [snapshot(path, ledger)]
    for place, charge in enumerate(CHARGES):
        ledger.intent(bytes([place]) * 32, place, charge)
        found.append(snapshot(path, ledger))
        ledger.settle(bytes([place]) * 32, 5, charge * Fraction(2, 3))
        found.append(snapshot(path, ledger))
    yield found
    store.close()


def snapshot(path, ledger):
    journal = path.with_name(path.name + "-wal")
    return path.read_bytes(), journal.read_bytes(), ledger.spent()


def after_power_loss(folder, file, journal):
    """What the owner finds when it opens its ledger again; None if SQLite or the ledger refuses the file."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = folder / "ledger.sqlite"
    path.write_bytes(file)
    path.with_name(path.name + "-wal").write_bytes(journal)
    try:
        ledger = Ledger.open(path, "clinic", Fraction(10))
    except (LedgerCorrupt, sqlite3.DatabaseError):
        return None
    try:
        ledger.verify()
        return ledger.spent()
    finally:
        ledger.close()


def test_any_part_of_a_commit_leaves_the_ledger_before_it_or_after_it(states, tmp_path):
    chance = random.Random(8)
    for (file, journal, before), (_, longer, after) in itertools.pairwise(states):
        assert longer.startswith(journal), "the journal is only appended to"
        for end in range(len(journal), len(longer) + 1, SECTOR):
            torn = longer[:end] + chance.randbytes(min(SECTOR, len(longer) - end))
            for cut in (longer[:end], torn):
                found = after_power_loss(tmp_path / "cut", file, cut)
                assert found == (after if len(cut) == len(longer) and cut == longer else before)


def test_a_journal_that_was_half_folded_in_is_folded_in_again(states, tmp_path):
    chance = random.Random(9)
    file, journal, spent = states[-1]
    folded = fold(tmp_path / "whole", file, journal)
    pages = [folded[start : start + PAGE] for start in range(0, len(folded), PAGE)]
    for _ in range(60):
        arrived = bytearray(file.ljust(len(folded), b"\0"))
        for place, page in enumerate(pages):
            if chance.random() < 0.5:
                half = page[: chance.choice([PAGE, PAGE // 2])]
                arrived[place * PAGE : place * PAGE + len(half)] = half
        assert after_power_loss(tmp_path / "cut", bytes(arrived), journal) == spent


def test_a_torn_page_of_the_file_itself_is_never_taken_for_less_spent(states, tmp_path):
    """Beyond the model: a disk that loses what it had synced. The ledger may refuse; it does not forget charges."""
    chance = random.Random(10)
    file, journal, spent = states[-1]
    folded = fold(tmp_path / "whole", file, journal)
    for start in range(PAGE, len(folded), PAGE):
        for keep in (0, SECTOR, PAGE // 2):
            torn = folded[: start + keep] + chance.randbytes(PAGE - keep) + folded[start + PAGE :]
            try:
                found = after_power_loss(tmp_path / "cut", torn, b"")
            except LedgerCorrupt:
                continue
            assert found is None or found >= spent


def fold(folder, file, journal):
    """The file after SQLite has folded the whole journal in."""
    folder.mkdir()
    path = folder / "ledger.sqlite"
    path.write_bytes(file)
    path.with_name(path.name + "-wal").write_bytes(journal)
    Ledgers(path).close()
    return path.read_bytes()
