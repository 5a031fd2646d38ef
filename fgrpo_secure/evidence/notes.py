"""The folder of witnessed checkpoints: one signed note (C2SP) for each state of the ledger that clients saw."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fgrpo_secure.evidence import witness
from fgrpo_secure.evidence.signed_file import BadFile
from fgrpo_secure.privacy import checkpoint_note
from fgrpo_secure.privacy.checkpoint_note import BadCheckpoint, Checkpoint
from fgrpo_secure.privacy.ledger import Ledger
from fgrpo_secure.run_directory import write_durably

# From a training round to the ways in which it may have been split into shards, by the rosters that were in force.
Partitions = Callable[[int], Iterable[Sequence[Sequence[int]]]]


def keep(folder: Path, size: int, note: str) -> None:
    """Store a note durably under the size that it is about."""
    folder.mkdir(exist_ok=True)
    write_durably(folder / f"{size:08d}.note", note.encode())


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
    folder: Path,
    ledger: Ledger,
    origin: str,
    server: bytes,
    clients: Mapping[int, Sequence[bytes]],
    quorum: int,
    partitions: Partitions,
) -> str:
    """A sentence about the notes in `folder`; raises BadFile or BadCheckpoint at the first that does not hold.

    Each must be of this ledger, and carry the server's signature and those of at least `quorum` enrolled clients; of
    a round of several shards, of at least `quorum` in each shard that ended. The newest must cover the last settled
    session.
    """
    names = {witness.client_name(client): keys for client, keys in clients.items()}
    fewest, covered, entries = len(clients), 0, ledger.entries()
    for path in sorted(folder.glob("*.note")):
        text = path.read_text(encoding="utf-8")
        checkpoint = check_one(text, path.name, ledger, origin, server)
        if path.name != f"{checkpoint.size:08d}.note":
            raise BadFile(f"{path.name} is about {checkpoint.size} entries")
        signed = _cosigners(text, path.name, names)
        if len(signed) < quorum:
            raise BadFile(f"{path.name} has the signatures of {len(signed)} clients; the quorum is {quorum}")
        _check_shards(path.name, entries[: checkpoint.size], signed, quorum, partitions)
        fewest, covered = min(fewest, len(signed)), checkpoint.size
    settled = [int(str(entry["position"])) for entry in entries if entry["kind"] == "settled"]
    if settled and settled[-1] >= covered:
        raise BadFile(f"no clients signed for the session settled in entry {settled[-1]}")
    return f"{covered} entries signed for, by at least {fewest} clients each time"


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


def _check_shards(
    name: str, entries: Sequence[Mapping[str, Any]], signed: set[str], quorum: int, partitions: Partitions
) -> None:
    """Returns if a quorum of each shard that ended in the newest settled round signed; else raises BadFile.

    **Why** One shard's quorum says nothing about another shard: its clients may have been shown another ledger.
    """
    settled = next((entry for entry in reversed(entries) if entry["kind"] == "settled"), None)
    if settled is None:
        return
    opened = next(each for each in entries if each["kind"] == "intent" and each["session"] == settled["session"])
    training_round, ended = witness.ended_shards(opened, settled)
    for parts in partitions(training_round):
        if len(parts) != len(witness.sessions(opened)):
            continue
        if len(parts) == 1 or all(_signed_in(parts[place], signed) >= quorum for place in ended):
            return
    raise BadFile(f"{name} has not the signatures of a quorum of {quorum} in each shard of its round")


def _signed_in(shard: Sequence[int], signed: set[str]) -> int:
    return sum(witness.client_name(client) in signed for client in shard)


def _cosigners(note: str, name: str, clients: Mapping[str, Sequence[bytes]]) -> set[str]:
    """Which clients signed. Every line must hold: a bad one says that somebody changed the note."""
    signed = [each for each in signers(note) if each != witness.SERVER]
    lines = note.partition("\n\n")[2].splitlines()
    if len(set(signed)) != len(signed) or len(lines) != len(signed) + 1:
        raise BadFile(f"{name} has a line that is no signature, or the same twice")
    for each in signed:
        if each not in clients:
            raise BadFile(f"{name} is signed by {each}, which is not on the roster")
        if not any(_signed_by(note, each, key) for key in clients[each]):
            raise BadFile(f"{name} carries no valid signature of {each}")
    return set(signed)


def _signed_by(note: str, name: str, key: bytes) -> bool:
    try:
        checkpoint_note.verify(note, name, key)
    except BadCheckpoint:
        return False
    return True
