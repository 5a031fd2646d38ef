"""A real PostgreSQL of this test session alone: a cluster in a folder of its own, at a socket in it, by no root."""

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

PASSWORD = "planted-Pa55word"
USER = "fgrpo"
PROGRAMS = next((folder for folder in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)), None)


def needed():
    """Skips where there is none; in continuous integration that is a failure."""
    if PROGRAMS is None and os.environ.get("CI_POSTGRES") != "1":
        pytest.skip("no PostgreSQL is installed here (Debian: postgresql)")
    assert PROGRAMS is not None, "CI_POSTGRES=1 and no PostgreSQL in /usr/lib/postgresql"
    if os.environ.get("CI_POSTGRES") != "1":
        pytest.importorskip("psycopg")


@contextmanager
def cluster():
    """The connection string of a database that is gone afterwards. Synced to disk as in earnest."""
    needed()
    folder = Path(tempfile.mkdtemp(prefix="fgrpo-postgres-"))
    user = {}
    if os.geteuid() == 0:  # the database's programs refuse root
        nobody = pwd.getpwnam("nobody")
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    folder.chmod(0o700)
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)

    def call(program, *arguments):
        command = [f"{PROGRAMS}/{program}", *map(str, arguments)]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, env={"LC_ALL": "C"}, **user)

    data = folder / "data"
    call("initdb", "-D", data, "-U", USER, "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync")
    options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c max_connections=60"
    call("pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
    try:
        yield f"host={folder} dbname=postgres user={USER} password={PASSWORD}"
    finally:
        call("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)


def address_file(folder, text):
    path = folder / "database.conf"
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path
