"""What a client durably trusts: the newest roster it ever accepted, and through it the authority it now pins.

A server may show a roster before every round. An older one, another one of the same version, or one that the pinned
authority did not sign changes nothing here; a newer one is on disk before it is used. The hand-overs that lead from
the key pinned at enrolment to whoever signed a roster stand outside of its signature: a server can strip them, so that
only a roster that proves itself from the pinned key is ever kept.
"""

from pathlib import Path

from fgrpo_secure.client.store import ClientStore
from fgrpo_secure.storage import identity_file
from protocols.errors import BadSignature, FaultyServer
from protocols.identity import Identity
from protocols.member import accept_roster
from protocols.roster import Roster, claimed_authority, open_roster


class Trust:
    """The roster of the owners in one store. `authority` is the key that they pinned at enrolment."""

    def __init__(self, store: ClientStore, authority: bytes, server: bytes, first: bytes) -> None:
        """`first` are the signed bytes to begin with where nothing is stored. Raises what `open_roster` raises."""
        self._store = store
        self._server = server
        self._authority = authority
        stored = store.roster()
        self._whole = stored is None or _opens(stored, authority)
        # One that an earlier version of this program kept without its hand-overs was checked then: its version and
        # revocations stand. It admits nobody (`goes_back_to`) until a server shows it whole.
        self._shown = stored or first
        signer = authority if self._whole else claimed_authority(self._shown)
        self.roster: Roster = open_roster(self._shown, signer, 1)
        if stored is None:
            # On disk at once: a client that forgets its first roster could be shown an older one after a restart.
            store.put_roster(self.roster.version, first)
        self._goes_back: dict[bytes, bool] = {}

    def see(self, shown: bytes) -> Roster:
        """The roster to use after the server showed `shown`. Raises FaultyServer or Refused, and keeps what it had."""
        # The same bytes again: nothing to check, and nothing that could have changed.
        if shown == self._shown:
            return self.roster
        later = accept_roster(self.roster, shown, self._server)
        # Hand-overs lie outside the signature: a server could strip them, and after a restart nothing would lead from
        # the pinned key to this roster.
        if not _opens(shown, self._authority):
            raise FaultyServer("sent a roster without the hand-overs that lead from this client's authority to it")
        if later.version > self.roster.version:
            self._store.put_roster(later.version, shown)
        elif not self._whole:
            self._store.complete_roster(later.version, shown)
        self.roster, self._shown, self._whole = later, shown, True
        self._goes_back.clear()
        return later

    def goes_back_to(self, authority: bytes) -> bool:
        """Whether this key, or one that it handed over to, signed the roster in use."""
        if authority not in self._goes_back:
            self._goes_back[authority] = _opens(self._shown, authority)
        return self._goes_back[authority]

    def identity(self, owner: int, replacement: Path) -> Identity | None:
        """The owner's identity whose key the roster has; None if it has none of this owner's.

        A new key is taken up from the identity file `replacement` as soon as the roster names it. The old key's round
        counter goes on with the new one: no round comes twice.
        """
        if owner not in self.roster:
            return None
        current = Identity.from_seed(self._store.identity_seed(owner))
        if current.public == self.roster.public(owner):
            return current
        try:
            seed = identity_file.read_seed(replacement)
        except identity_file.IdentityFileError:
            return None
        renewed = Identity.from_seed(seed)
        # Whatever lies there: only the key that the authority enrolled speaks for this owner.
        if renewed.public != self.roster.public(owner):
            return None
        self._store.replace_identity(owner, seed, current.public, renewed.public)
        return renewed


def _opens(signed: bytes, authority: bytes) -> bool:
    """Whether this key, or one that the hand-overs in the same bytes lead to from it, signed the roster."""
    try:
        open_roster(signed, authority, 1)
    except BadSignature:
        return False
    return True
