"""Who else on this machine could read or change a path: by owners, modes, access lists and all folders above it.

Computed, as the kernel would decide it, because nobody but root may ask the kernel in another user's name. Where the
two could differ this says yes: an owner could change its file's mode, and whoever is of a group may do what all may.

    /a/link -> /b/link -> /c/file      a, b and c count, with all folders above them: whoever may put another link
                                       into one of them sends its reader elsewhere
"""

import errno
import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

READ, WRITE, ENTER = 4, 2, 1
EVERYTHING = READ | WRITE | ENTER
ACL = "system.posix_acl_access"
MOST_LINKS = 40  # on the way to one file, as the kernel has it
_NAMED_USER, _OWN_GROUP, _NAMED_GROUP, _MASK = 0x02, 0x04, 0x08, 0x10  # tags of its entries; acl(5)


@dataclass(frozen=True)
class User:
    """Somebody as the kernel knows them: a user id, and all groups that it has or may take up."""

    uid: int
    gids: frozenset[int]


def way_in(user: User, path: Path, wanted: int = READ | WRITE) -> str | None:
    """How `user` could have what is `wanted` of `path`, or put something else in its place; None if it cannot."""
    return Reach(user).way_in(path, wanted)


@dataclass(frozen=True)
class Reach:
    """What a user can get at, with each folder looked at once: for one look at many paths, not to be kept."""

    user: User
    _folders: dict[Path, tuple[str | None, int]] = field(default_factory=dict, repr=False)
    _ways: dict[tuple[Path, int], tuple[str | None, Path]] = field(default_factory=dict, repr=False)

    def way_in(self, path: Path, wanted: int) -> str | None:
        """See the function of this name."""
        try:
            path = path if path.is_absolute() else Path.cwd() / path
            if (path.parent, wanted) not in self._ways:
                self._ways[path.parent, wanted] = self._along(Path("/"), path.parent.parts[1:], wanted)
            found, folder = self._ways[path.parent, wanted]
            if found is None:
                found, end = self._along(folder, (path.name,) if path.name else (), wanted)
            return self._opens(end, wanted) if found is None else found
        except (FileNotFoundError, NotADirectoryError):
            return None  # nothing is there that could be read
        except OSError as problem:  # links in a circle, too
            return f"may be able to read {path}, which cannot be looked at: {problem}"

    def _along(self, start: Path, names: Sequence[str], wanted: int) -> tuple[str | None, Path]:
        """(how something on the way could be replaced, what is at its end)."""
        passed, end = _hops(start, names)
        ways = (self._replaces(place, wanted) for place in passed)
        return next((found for found in ways if found is not None), None), end

    def _replaces(self, place: Path, wanted: int) -> str | None:
        """How something else could come to be under this name."""
        found, held = self._into(place.parent)
        if found is not None or not held & WRITE:
            return found
        # In a folder with the sticky bit only the owners of it, and of what is in it, may rename that.
        try:
            owned = place.lstat().st_uid == self.user.uid
        except FileNotFoundError:
            owned = bool(wanted & WRITE)  # whoever puts it there
        return f"could put something of its own at {place}" if owned else None

    def _opens(self, end: Path, wanted: int) -> str | None:
        state = end.stat()
        # A file with a second name may be reached by that one, wherever it is.
        other_name = stat.S_ISREG(state.st_mode) and state.st_nlink > 1
        if not self._into(end.parent)[1] & ENTER and not other_name:
            return None
        held, where = _held(self.user, end, state), f"{end}, a file of several names" if other_name else str(end)
        if held & WRITE & wanted:
            return f"could change {where}"
        if held & (READ | ENTER if stat.S_ISDIR(state.st_mode) else READ) and wanted & READ:
            return f"could read {where}"
        return None

    def _into(self, folder: Path) -> tuple[str | None, int]:
        """(how this folder or what is in it could be replaced, what the user holds of it if it can get there)."""
        if folder not in self._folders:
            found, above = (None, ENTER) if folder == folder.parent else self._into(folder.parent)
            held = 0
            if found is None and above & ENTER:
                state = folder.stat()
                held = _held(self.user, folder, state)
                free = not state.st_mode & stat.S_ISVTX or state.st_uid == self.user.uid
                if held & WRITE and held & ENTER and free:
                    found = f"could replace what is in {folder}"
            self._folders[folder] = found, held if held & ENTER else 0
        return self._folders[folder]


def _hops(start: Path, names: Sequence[str]) -> tuple[list[Path], Path]:
    """(every name that the kernel reads on its way from `start`, each in the folder that it really lies in; what is at
    the end). A link is one of these names, and so is what it leads to, step by step."""
    here, left, passed, links = start, [*reversed(names)], list[Path](), 0
    while left:
        name = left.pop()
        if name == "..":
            here = here.parent
            continue
        passed.append(here / name)
        try:
            target = Path(os.readlink(here / name))
        except OSError as problem:
            if problem.errno not in (errno.EINVAL, errno.ENOENT):  # no link; nothing there, which is found out later
                raise
            here /= name
            continue
        links += 1
        if links > MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(start / names[-1]))
        left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        here = Path("/") if target.is_absolute() else here
    return passed, here


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
