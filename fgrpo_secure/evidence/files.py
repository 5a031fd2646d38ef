"""The files of a run directory, read within bounds: what is no regular file in there, or not a run's, is refused.

An auditor opens what an adversary made. A link may lead to the auditor's own files, a pipe never ends, a file of
gigabytes fills the memory: so names, kinds, numbers and sizes are checked before anything is opened.
"""

import os
import re
import stat
from pathlib import Path

from fgrpo_secure.storage.signed_file import BadFile

MOST = 200_000  # files and folders
DEEPEST = 2
PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
LARGEST_RECEIPT = 4 * MIB
LIMITS = (  # pattern of the path, largest size in bytes; a file that matches none is no part of a run
    (r"opening\.json", 16 * KIB),
    (r"config\.toml", MIB),
    (r"(manifest|privacy_statement)\.json", 64 * MIB),
    (r"(summary|audit|attacks)\.json", 16 * MIB),
    (r"metrics\.jsonl", 64 * MIB),
    (r"deployment_registry\.yaml", MIB),
    (r"report\.html", 64 * MIB),
    (r"ledger\.sqlite(-wal|-shm)?", 4 * GIB),  # journals: while another process of the server still looks at it
    (r"roster\.(bin|next|refused)|rosters/[0-9]{8}\.bin", 64 * MIB),
    (r"notes/[0-9]{8}\.note", 4 * MIB),
    (r"adapter/adapter_model\.safetensors", 8 * GIB),
    (r"adapter/(README\.md|adapter_config\.json)", MIB),
)


def listing(root: Path) -> dict[str, int]:
    """Path within the run -> size, of all its files. BadFile for anything that a run does not leave."""
    found: dict[str, int] = {}
    folders = [(root, 1)]
    while folders:
        folder, depth = folders.pop()
        with os.scandir(folder) as inside:
            for entry in inside:
                name = os.path.relpath(entry.path, root)
                mode = entry.stat(follow_symlinks=False).st_mode
                if not PART.fullmatch(entry.name) or len(found) >= MOST:
                    raise BadFile(f"the directory holds a file that no run leaves: {_shown(name)}")
                if stat.S_ISDIR(mode) and depth >= DEEPEST:
                    raise BadFile(f"the directory holds a folder that no run leaves: {_shown(name)}")
                if stat.S_ISDIR(mode):
                    folders.append((Path(entry.path), depth + 1))
                elif stat.S_ISREG(mode):
                    found[name] = _checked(name, entry.stat(follow_symlinks=False).st_size)
                else:
                    raise BadFile(f"{_shown(name)} is no regular file: links, pipes and devices are not read")
    return dict(sorted(found.items()))


def read(root: Path, name: str) -> bytes:
    """The bytes of a run's file. BadFile if it is missing, no regular file, or too large."""
    try:
        descriptor = os.open(root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise BadFile(f"{name} is missing") from None
    except OSError:
        raise BadFile(f"{name} cannot be read: it is no regular file, or nobody may") from None
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise BadFile(f"{name} is no regular file: links, pipes and devices are not read")
        return file.read(_checked(name, about.st_size))


def read_kept(path: Path) -> str:
    """A receipt that a client handed over. BadFile if it is no short text."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_RECEIPT:
            raise BadFile(f"{_shown(path.name)} is no receipt: it is too large, or no regular file")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise BadFile(f"{_shown(path.name)} cannot be read as a receipt") from None


def _checked(name: str, size: int) -> int:
    for pattern, most in LIMITS:
        if re.fullmatch(pattern, name):
            if size > most:
                raise BadFile(f"{name} has {size:,} bytes; at most {most:,} are read")
            return size
    raise BadFile(f"the directory holds a file that no run leaves: {_shown(name)}")


def _shown(name: str) -> str:
    """A name as it may be printed: control characters would write over the terminal."""
    return ascii(name[:200])
