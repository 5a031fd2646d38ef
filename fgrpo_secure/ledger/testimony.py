"""What one client signs of the server's ledger, beside that it saw it: its own account in this run.

    checkpoint (origin: server and run; size; root)  +  client  +  sessions charged  +  their total  +  their digest
                                                     +  the newest roster that this client has seen

Everything in it follows from the ledger and from which sessions the client was charged for, so an auditor writes the
same text and checks the signature against it: a session that the ledger hides, renames, merges, reorders or prices
otherwise gives another text. The root covers every entry, and through the sessions' names every plan: thresholds,
cohort, noise, settings, and the digests of model, tokenizer and adapter.

**Why** the roster: nobody but its authority signs the newest one, and a server could leave it out of what it hands
over, with whom it revoked. The line names its version, the signed text its digest too.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from fgrpo_secure.ledger.checkpoint_note import BadCheckpoint, Checkpoint
from fgrpo_secure.ledger.entries import ids_text, read_ids
from protocols.errors import BadSignature
from protocols.identity import Identity, verify_signature
from protocols.roster import Roster

FORMS = "fgrpo-secure/testimony/"
LABEL = f"{FORMS}2"
ALGORITHM = b"\xff" + LABEL.encode()  # C2SP signed-note: a signature type of our own
SIGN_TESTIMONY = "sign testimony"
DASH = "\u2014 "
KEY_ID, SIGNATURE = 4, 64


@dataclass(frozen=True, order=True)
class Charged:
    """One session that a client was charged for in a run. `number` orders them; `survivors` is 0 where it was lost."""

    number: int
    session: str
    charge: Fraction
    survivors: int


@dataclass(frozen=True)
class Account:
    """What sessions amount to: how many, their total (mu squared), and a running digest over each of them."""

    sessions: int = 0
    total: Fraction = Fraction(0)
    digest: str = hashlib.sha256(LABEL.encode()).hexdigest()

    def after(self, charged: Iterable[Charged]) -> "Account":
        """The account with these sessions, too, in the order of their numbers."""
        count, total, digest = self.sessions, self.total, self.digest
        for each in sorted(charged):
            line = f"{digest} {each.session} {each.survivors} {_text(each.charge)}"
            digest, total, count = hashlib.sha256(line.encode()).hexdigest(), total + each.charge, count + 1
        return Account(count, total, digest)


@dataclass(frozen=True)
class Priced:
    """A session as an auditor prices it: what it cost a survivor, and what one that was lost in it.

    `opened` and `ended` are the positions of its round's entries. `survivors` is None where the session gave no sum;
    `refunded` says that the ledger gave the charge back: nobody was asked for a masked vector.
    """

    number: int
    session: str
    opened: int
    ended: int
    cohort: frozenset[int]
    survivors: frozenset[int] | None
    settled: Fraction
    full: Fraction
    refunded: bool

    def lost_by(self, client: int) -> bool:
        """Whether the client may have paid for this session and been lost in it."""
        survived = self.survivors is not None and client in self.survivors
        return client in self.cohort and not survived and not self.refunded

    def charged(self, client: int, lost: frozenset[int]) -> Charged | None:
        """What the client was charged, if it names the right sessions in which it was lost; None for nothing."""
        if self.survivors is not None and client in self.survivors:
            return Charged(self.number, self.session, self.settled, len(self.survivors))
        if self.opened in lost and self.lost_by(client):
            return Charged(self.number, self.session, self.full, 0)
        return None


def text(checkpoint: Checkpoint, client: int, sums: Account, roster: Roster) -> str:
    """What the client signs. `roster` is the newest that it has seen."""
    lines = (
        f"client {client}",
        f"sessions {sums.sessions}",
        f"charged {_text(sums.total)}",
        f"digest {sums.digest}",
        f"roster {roster.version} {roster.digest.hex()}",
    )
    return f"{LABEL}\n{checkpoint.text}" + "".join(f"{line}\n" for line in lines)


def sign(
    identity: Identity,
    name: str,
    checkpoint: Checkpoint,
    client: int,
    sums: Account,
    lost: Sequence[int],
    roster: Roster,
) -> str:
    """The line of a note by which a client testifies.

    `lost` are the positions of the entries that opened sessions which it paid for and was lost in: the ledger alone
    does not say whether it paid.
    """
    signature = identity.sign(SIGN_TESTIMONY, text(checkpoint, client, sums, roster).encode())
    said = f"{roster.version} {ids_text(lost)}"
    return _line(name, key_id(name, identity.public) + signature + said.encode())


@dataclass(frozen=True)
class Line:
    """A testimony's line, taken apart. `roster` is the version that its client names as the newest it has seen."""

    key_id: bytes
    signature: bytes
    roster: int
    lost: tuple[int, ...]


def read(line: str, name: str, size: int) -> Line:
    """The parts of a line that `sign` wrote for `name` about `size` entries; BadCheckpoint for anything else."""
    try:
        blob = base64.b64decode(line.removesuffix("\n").rsplit(" ", 1)[1], validate=True)
        version, _, lost = blob[KEY_ID + SIGNATURE :].decode("ascii").partition(" ")
        found = Line(blob[:KEY_ID], blob[KEY_ID : KEY_ID + SIGNATURE], int(version), read_ids(lost, size))
    except (IndexError, ValueError, binascii.Error):
        raise BadCheckpoint(f"{name}'s line is no testimony, or one of another version's form") from None
    # In its one form, base64 too: else a note could be changed unnoticed, or one client's line be two in it.
    if line != _line(name, blob) or str(found.roster) != version:
        raise BadCheckpoint(f"{name}'s line is not in its one form")
    return found


def _line(name: str, blob: bytes) -> str:
    return f"{DASH}{name} {base64.b64encode(blob).decode()}\n"


def check(
    line: Line,
    name: str,
    keys: Sequence[bytes],
    checkpoint: Checkpoint,
    client: int,
    sums: Account,
    rosters: Mapping[int, Roster],
) -> str:
    """The text that the client signed, if that is this account on this checkpoint; BadCheckpoint otherwise.

    `rosters` are those that a client may have seen last, by their versions.
    """
    seen = rosters.get(line.roster)
    if seen is None:
        raise BadCheckpoint(
            f"the newest roster that {name} has seen is version {line.roster}; what is here has "
            f"{', '.join(map(str, sorted(rosters)))}"
        )
    said = text(checkpoint, client, sums, seen)
    for public in keys:
        if line.key_id == key_id(name, public):
            try:
                verify_signature(public, SIGN_TESTIMONY, said.encode(), line.signature)
            except BadSignature:
                continue
            return said
    raise BadCheckpoint(
        f"{name} signed for another account than this ledger gives it ({sums.sessions} sessions, charged "
        f"{float(sums.total):.4g}), or did not sign"
    )


def receipt(checkpoint: Checkpoint, client: int, sums: Account, roster: Roster, note: str, line: str) -> str:
    """What a client keeps: its account in words, and the note with the server's signature and its own."""
    return f"{text(checkpoint, client, sums, roster)}\n{note}{line}"


def account(kept: str) -> Account:
    """The account that a receipt of one's own tells. BadCheckpoint if it is none."""
    fields = dict(line.partition(" ")[::2] for line in kept_parts(kept)[0].splitlines())
    return Account(int(fields["sessions"]), Fraction(fields["charged"]), fields["digest"])


def kept_parts(kept: str) -> tuple[str, str]:
    """(the account in words, the note) of a receipt; BadCheckpoint if it is none."""
    account, blank, note = kept.partition("\n\n")
    if account.startswith(FORMS) and not account.startswith(f"{LABEL}\n"):
        raise BadCheckpoint("what was kept is a receipt in another version's form: that version reads it")
    if not blank or not account.startswith(f"{LABEL}\n"):
        raise BadCheckpoint("what was kept is no receipt of a client")
    return f"{account}\n", note


def key_id(name: str, public: bytes) -> bytes:
    """The four bytes that tell a note's signature keys apart."""
    return hashlib.sha256(name.encode() + b"\n" + ALGORITHM + public).digest()[:KEY_ID]


def _text(fraction: Fraction) -> str:
    return f"{fraction.numerator}/{fraction.denominator}"
