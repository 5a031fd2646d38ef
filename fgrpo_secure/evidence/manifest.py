"""The manifest of a finished run: the SHA-256 of every file in its directory, under the server's signature."""

from fgrpo_secure.evidence import files
from fgrpo_secure.storage import digests, signed_file
from fgrpo_secure.storage.run_directory import RunDirectory
from fgrpo_secure.storage.signed_file import BadFile
from protocols.identity import Identity

VERSION = 1
# Audits and attacks are made after a run, too, and by others: nobody's word, and never signed for. What a journal
# would change in the ledger, the clients' signatures on its root would not cover.
EXCEPTED = ("manifest.json", "audit.json", "attacks.json", "ledger.sqlite-wal", "ledger.sqlite-shm")


def write(directory: RunDirectory, identity: Identity) -> None:
    """List and sign all files that the directory holds now."""
    signed_file.write(directory.manifest, {"version": VERSION, "files": listed(directory)}, identity)


def listed(directory: RunDirectory) -> dict[str, str]:
    """The SHA-256 of every file that a manifest names, as they are now."""
    return {name: digests.of_file(directory.root / name) for name in _names(directory)}


def check(directory: RunDirectory, signer: bytes | None) -> dict[str, str]:
    """The listed digests, if the directory holds exactly those files with exactly those bytes; else raises BadFile."""
    content = signed_file.read(directory.manifest, signer)
    said = content.get("files")
    if content.get("version") != VERSION or not isinstance(said, dict):
        raise BadFile(f"{directory.manifest.name} is not a manifest of version {VERSION}")
    present = set(_names(directory))
    for name in sorted(said):
        if name not in present:
            raise BadFile(f"{name} is missing")
        if digests.of_file(directory.root / name) != said[name]:
            raise BadFile(f"{name} is not the file that the run left")
    if unlisted := sorted(present - said.keys()):
        raise BadFile(f"{unlisted[0]} was added after the run")
    return dict(said)


def _names(directory: RunDirectory) -> list[str]:
    return [name for name in files.listing(directory.root) if name not in EXCEPTED]
