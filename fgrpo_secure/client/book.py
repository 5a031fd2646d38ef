"""The durable files of one host's owners: their state and their ledgers, and in which order they are committed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from pathlib import Path

from fgrpo_secure.client.store import ClientStore
from fgrpo_secure.ledger.store import Ledger, LedgerError, Ledgers
from fgrpo_secure.storage import owners_folder
from fgrpo_secure.storage.owners_folder import LEDGERS
from fgrpo_secure.storage.run_directory import RunDirectory


@dataclass(frozen=True)
class Book:
    """State and ledgers. Both are written in transactions of milliseconds, never while anybody trains."""

    store: ClientStore
    ledgers: Ledgers

    @staticmethod
    def open(directory: RunDirectory, host: int) -> "Book":
        """The files of host number `host`."""
        path = owners_folder.store(directory.owners, host)
        return Book.at(path, path.with_name(LEDGERS))

    @staticmethod
    def at(state: Path, ledgers: Path) -> "Book":
        """The books in these two files."""
        return Book(ClientStore(state), Ledgers(ledgers))

    def open_ledgers(self, owner: int, budget: Fraction, blocks: int) -> tuple[Ledger, ...]:
        """One ledger per block of units, each with the whole budget: a unit is in one block only.

        LedgerError where earlier runs divided the owner's units otherwise: whose budget is whose cannot be said then.
        """
        kept = self._blocks(owner)
        # Divided otherwise, a unit would move to a block whose ledger has not paid for it: a budget twice.
        if kept not in (0, blocks):
            raise LedgerError(
                f"the ledgers of owner {owner} are kept for {kept} block(s) of units, and this run has "
                f"{blocks}: what earlier runs cost could not be counted; keep privacy.max_rounds_per_unit as it was"
            )
        names = [str(owner)] if blocks == 1 else [f"{owner}/block-{block}" for block in range(blocks)]
        return tuple(self.ledgers.open(name, budget) for name in names)

    def _blocks(self, owner: int) -> int:
        """How many blocks an owner's ledgers are kept for; 0 if there are none."""
        if self.ledgers.last_row(str(owner)) is not None:
            return 1
        return next(block for block in count() if self.ledgers.last_row(f"{owner}/block-{block}") is None)

    @contextmanager
    def charging(self) -> Iterator[None]:
        """A transaction that may charge or settle. Ledgers are on disk first: a crash between the two over-charges."""
        # The inner one commits first.
        with self.store.transaction(), self.ledgers.transaction():
            yield

    @contextmanager
    def refunding(self) -> Iterator[None]:
        """A transaction that may refund. The rows that end sessions are on disk first: after a crash between the two
        no mask of them leaves, and the charge stays until somebody closes it."""
        with self.ledgers.transaction(), self.store.transaction():
            yield

    def close(self) -> None:
        """Close both files."""
        self.store.close()
        self.ledgers.close()
