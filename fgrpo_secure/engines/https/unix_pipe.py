"""A Unix socket in the place of TLS: somebody else's program carries the requests, and the kernel says who it is.

    owner's client  --connects-->  PATH of the pipe, at the owner     Pipe: who listens there? then the request
    server          <--connects--  the pipe, at the server            listening: anybody may, as on a port

The pipe is the network of the threat model: it may drop, repeat, change and invent, and reads what is not sealed. It
must be no more than that. The kernel keeps the user who called listen(2) and tells it to who connects; this client asks
before it sends a byte, at every connection, and goes away where that user is its own, root, or one who could read or
change what the owner's folder holds. What the pipe's own configuration promises is not asked.
"""

import os
import pwd
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.storage.access import READ, WRITE, Reach, User
from fgrpo_secure.storage.kept import Kept

SCHEME = "unix:"
LONGEST_PATH = 107  # bytes that the kernel takes
PROBE_SECONDS = 5.0
BACKLOG = 1024
SO_PEERGROUPS = 59  # Linux 4.13; the standard library does not name it
MOST_GROUPS = 256  # as many as the standard library's getsockopt can take
EVERYBODYS_IDS = "0 0 4294967295"  # what uid_map says where no user is hidden


class NotParted(Exception):
    """Whoever serves the pipe could read what this client must keep; the sentence says how to part them."""


@dataclass(frozen=True)
class Pipe:
    """The socket at `path`, served by somebody who must not reach what `kept` names."""

    path: Path
    kept: Callable[[], Kept]

    def check(self, connection: socket.socket) -> None:
        """Returns if the other end is no more than a network; else NotParted. Asks the kernel alone."""
        user = _other_end(connection)
        try:
            why = _why_not(user, self.kept())
        except UnusableInput as problem:  # the owner's own file, which says where the data is
            raise NotParted(str(problem)) from None
        if why is not None:
            raise NotParted(f"the pipe {self.path} is refused: its user {_name(user.uid)} {why}")

    def probe(self) -> None:
        """UnusableInput if whoever serves the pipe now would be refused. Sends nothing; nobody there is no fault."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PROBE_SECONDS)
            try:
                connection.connect(str(self.path))
            except OSError:
                return
            try:
                self.check(connection)
            except NotParted as problem:
                raise UnusableInput(str(problem)) from None


def path_of(text: str) -> Path:
    """unix:PATH as an absolute path; UnusableInput for anything else."""
    path = Path(os.path.abspath(text.removeprefix(SCHEME)))  # a link may lead elsewhere later
    if not text.startswith(SCHEME) or text == SCHEME or len(os.fsencode(path)) > LONGEST_PATH:
        raise UnusableInput(
            f"{text!r} is no pipe; write unix:PATH, a socket's path of at most {LONGEST_PATH} bytes in all"
        )
    return path


def listen(path: Path) -> socket.socket:
    """A server's socket at `path`, in the place of one that a process which is gone left there. UnusableInput if it
    cannot be. Who may reach it is for the folder that it lies in: as on a port, signatures decide who is heard."""
    made = socket.socket(socket.AF_UNIX)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.lstat().st_mode) and not _is_served(path):
                path.unlink()
        made.bind(str(path))
        path.chmod(0o666)
        made.listen(BACKLOG)
    except OSError as problem:
        made.close()
        raise UnusableInput(f"cannot listen on {SCHEME}{path}: {problem.strerror}") from None
    return made


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PROBE_SECONDS)
        try:
            connection.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True


def _other_end(connection: socket.socket) -> User:
    """Who called listen(2) at the other end, with the groups it had then and those it may take up at any time."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, gid = struct.unpack("iII", found)
    gids = {gid}
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * MOST_GROUPS)
        gids.update(each for (each,) in struct.iter_unpack("I", groups))
    except OSError as problem:
        raise NotParted(f"the kernel does not tell the groups of user {uid}: {problem.strerror}") from None
    with suppress(KeyError):  # a user of a container may have no name here
        known = pwd.getpwuid(uid)
        gids.update(os.getgrouplist(known.pw_name, known.pw_gid))
    return User(uid, frozenset(gids))


def _why_not(user: User, kept: Kept) -> str | None:
    if user.uid in (os.getuid(), os.geteuid()):
        return "is this client's own, and reads all that it has; run the engine's client as a user of its own"
    if user.uid == 0:
        return "reads all of this machine; run the engine's client as a user of its own, in a container, too"
    if _is_hidden(user.uid):
        return "is of another user namespace, and might be anybody; run both where each has a user id of its own"
    reach = Reach(user)
    for paths, wanted in ((kept.secrets, READ | WRITE), (kept.code, WRITE)):
        for path in paths:
            if (how := reach.way_in(path, wanted)) is not None:
                return f"{how}; take that right away with chmod or chgrp, or run the engine's client as another user"
    return None


def _is_hidden(uid: int) -> bool:
    """Whether the kernel shows this user id in the place of one that this process's user namespace does not have."""
    try:
        stands_in = int(Path("/proc/sys/kernel/overflowuid").read_text())
        all_ids = Path("/proc/self/uid_map").read_text().split() == EVERYBODYS_IDS.split()
    except (OSError, ValueError):
        stands_in, all_ids = 65534, False
    return uid == stands_in and not all_ids


def _name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return str(uid)
