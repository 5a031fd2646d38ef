"""A host's files on a machine of a cluster that has disks of its own.

    driver                                    the machine of the actor, at the same paths
    run's public files, pins, policies   ->   copies
    host-N/: identities, ledgers, state  ->   moved there, and home again when the run has ended in order
    host-N/away.json: which machine has them,
    by which move                             =    host-N/moved

**Why** Moved, never copied: owners whose ledger exists twice have their budget twice. While a run is interrupted its
owners stay where they are; it goes on with them or not at all.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fgrpo_secure import entropy
from fgrpo_secure.storage import owners_folder
from fgrpo_secure.storage.owners_folder import Away, Enrolled
from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError, check_database, settle, write_durably

PRIVATE = 0o600
MARK_BYTES = 16
MARKS = (owners_folder.AWAY, owners_folder.MOVED)


@contextmanager
def marked(directory: RunDirectory) -> Iterator[str]:
    """At the driver: the name of a new file in its folder of owners, there for as long as this lasts.

    **Why** Whoever sees it has that folder, and not a copy of it that somebody made: charged there, an owner's ledger
    here would stay as it is.
    """
    place = directory.owners / f"seen-{new_name()}"
    place.touch(mode=PRIVATE)
    try:
        yield place.name
    finally:
        place.unlink()


def new_name() -> str:
    """A name that nobody had before: of a mark, of a move."""
    return entropy.from_kind("os", 0).bytes(MARK_BYTES, "folder").hex()


def has_mark(directory: RunDirectory, mark: str) -> bool:
    """Whether this machine has the driver's folder of owners."""
    return (directory.owners / mark).exists()


def shared_files(directory: RunDirectory) -> dict[str, bytes]:
    """What every host reads of the run and of its owners' folder, by path; no secret of an owner."""
    owners = directory.owners
    paths = [directory.config, directory.opening, directory.roster, owners / owners_folder.PINS]
    paths += [*directory.past_roster(0).parent.glob("*.bin"), *(owners / owners_folder.POLICIES).rglob("*.toml")]
    return _read(paths)


def own_files(directory: RunDirectory, host: int) -> dict[str, bytes]:
    """The stores of a host's owners, and what lies beside them, by path. Secret."""
    folder = owners_folder.store(directory.owners, host).parent
    return _read(sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in MARKS))


def lay_out(
    directory: RunDirectory, host: int, shared: dict[str, bytes], own: dict[str, bytes] | None, move: str
) -> None:
    """At the machine of a host: keep what the driver sent; `own` are the stores where they come new from it, by the
    move of this name.

    RunDirectoryError where another run, or other owners, have that place here, or where stores should be and are not,
    or are those of another move: a copy whose owners have been charged elsewhere.
    """
    pins = directory.owners / owners_folder.PINS
    known = Enrolled.read(directory.owners).authority if pins.exists() else None
    if known not in (None, _authority(shared[str(pins)])):
        raise RunDirectoryError(f"{pins} on this machine is of other data owners; choose another --out")
    if directory.opening.exists() and directory.opening.read_bytes() != shared[str(directory.opening)]:
        raise RunDirectoryError(f"{directory.root} on this machine holds another run; choose another --out")
    if own is None:
        for path, table in _databases(directory, host).items():
            check_database(path, table)  # what is missing would be made anew, and empty
        if owners_folder.moved(directory.owners, host) != move:
            raise RunDirectoryError(
                f"{owners_folder.store(directory.owners, host).parent} on this machine is a copy that an earlier move "
                "left; put the machine that has the owners' files back into the cluster, under its address"
            )
    else:
        drop(directory, host)
    _write(shared | (own or {}))
    if own is not None:
        owners_folder.mark_moved(directory.owners, host, move)
        settle(owners_folder.store(directory.owners, host).parent)


def leave(directory: RunDirectory, host: int, where: Away) -> None:
    """At the driver, once the host's files are kept there: say so, then drop what is here."""
    owners_folder.mark_away(directory.owners, host, where)
    settle(owners_folder.store(directory.owners, host).parent)  # the other copy goes next
    _clear(directory, host)


def take_home(directory: RunDirectory, host: int, files: dict[str, bytes]) -> None:
    """At the driver: the host's files are here again, and no others. RunDirectoryError if a store is not among them."""
    for path in _databases(directory, host):
        if str(path.absolute()) not in files:
            raise RunDirectoryError(f"{path} did not come home; end the run with --resume")
    _clear(directory, host)  # of an earlier attempt: a database would take up a log that is not its own
    _write(files)
    owners_folder.mark_home(directory.owners, host)
    settle(owners_folder.store(directory.owners, host).parent)


def drop(directory: RunDirectory, host: int) -> None:
    """At the machine of a host whose files are the driver's again, or are sent anew."""
    shutil.rmtree(owners_folder.store(directory.owners, host).parent, ignore_errors=True)


def _databases(directory: RunDirectory, host: int) -> dict[Path, str]:
    """The stores of a host's owners, and a table that each has."""
    store = owners_folder.store(directory.owners, host)
    return {store: "identity", store.with_name(owners_folder.LEDGERS): "entry"}


def _clear(directory: RunDirectory, host: int) -> None:
    for path in own_files(directory, host):
        Path(path).unlink()


def _authority(pins: bytes) -> str:
    return str(json.loads(pins)["authority"])


def _write(files: dict[str, bytes]) -> None:
    for path, data in files.items():
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(place, data, mode=PRIVATE)
    for folder in {Path(path).parent for path in files}:
        settle(folder)


def _read(paths: list[Path]) -> dict[str, bytes]:
    return {str(path.absolute()): path.read_bytes() for path in paths}
