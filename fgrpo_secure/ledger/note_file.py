"""The folder of witnessed checkpoints: one signed note (C2SP) for each state of the ledger that clients saw."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fgrpo_secure.ledger import checkpoint_note, testimony
from fgrpo_secure.ledger import cosigning as witness
from fgrpo_secure.ledger.checkpoint_note import BadCheckpoint, Checkpoint
from fgrpo_secure.ledger.store import Ledger
from fgrpo_secure.ledger.testimony import Account, Priced
from fgrpo_secure.storage.run_directory import write_durably
from fgrpo_secure.storage.signed_file import BadFile
from protocols.roster import Roster

# From a number of entries, and who signed for them, to the cohorts of which a quorum must be among those: by the name
# of a session that ended in the newest settled round; at the run's end, of any session that the run could have had.
# Those that may be left out have a quorum among the signers for certain.
Required = Callable[[int, frozenset[int]], Mapping[str, tuple[Sequence[int], int]]]
SHOWN = 8  # clients that a message names before it counts the rest


@dataclass(frozen=True)
class Covered:
    """How many notes there are, up to which entry, how many clients signed each at least, and who signed the last."""

    notes: int
    entries: int
    fewest: int
    last: frozenset[int]


def keep(folder: Path, size: int, note: str) -> None:
    """Store a note durably under the size that it is about."""
    folder.mkdir(exist_ok=True)
    write_durably(folder / f"{size:08d}.note", note.encode())


def kept(folder: Path, size: int) -> str:
    """The note that was stored under a size; empty if there is none."""
    path = folder / f"{size:08d}.note"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def signers(note: str) -> list[str]:
    """The names on a note's signature lines, valid or not."""
    _, _, lines = note.partition("\n\n")
    return [line.split(" ")[1] for line in lines.splitlines() if line.startswith("\u2014 ") and line.count(" ") == 2]


def last_signed(folder: Path) -> dict[str, int]:
    """Signer -> the largest size that it signed."""
    sizes: dict[str, int] = {}
    for path in sorted(folder.glob("*.note")):
        sizes.update(dict.fromkeys(signers(path.read_text(encoding="utf-8")), int(path.stem)))
    return sizes


def check(
    texts: Mapping[str, str],
    ledger: Ledger,
    origin: str,
    server: bytes,
    keys: Callable[[int], Mapping[int, Sequence[bytes]]],
    required: Required,
    priced: Sequence[Priced],
    rosters: Callable[[int], Mapping[int, Roster]],
) -> Covered:
    """What the notes cover; raises BadFile or BadCheckpoint at the first that does not hold.

    Each client's line must be over the account that the `priced` sessions give it, under one of the keys that count
    for it in a note on so many entries, and name one of the `rosters` that count there as the newest it has seen.

    Each must be of this ledger, and carry the server's signature and those of a quorum of each session that ended in
    the newest settled round before it; the note on the run's end, those of a quorum of every session that the run
    could have had. Cohorts and quorums are `required`'s: they follow from roster and configuration. **Why** each
    session: one shard's quorum says nothing about another shard, whose clients may have been shown another ledger.
    **Why** any that could have been: a ledger that hides all sessions of some clients has no session of theirs.
    """
    accounts, fewest, covered, signed = Accounts(priced), 0, 0, dict[int, str]()
    for name, text in sorted(texts.items()):
        checkpoint = check_one(text, name, ledger, origin, server)
        if name != f"{checkpoint.size:08d}.note":
            raise BadFile(f"{name} is about {checkpoint.size} entries")
        clients = keys(checkpoint.size)
        signed = _cosigners(text, name, {witness.client_name(client): client for client in clients})
        for client, line in signed.items():
            check_line(line, client, clients[client], checkpoint, accounts, rosters(checkpoint.size))
        _check_quorums(name, set(signed), required(checkpoint.size, frozenset(signed)))
        fewest, covered = min(fewest or len(signed), len(signed)), checkpoint.size
    last = [int(str(entry["position"])) for entry in ledger.entries() if entry["kind"] in ("settled", "closed")]
    if last and last[-1] >= covered:
        raise BadFile(f"no clients signed for entry {last[-1]}, the last that they had to sign for")
    return Covered(len(texts), covered, fewest, frozenset(signed))


def named(clients: Sequence[int]) -> str:
    """The first few by name, and how many more there are."""
    more = f" and {len(clients) - SHOWN} more" if len(clients) > SHOWN else ""
    return ", ".join(map(witness.client_name, clients[:SHOWN])) + more


def check_line(
    line: str,
    client: int,
    keys: Sequence[bytes],
    checkpoint: Checkpoint,
    accounts: "Accounts",
    rosters: Mapping[int, Roster],
) -> str:
    """The text that the client signed, if that is the account that the ledger gives it; BadCheckpoint otherwise."""
    name = witness.client_name(client)
    read = testimony.read(line, name, checkpoint.size)
    sums = accounts.at(client, checkpoint.size, frozenset(read.lost))
    return testimony.check(read, name, keys, checkpoint, client, sums, rosters)


def check_one(note: str, name: str, ledger: Ledger, origin: str, server: bytes) -> Checkpoint:
    """The checkpoint in `note`, if the server signed it and `ledger` once had exactly that root."""
    checkpoint = checkpoint_note.verify(note, witness.SERVER, server)
    if checkpoint.origin != origin:
        raise BadFile(f"{name} is about {checkpoint.origin!r}")
    if checkpoint.size > ledger.size():
        raise BadFile(f"{name} shows {checkpoint.size} entries; this ledger has only {ledger.size()}: it was cut")
    if ledger.root_at(checkpoint.size) != checkpoint.root:
        raise BadFile(f"{name} shows another history of {checkpoint.size} entries: there are two ledgers")
    return checkpoint


class Accounts:
    """Each client's account as the ledger grows: made from the one before where that is possible."""

    def __init__(self, priced: Sequence[Priced]) -> None:
        self._priced = sorted(priced, key=lambda each: each.ended)
        self._known: dict[int, tuple[int, frozenset[int], Account]] = {}

    def at(self, client: int, size: int, lost: frozenset[int]) -> Account:
        """The account in the first `size` entries. BadCheckpoint if it names as lost what the ledger cannot charge."""
        since, before, sums = self._known.get(client, (0, frozenset(), Account()))
        if since > size or {place for place in lost if place < since} != before:
            since, sums = 0, Account()
        inside = [each for each in self._priced if since <= each.ended < size]
        charged = [one for each in inside if (one := each.charged(client, lost)) is not None]
        named = {each.opened for each in self._priced if each.ended < size and each.lost_by(client)}
        if not lost <= named:
            raise BadCheckpoint(f"client-{client} names sessions that the ledger does not charge it for")
        found = sums.after(charged)
        self._known[client] = (size, lost, found)
        return found


def check_receipt(
    kept: str,
    name: str,
    ledger: Ledger,
    origin: str,
    server: bytes,
    clients: Mapping[int, Sequence[bytes]],
    priced: Sequence[Priced],
    rosters: Mapping[int, Roster],
) -> None:
    """Returns if what a client kept is of this ledger, in which it has the very account that it signed.

    A bare note says only that the ledger once had its root. Raises BadFile or BadCheckpoint.
    """
    if not kept.startswith(testimony.FORMS):
        check_one(kept, name, ledger, origin, server)
        return
    account, note = testimony.kept_parts(kept)
    checkpoint = check_one(note, name, ledger, origin, server)
    signed = _cosigners(note, name, {witness.client_name(client): client for client in clients})
    if len(signed) != 1:
        raise BadFile(f"{name} is not one client's receipt")
    ((client, line),) = signed.items()
    if account != check_line(line, client, clients[client], checkpoint, Accounts(priced), rosters):
        raise BadFile(f"{name} tells of another account than its client signed")


def _check_quorums(name: str, signed: set[int], required: Mapping[str, tuple[Sequence[int], int]]) -> None:
    """Returns if enough of each session's clients signed; else raises BadFile naming who did not."""
    for session, (cohort, quorum) in required.items():
        missing = [client for client in cohort if client not in signed]
        if len(cohort) - len(missing) < quorum:
            raise BadFile(
                f"{name} has the signatures of {len(cohort) - len(missing)} clients of {session}; the "
                f"quorum is {quorum}; missing: {named(missing)}"
            )


def _cosigners(note: str, name: str, clients: Mapping[str, int]) -> dict[int, str]:
    """Client -> its line. Every line must be one: another says that somebody changed the note."""
    *lines, end = note.partition("\n\n")[2].split("\n")
    signed = signers(note)
    if end or len(set(signed)) != len(signed) or len(lines) != len(signed):
        raise BadFile(f"{name} has a line that is no signature, or the same twice")
    found = {}
    for who, line in zip(signed, lines, strict=True):
        if who == witness.SERVER:
            continue
        if who not in clients:
            raise BadFile(f"{name} is signed by {who[:40]!a}, which is not on the roster")
        found[clients[who]] = f"{line}\n"
    return found
