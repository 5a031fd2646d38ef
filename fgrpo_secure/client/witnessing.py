"""What an owner signs of a server's ledger: its own account in a run, after it found every session of it in there.

    own books (records, ledgers) -> charged sessions of this run -> shown by the server? -> account -> signature

Sessions of other runs, and of other servers, are never named: only this run's are looked up.
"""

from collections.abc import Callable
from dataclasses import dataclass

from fgrpo_secure.client.book import Book
from fgrpo_secure.ledger import cosigning, testimony
from fgrpo_secure.ledger.checkpoint_note import BadCheckpoint
from fgrpo_secure.ledger.cosigning import Own, Unwitnessed
from fgrpo_secure.ledger.store import Ledger
from fgrpo_secure.ledger.testimony import Account, Charged
from fgrpo_secure.ledger.witnessed import Witnessed
from protocols.identity import Identity
from protocols.roster import Roster


@dataclass(frozen=True)
class Signer:
    """An owner that may sign. `ledgers` has one for each block of its units, `roster` is the newest that it has seen,
    `log` the owner's own.
    """

    client: int
    identity: Identity
    server_key: bytes
    book: Book
    ledgers: tuple[Ledger, ...]
    roster: Roster
    log: Callable[[str], None]

    def testify(self, run: bytes, session: bytes, exhibit: bytes, adapter: bytes) -> Witnessed:
        """The owner's line on the server's ledger, or none, with the reason in its own log.

        `session` has just settled; empty when the run ends: then the ledger must name `adapter`, which the owner holds.
        """
        origin = cosigning.origin(self.server_key, run)
        # What this client signed last, from its own file: a tree that does not go on from there forgot something.
        last = self.book.store.witnessed(self.identity.public, origin)
        seen = last[0] if last else 0
        own = self._own(run)
        # Only what this owner's own books say was settled: a server could have it sign for a session it never was in.
        if session and session.hex() not in {each.charged.session for each in own if each.charged.survivors}:
            return Witnessed(self.client, None, 0)
        kept = self.book.store.note(self.identity.public, origin)
        try:
            before, lost = (testimony.account(kept), self._lost(kept, seen)) if kept else (Account(), ())
            released = None if session else adapter
            found = cosigning.examine(exhibit, self.server_key, origin, last, own, before, lost, released)
        except (Unwitnessed, BadCheckpoint) as reason:
            self.log(f"not signed: {reason}")
            return Witnessed(self.client, None, seen)
        name = cosigning.client_name(self.client)
        line = testimony.sign(
            self.identity, name, found.checkpoint, self.client, found.account, found.lost, self.roster
        )
        note = cosigning.shown_note(exhibit)
        receipt = testimony.receipt(found.checkpoint, self.client, found.account, self.roster, note, line)
        checkpoint = found.checkpoint
        # On disk before the line leaves: who forgot what it signed could be shown less (`ledger-rolled-back`).
        self.book.store.put_witnessed(self.identity.public, origin, checkpoint.size, checkpoint.root, receipt)
        self.book.store.sessions.forget_survivors(self.identity.public, run)
        if released is not None:
            # Durable with the signature: a session after the end would be one that no ledger shows.
            self.book.store.sessions.end(self.identity.public, run)
        return Witnessed(self.client, line, checkpoint.size)

    def _own(self, run: bytes) -> list[Own]:
        """The charged sessions of a run. One that is open counts only if a masked vector left: else it is refunded."""
        found, blocks = [], len(self.ledgers)
        for session, number, training_round, left in self.book.store.sessions.of_run(
            self.identity.public, self.server_key, run
        ):
            ledger = self.ledgers[training_round % blocks]
            charge, survivors, full = ledger.paid(session)
            if charge and (left or not ledger.is_open(session)):
                ids = self.book.store.sessions.survivors(self.identity.public, session) if survivors else None
                charged = Charged(number, session.hex(), charge, survivors)
                found.append(Own(charged, training_round, blocks, ids, full))
        return found

    def _lost(self, kept: str, seen: int) -> tuple[int, ...]:
        """Ledger entries of sessions that this owner dropped out of, as its last signature names them."""
        return testimony.read(kept.splitlines(keepends=True)[-1], cosigning.client_name(self.client), seen).lost
