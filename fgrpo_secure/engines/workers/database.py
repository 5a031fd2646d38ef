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
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import IdleInTransactionSessionTimeout

from fgrpo_secure import entropy
from fgrpo_secure.errors import UnusableInput

Given = TypeVar("Given")
Cursor = psycopg.Cursor[tuple[Any, ...]]
PATIENCE = 20.0  # seconds in which a database that does not answer may come back
PAUSE = 0.5  # seconds between two tries
MOST = 12  # connections of one process
CONNECT = 5  # seconds for one
# Of the server's side of each connection. **Why** A machine that is lost or stopped in the middle of a transaction
# would hold its rows' locks for as long as TCP takes to notice, and every other process would wait. All is within a
# lease.
SERVERS_SIDE = {
    "synchronous_commit": "on",  # what is paid must be on disk: a power cut forgets a commit that is in memory alone
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "5s",
    "lock_timeout": "4s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10s",
}
# The same from this side, where the database's machine is lost: seconds, and milliseconds the last.
CLIENTS_SIDE = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
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
            except (psycopg.OperationalError, psycopg.InterfaceError, IdleInTransactionSessionTimeout):
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
            make_conninfo(self._address.text, **CLIENTS_SIDE),
            connect_timeout=CONNECT,
            application_name="fgrpo",
            client_encoding="utf8",
        )
        connection.prepare_threshold = None  # prepared statements would stay behind at a pooler
        # Fences look at what others committed since their transaction began, whatever the user's own default is.
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        for name, value in SERVERS_SIDE.items():
            connection.execute("SELECT set_config(%s, %s, false)", [name, value])
        connection.commit()
        return connection


def _end(connection: psycopg.Connection[tuple[Any, ...]] | None) -> None:
    if connection is not None:
        with suppress(psycopg.Error):
            connection.close()
