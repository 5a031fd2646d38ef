"""Who else on this machine could read or change a path: by owners, modes, access lists and all folders above it.

Computed, as the kernel would decide it, because nobody but root may ask the kernel in another user's name. Where the
two could differ this says yes: an owner could change its file's mode, and whoever is of a group may do what all may.
"""

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

READ, WRITE, ENTER = 4, 2, 1
EVERYTHING = READ | WRITE | ENTER
ACL = "system.posix_acl_access"
_NAMED_USER, _OWN_GROUP, _NAMED_GROUP, _MASK = 0x02, 0x04, 0x08, 0x10  # tags of its entries; acl(5)


@dataclass(frozen=True)
class User:
    """Somebody as the kernel knows them: a user id, and all groups that it has or may take up."""

    uid: int
    gids: frozenset[int]


def way_in(user: User, path: Path, wanted: int = READ | WRITE) -> str | None:
    """How `user` could have what is `wanted` of `path`, or put something else in its place; None if it cannot."""
    try:
        # Both: whoever may change a folder that a link lies in, sends its reader elsewhere.
        for way in dict.fromkeys((Path(os.path.abspath(path)), path.resolve())):
            if (found := _along(user, way, wanted)) is not None:
                return found
    except (FileNotFoundError, NotADirectoryError):
        return None  # nothing is there that could be read
    except (OSError, RuntimeError) as problem:  # RuntimeError: links in a circle
        return f"may be able to read {path}, which cannot be looked at: {problem}"
    return None


def _along(user: User, path: Path, wanted: int) -> str | None:
    for folder in reversed(path.parents):
        state = folder.stat()
        held = _held(user, folder, state)
        # In a folder with the sticky bit only the owners of it, and of what is in it, may rename that.
        if held & WRITE and held & ENTER and (not state.st_mode & stat.S_ISVTX or state.st_uid == user.uid):
            return f"could replace what is in {folder}"
        if not held & ENTER:
            return None
    state = path.stat()
    held = _held(user, path, state)
    if held & WRITE & wanted:
        return f"could change {path}"
    if held & (READ | ENTER if stat.S_ISDIR(state.st_mode) else READ) and wanted & READ:
        return f"could read {path}"
    return None


def _held(user: User, path: Path, state: os.stat_result) -> int:
    if state.st_uid == user.uid:
        return EVERYTHING
    held, entries = state.st_mode & EVERYTHING, _access_list(path)
    if not entries:
        return held | (state.st_mode >> 3 & EVERYTHING if state.st_gid in user.gids else 0)
    most = next((bits for tag, bits, _ in entries if tag == _MASK), EVERYTHING)
    for tag, bits, number in entries:
        group = state.st_gid if tag == _OWN_GROUP else number
        if (tag == _NAMED_USER and number == user.uid) or (tag in (_OWN_GROUP, _NAMED_GROUP) and group in user.gids):
            held |= bits & most
    return held


def _access_list(path: Path) -> list[tuple[int, int, int]]:
    """(tag, bits, id) of each entry of a POSIX access list; none where the mode says everything."""
    try:
        found = os.getxattr(path, ACL)
    except OSError:
        return []  # none, or a file system that has none
    return list(struct.iter_unpack("<HHI", found[4:]))  # after a version number
