"""The folder of the data owners: whom they trust, who they are, and where each keeps its state and its ledger.

`pins.json` in it is what a client pins when it is enrolled: public keys, no secret.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fgrpo_secure.storage.run_directory import RunDirectoryError, write_durably

PINS = "pins.json"
STATE = "state.sqlite"  # of the owners of one host
LEDGERS = "ledgers.sqlite"  # beside their state
POLICIES = "policies"
AWAY = "away.json"  # in a host's folder: its owners' files are on another machine of a cluster
MOVED = "moved"  # in a host's folder on such a machine: the name of the move that brought them


@dataclass(frozen=True)
class Enrolled:
    """What the owners of a folder were enrolled with: public keys in hex, names by id, processes, protected unit.

    `runs` are those that they joined, by name in hex: plans of any other run are refused.
    """

    authority: str
    servers: tuple[str, ...]
    names: tuple[str, ...]
    hosts: int
    unit: str
    runs: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """Keep it in `folder`, whole or not at all."""
        write_durably(folder / PINS, json.dumps(asdict(self)).encode())

    @staticmethod
    def read(folder: Path) -> "Enrolled":
        """What `folder` holds; RunDirectoryError if that is missing or damaged."""
        try:
            found = json.loads((folder / PINS).read_text())
            bytes.fromhex(found["authority"])
            servers, names = tuple(map(str, found["servers"])), tuple(map(str, found["names"]))
            runs = tuple(map(str, found["runs"]))
            return Enrolled(found["authority"], servers, names, int(found["hosts"]), str(found["unit"]), runs)
        except (OSError, ValueError, KeyError, TypeError):
            raise RunDirectoryError(
                f"{folder} does not hold the clients of this run: {folder / PINS} is missing or damaged"
            ) from None


def exists(folder: Path) -> bool:
    """Whether owners were enrolled in `folder`."""
    return (folder / PINS).exists()


def store(folder: Path, host: int) -> Path:
    """Where the owners of one host keep their state."""
    return folder / f"host-{host}" / STATE


@dataclass(frozen=True)
class Away:
    """Where the files of a host's owners are: on `machine`, those that the move of this name brought there.

    **Why** A name: addresses change hands, and a move that was cut short leaves a copy that is of no use any more.
    """

    machine: str
    move: str


def away(folder: Path, host: int) -> Away | None:
    """Where the files of this host's owners are, where that is another machine."""
    try:
        found = json.loads((store(folder, host).with_name(AWAY)).read_bytes())
    except OSError:
        return None
    return Away(str(found["machine"]), str(found["move"]))


def mark_away(folder: Path, host: int, where: Away) -> None:
    """From now on the files of this host's owners are those."""
    write_durably(store(folder, host).with_name(AWAY), json.dumps(asdict(where)).encode())


def moved(folder: Path, host: int) -> str | None:
    """The name of the move that brought this host's files here; None if none did, or was cut short."""
    try:
        return store(folder, host).with_name(MOVED).read_text()
    except OSError:
        return None


def mark_moved(folder: Path, host: int, move: str) -> None:
    """All that the move of this name brought is here."""
    write_durably(store(folder, host).with_name(MOVED), move.encode())


def mark_home(folder: Path, host: int) -> None:
    """From now on they are those in `folder`."""
    store(folder, host).with_name(AWAY).unlink(missing_ok=True)


def require_home(folder: Path, host: int) -> None:
    """RunDirectoryError if the files of this host's owners are on another machine."""
    where = away(folder, host)
    if where is not None:
        raise RunDirectoryError(
            f"the data owners of host {host} in {folder} are on {where.machine}, where an interrupted run left them: "
            "end that run first with --resume, with engine.kind = 'ray' and that machine in its cluster"
        )


def ledger_of(folder: Path, name: str | None) -> tuple[Path, str]:
    """(file, its name in there) of the ledger of owner `name`; blocks of units have one each: `name/block-0`.

    RunDirectoryError if the folder has no such owner.
    """
    enrolled = Enrolled.read(folder)
    owner, slash, block = (name or "").partition("/")
    if owner not in enrolled.names:
        asked = "choose one with --owner" if name is None else f"none of them is {owner!r}"
        raise RunDirectoryError(
            f"{folder} holds the ledgers of {len(enrolled.names)} owners, {asked}; they are "
            + ", ".join(enrolled.names[:5])
            + (", ..." if len(enrolled.names) > 5 else "")
        )
    client = enrolled.names.index(owner)
    require_home(folder, client % enrolled.hosts)
    return store(folder, client % enrolled.hosts).with_name(LEDGERS), f"{client}{slash}{block}"
