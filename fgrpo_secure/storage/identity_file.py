"""A secret identity in a file of its own: of an organisation, of the authority that signs rosters.

Readable by its owner alone, and never replaced: what a key signed must not lose its key.
"""

import os
import re
import tomllib
from pathlib import Path

from fgrpo_secure.errors import UnusableInput
from protocols.identity import Identity

SEED_BYTES = 32
LARGEST = 1024  # bytes of an identity file
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_HEADING = "# A secret identity. Keep it readable by its owner alone, and never send it to anybody."


class IdentityFileError(UnusableInput):
    """The file cannot be used as an identity; the sentence says why, and holds nothing of it."""


def write(path: Path, name: str, seed: bytes) -> None:
    """Make the file with mode 0600, whole and durable. IdentityFileError if it exists or cannot be made."""
    if not re.fullmatch(NAME, name):
        raise IdentityFileError(f"{name!r} is no name: up to 64 letters, digits, '.', '_' and '-' are allowed")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise IdentityFileError(f"{path} exists; an identity is never overwritten, choose another --out") from None
    except OSError as problem:
        raise IdentityFileError(f"{path} cannot be made: {problem.strerror}") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(f'{_HEADING}\nname = "{name}"\nseed = "{seed.hex()}"\n')
        file.flush()
        os.fsync(file.fileno())


def read_seed(path: Path) -> bytes:
    """The 32 secret bytes in an identity file, or of a file that is nothing but them. IdentityFileError otherwise."""
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise IdentityFileError(f"{path} cannot be read: {problem.strerror}") from None
    if len(data) == SEED_BYTES:
        return data
    try:
        seed = bytes.fromhex(tomllib.loads(data.decode())["seed"])
    except (ValueError, KeyError, TypeError):
        seed = b""
    if len(seed) != SEED_BYTES:
        raise IdentityFileError(f"{path} is not an identity file; `fgrpo identity new` makes one")
    return seed


def is_secret(path: Path) -> bool:
    """Whether a file is a secret identity: in the form of `write`, or its 32 bytes alone. Long files are not read."""
    if path.stat().st_size > LARGEST:
        return False
    try:
        return len(read_seed(path)) == SEED_BYTES
    except IdentityFileError:
        return False


def read(path: Path) -> Identity:
    """The identity in a file. Raises as `read_seed`."""
    return Identity.from_seed(read_seed(path))
