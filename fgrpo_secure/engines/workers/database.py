"""A connection to PostgreSQL that outlives the database's restarts, and whose password nothing ever prints.

What is done to the database is one function of a cursor: one transaction, which is tried again when the connection
broke, whether or not it had been committed. So each such function must come to the same when it is done twice.
"""

import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

from fgrpo_secure import entropy
from fgrpo_secure.errors import UnusableInput

Given = TypeVar("Given")
Cursor = psycopg.Cursor[tuple[Any, ...]]
PATIENCE = 20.0  # seconds in which a database that does not answer may come back
PAUSE = 0.5  # seconds between two tries
MOST = 12  # connections of one process
CONNECT = 5  # seconds for one
LONGEST_STATEMENT = "60s"
LARGEST_FILE = 8 << 10


class NoDatabase(UnusableInput):
    """The database cannot be used; the sentence says which and why, and nothing that lets anybody in."""


@dataclass(frozen=True)
class Address:
    """Where the database is, as libpq takes it: with a password, if there is one. Shown is the file that holds it.

    **Why** nothing else of it: where a password holds `@` or `/`, libpq takes a part of it for the host or the name.
    """

    text: str = field(repr=False)
    file: Path

    @staticmethod
    def read(path: Path) -> "Address":
        """From a file that only its user can read. NoDatabase for anything else.

        **Why** a file: what stands on a command line or in an environment, others may read.
        """
        try:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise NoDatabase(f"{path} can be read by others; `chmod 600 {path}`, and change the password in it")
            text = path.read_bytes()[:LARGEST_FILE].decode().strip()
        except OSError as problem:
            raise NoDatabase(f"{path} cannot be read: {problem.strerror}") from None
        except UnicodeDecodeError:
            text = ""
        try:
            said = conninfo_to_dict(text)
        except psycopg.Error:  # its sentence quotes the text, the password included
            said = {}
        if not said:
            raise NoDatabase(
                f"{path} holds no connection string of PostgreSQL, like postgresql://USER:PASSWORD@HOST/NAME"
            )
        return Address(text, path)


class Database:
    """See the module. Connections are made as they are needed, one for each thread at a time, and at most `MOST`."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._idle: LifoQueue[psycopg.Connection[tuple[Any, ...]]] = LifoQueue()
        self._room = threading.BoundedSemaphore(MOST)

    def transact(self, act: Callable[[Cursor], Given], patience: float = PATIENCE) -> Given:
        """What `act` gives, committed and on the database's disk. NoDatabase after `patience` seconds without one."""
        with self._room:
            return self._transact(act, entropy.stopwatch() + patience)

    def _transact(self, act: Callable[[Cursor], Given], ends: float) -> Given:
        while True:
            connection, code = None, None
            try:
                connection = self._borrowed()
                with connection.transaction(), connection.cursor(binary=True) as cursor:
                    given = act(cursor)
                self._idle.put(connection)
                return given
            except (psycopg.OperationalError, psycopg.InterfaceError):
                _end(connection)
            except psycopg.Error as problem:
                _end(connection)
                code = problem.sqlstate or "none"
            except BaseException:
                _end(connection)
                raise
            # Here, where libpq's own sentence is gone: it may quote the connection string.
            if code is not None:
                raise NoDatabase(f"the database of {self._address.file} refuses what is asked of it: SQLSTATE {code}")
            if entropy.stopwatch() >= ends:
                raise NoDatabase(
                    f"the database of {self._address.file} does not answer, or does not let this user in; `psql` with "
                    "the connection string in it says why"
                )
            entropy.sleep(PAUSE)

    def close(self) -> None:
        """End the connections that nobody uses now."""
        with suppress(Empty):
            while True:
                _end(self._idle.get_nowait())

    def _borrowed(self) -> psycopg.Connection[tuple[Any, ...]]:
        with suppress(Empty):
            return self._idle.get_nowait()
        connection = psycopg.connect(
            self._address.text, connect_timeout=CONNECT, application_name="fgrpo", client_encoding="utf8"
        )
        # Prepared statements would stay behind at a pooler. What is paid must be on disk: a commit that is only in
        # memory may be forgotten in a power cut, after the clients were asked.
        connection.prepare_threshold = None
        connection.execute("SELECT set_config('synchronous_commit', 'on', false)")
        connection.execute("SELECT set_config('statement_timeout', %s, false)", [LONGEST_STATEMENT])
        connection.commit()
        return connection


def _end(connection: psycopg.Connection[tuple[Any, ...]] | None) -> None:
    if connection is not None:
        with suppress(psycopg.Error):
            connection.close()
