"""An owner's books: one budget, however its units were divided before."""

from contextlib import closing
from fractions import Fraction

import pytest

from fgrpo_secure.client.book import Book
from fgrpo_secure.ledger.store import LedgerError


@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("second", [1, 2, 3])
def test_a_run_that_divides_units_otherwise_gets_no_new_budget(tmp_path, first, second):
    """Ledgers have names by block: under others, an owner would pay from an empty one."""
    with closing(Book.at(tmp_path / "state.sqlite", tmp_path / "ledgers.sqlite")) as book:
        for owner in (1, 11):
            opened = book.open_ledgers(owner, Fraction(5), first)
            assert len(opened) == first
            opened[-1].intent(bytes([owner]) * 32, 0, Fraction(2))
        if first == second:
            again = book.open_ledgers(1, Fraction(5), second)
            assert [ledger.spent() for ledger in again] == [0] * (first - 1) + [2]
        else:
            with pytest.raises(LedgerError, match=f"kept for {first} block.s. of units.*this run has {second}"):
                book.open_ledgers(1, Fraction(5), second)
