"""Pipes as users of their own: child processes that give up root before they listen. Only root can play them."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STRANGER = 61_234  # a user of the pipe, who has no name here
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")

# Everything is imported before the child gives up its rights: the interpreter may lie where others cannot read.
PROGRAM = """
import os, sys
sys.path[:0] = [{examples!r}, {here!r}]
import functools, threading, hostile_pipe, http_messages
os.setgroups({groups!r}); os.setgid({gid}); os.setuid({uid})
carries = hostile_pipe.Hostile if {hostile} else lambda server, seed: functools.partial(http_messages.ask, server)
if {hostile}:
    http_messages._attend = hostile_pipe.attend
paths = {paths!r}
for seed, path in enumerate(paths):
    threading.Thread(target=http_messages.serve, args=(path, carries({server!r}, seed)), daemon=True).start()
threading.Event().wait()
"""


JUDGE = """
import sys
from pathlib import Path
from fgrpo_secure.engines.https.unix_pipe import Pipe
from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.storage.kept import Kept
import os, pwd
os.setgroups([]); os.setgid({uid}); os.setuid({uid})
try:
    Pipe(Path({path!r}), lambda: Kept((), ())).probe()
    print("taken")
except UnusableInput as problem:
    print(problem)
"""


def said_by(uid, path):
    """What an owner who is user `uid` says of the pipe at `path`, before it sends anything."""
    done = subprocess.run(
        [sys.executable, "-c", JUDGE.format(uid=uid, path=str(path))],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@contextmanager
def meeting_place():
    """A folder that every user of this machine may use, with a name that is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="fgrpo"))
    folder.chmod(0o1777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def piped(paths, server, uid=STRANGER, groups=(), hostile=False):
    """A process of user `uid` that serves each of `paths` and brings what comes to the socket `server`."""
    text = PROGRAM.format(
        examples=str(ROOT / "examples" / "pipes"),
        here=str(Path(__file__).parent),
        groups=list(groups),
        gid=uid,
        uid=uid,
        hostile=hostile,
        paths=[str(path) for path in paths],
        server=str(server),
    )
    process = subprocess.Popen([sys.executable, "-c", text])
    try:
        deadline = time.monotonic() + 120
        while not all(path.exists() for path in paths):
            assert process.poll() is None, "the pipe ended"
            assert time.monotonic() < deadline, "the pipe does not listen"
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()
        for path in paths:
            path.unlink(missing_ok=True)
