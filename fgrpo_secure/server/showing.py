"""The server shows its ledger: to each client the entries that it may have paid for since it signed last.

What comes back is a client's word about itself, and is kept only if it holds: under the client's own key, over the
account that the ledger gives it. **Why** A note with one bad line is refused whole; one client would spoil everybody's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from pathlib import Path

from fgrpo_secure.ledger import cosigning, note_file
from fgrpo_secure.ledger.checkpoint_note import BadCheckpoint, Checkpoint
from fgrpo_secure.ledger.note_file import Accounts
from fgrpo_secure.ledger.store import Ledger
from fgrpo_secure.ledger.testimony import Priced
from fgrpo_secure.ledger.witnessed import Witnessed
from fgrpo_secure.server import own_prices
from fgrpo_secure.server.engine import Engine
from fgrpo_secure.storage import rosters
from protocols.identity import Identity
from protocols.roster import Roster


@dataclass(frozen=True)
class Showing:
    """One state of the ledger, and who is to sign it. `notes` is where signed checkpoints are kept.

    `rosters` are the run's, oldest first; `fixed_charge` is a sampled round's.
    """

    ledger: Ledger
    identity: Identity
    run: bytes
    notes: Path
    engine: Engine
    seconds: float  # for one client's look at what it is shown
    rosters: Sequence[Roster]
    fixed_charge: Fraction | None = None

    def close(self, everybody: Sequence[int]) -> None:
        """Have the run's last entry signed by all who have not signed it yet, and keep the note."""
        kept = note_file.kept(self.notes, self.ledger.size())
        signed = note_file.signers(kept)
        may = rosters.last_keys(self.rosters)
        asked = [client for client in everybody if client in may and cosigning.client_name(client) not in signed]
        # Also where nobody is asked any more: an engine that showed no end tells nobody that the run is over.
        self.keep(self.signed({b"": asked}, kept))

    def signed(self, asked: Mapping[bytes, Sequence[int]], kept: str = "") -> str:
        """The note with the lines of all who signed. `asked` are the clients by the session that just settled.

        `kept` is the note on this state of the ledger that others signed before, if there is one.
        """
        origin = cosigning.origin(self.identity.public, self.run)
        shown = self.ledger.checkpoint(origin, cosigning.signer(self.identity, cosigning.SERVER))
        checkpoint = Checkpoint(origin, self.ledger.size(), self.ledger.root())
        priced = own_prices.read(self.ledger, self.fixed_charge)
        note, accounts = kept or shown, Accounts(priced)
        counts = self.rosters[-1:] if b"" in asked else self.rosters
        seen_last = {roster.version: roster for roster in counts}
        signed = note_file.last_signed(self.notes)
        keys = rosters.last_keys(self.rosters)

        def holds(said: Witnessed) -> bool:
            """Another line is as good as none: its client did not sign."""
            key = keys.get(said.client)
            if said.line is None or key is None:
                return False
            try:
                note_file.check_line(said.line, said.client, [key], checkpoint, accounts, seen_last)
            except BadCheckpoint:
                return False
            return True

        for session, clients in asked.items():
            seen = {client: signed.get(cosigning.client_name(client), 0) for client in clients}
            for _ in range(2):  # after a crash a client may have signed what was never kept here: it says how much
                said = self.engine.witness(session, self._exhibits(shown, seen, priced), self.seconds, holds)
                note += "".join(each.line or "" for each in said if holds(each))
                stale = {each.client: each.seen for each in said if each.line is None and each.client in seen}
                stale = {client: size for client, size in stale.items() if size != seen[client]}
                seen = {client: size for client, size in stale.items() if 0 < size <= self.ledger.size()}
                if not seen:
                    break
        return note

    def keep(self, note: str) -> None:
        """Store the note durably."""
        note_file.keep(self.notes, self.ledger.size(), note)

    def _exhibits(self, note: str, seen: Mapping[int, int], priced: Sequence[Priced]) -> dict[int, bytes]:
        """What each client is shown: its rounds, and the newest entry. Made once for all that are to see the same."""
        newest = self.ledger.size() - 1
        rounds = list(_rounds(priced, min(seen.values(), default=0)))
        made: dict[tuple[int, tuple[int, ...]], bytes] = {}
        exhibits = {}
        for client, size in seen.items():
            entries = [places for places, cohort in rounds if client in cohort and places[-1] >= size]
            places = {place for places in entries for place in places}
            shown = size, (*sorted(places - {newest}), newest)
            if shown not in made:
                made[shown] = cosigning.exhibit(self.ledger, note, *shown)
            exhibits[client] = made[shown]
        return exhibits


def _rounds(priced: Sequence[Priced], since: int) -> Iterator[tuple[tuple[int, int], frozenset[int]]]:
    """(positions of a round's entries, its clients), of rounds that ended at `since` or later."""
    late = [each for each in priced if each.ended >= since]
    for places, sessions in groupby(late, lambda each: (each.opened, each.ended)):
        yield places, frozenset().union(*(each.cohort for each in sessions))
