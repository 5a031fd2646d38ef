"""The manifest of a finished run: the SHA-256 of every file in its directory, under the server's signature."""

import hashlib
from pathlib import Path

from fgrpo_secure.evidence import signed_file
from fgrpo_secure.evidence.signed_file import BadFile
from fgrpo_secure.run_directory import RunDirectory
from protocols.identity import Identity

VERSION = 1


def write(directory: RunDirectory, identity: Identity) -> None:
    """List and sign all files that the directory holds now."""
    files = {name: digest(directory.root / name) for name in _names(directory)}
    signed_file.write(directory.manifest, {"version": VERSION, "files": files}, identity)


def check(directory: RunDirectory, signer: bytes | None) -> dict[str, str]:
    """The listed digests, if the directory holds exactly those files with exactly those bytes; else raises BadFile."""
    content = signed_file.read(directory.manifest, signer)
    files = content.get("files")
    if content.get("version") != VERSION or not isinstance(files, dict):
        raise BadFile(f"{directory.manifest.name} is not a manifest of version {VERSION}")
    present = set(_names(directory))
    for name in sorted(files):
        if name not in present:
            raise BadFile(f"{name} is missing")
        if digest(directory.root / name) != files[name]:
            raise BadFile(f"{name} is not the file that the run left")
    if unlisted := sorted(present - files.keys()):
        raise BadFile(f"{unlisted[0]} was added after the run")
    return dict(files)


def _names(directory: RunDirectory) -> list[str]:
    found = (path for path in directory.root.rglob("*") if path.is_file() and not _excepted(path, directory))
    return sorted(path.relative_to(directory.root).as_posix() for path in found)


def _excepted(path: Path, directory: RunDirectory) -> bool:
    """Audits and attacks are made after a run, too, and by others: nobody's word, and never signed for."""
    return path in (directory.manifest, directory.server_key, directory.audits, directory.attacks)


def digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
