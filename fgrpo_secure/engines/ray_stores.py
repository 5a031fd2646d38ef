"""A host's files on a machine of a cluster that has disks of its own.

    driver                                    the machine of the actor, at the same paths
    run's public files, pins, policies   ->   copies
    host-N/: identities, ledgers, state  ->   moved there, and home again when the run has ended in order
    host-N/away.json: which machine has them

**Why** Moved, never copied: owners whose ledger exists twice have their budget twice. While a run is interrupted its
owners stay where they are; it goes on with them or not at all.
"""

import json
import shutil
from pathlib import Path

from fgrpo_secure import entropy
from fgrpo_secure.storage import owners_folder
from fgrpo_secure.storage.owners_folder import Enrolled
from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError, write_durably

PRIVATE = 0o600
MARK = "this-folder"  # random bytes in the driver's folder of owners: whoever reads them there has that folder
MARK_BYTES = 16


def marked(directory: RunDirectory) -> bytes:
    """At the driver: the mark of its folder of owners."""
    place = directory.owners / MARK
    if not place.exists():
        write_durably(place, entropy.from_kind("os", 0).bytes(MARK_BYTES, "folder"), mode=PRIVATE)
    return place.read_bytes()


def has_mark(directory: RunDirectory, mark: bytes) -> bool:
    """Whether this machine has the driver's folder of owners."""
    place = directory.owners / MARK
    return place.exists() and place.read_bytes() == mark


def shared_files(directory: RunDirectory) -> dict[str, bytes]:
    """What every host reads of the run and of its owners' folder, by path; no secret of an owner."""
    owners = directory.owners
    paths = [directory.config, directory.opening, directory.roster, owners / owners_folder.PINS]
    paths += [*directory.past_roster(0).parent.glob("*.bin"), *(owners / owners_folder.POLICIES).rglob("*.toml")]
    return _read(paths)


def own_files(directory: RunDirectory, host: int) -> dict[str, bytes]:
    """The stores of a host's owners, and what lies beside them, by path. Secret."""
    folder = owners_folder.store(directory.owners, host).parent
    return _read(sorted(path for path in folder.rglob("*") if path.is_file() and path.name != owners_folder.AWAY))


def lay_out(directory: RunDirectory, host: int, shared: dict[str, bytes], own: dict[str, bytes] | None) -> None:
    """At the machine of a host: keep what the driver sent; `own` are the stores where they come new from it.

    RunDirectoryError where another run, or other owners, have that place here, or where stores should be and are not.
    """
    pins = directory.owners / owners_folder.PINS
    known = Enrolled.read(directory.owners).authority if pins.exists() else None
    if known not in (None, _authority(shared[str(pins)])):
        raise RunDirectoryError(f"{pins} on this machine is of other data owners; choose another --out")
    if directory.opening.exists() and directory.opening.read_bytes() != shared[str(directory.opening)]:
        raise RunDirectoryError(f"{directory.root} on this machine holds another run; choose another --out")
    if own is None and not owners_folder.store(directory.owners, host).exists():
        raise RunDirectoryError(f"{directory.owners} on this machine has lost the stores of its owners; put them back")
    if own is not None:
        drop(directory, host)
    _write(shared | (own or {}))


def leave(directory: RunDirectory, host: int, machine: str) -> None:
    """At the driver, once `machine` keeps the host's files: say so, then drop what is here."""
    owners_folder.mark_away(directory.owners, host, machine)
    for path in own_files(directory, host):
        Path(path).unlink()


def take_home(directory: RunDirectory, host: int, files: dict[str, bytes]) -> None:
    """At the driver: the host's files are here again."""
    _write(files)
    owners_folder.mark_home(directory.owners, host)


def drop(directory: RunDirectory, host: int) -> None:
    """At the machine of a host whose files are the driver's again, or are sent anew."""
    shutil.rmtree(owners_folder.store(directory.owners, host).parent, ignore_errors=True)


def _authority(pins: bytes) -> str:
    return str(json.loads(pins)["authority"])


def _write(files: dict[str, bytes]) -> None:
    for path, data in files.items():
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(place, data, mode=PRIVATE)


def _read(paths: list[Path]) -> dict[str, bytes]:
    return {str(path.absolute()): path.read_bytes() for path in paths}
