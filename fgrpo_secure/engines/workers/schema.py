"""The tables in which the workers of a server meet. Of a version of its own: another one is refused, never changed.

    fgrpo_run        a run: how many workers its coordinator counts, whether it is over, how often anything was asked
    fgrpo_seat       who is the coordinator (0) or worker I, until when: a lease
    fgrpo_client     who may speak, under which key
    fgrpo_blob       models, rosters and sums by their digests, in pieces
    fgrpo_session    a shard's session: for whom, by whom, whether its clients may have been asked to pay, how it ended
    fgrpo_question   what each client is asked now
    fgrpo_answer     what it answered, in pieces until it is whole

Nothing in it is secret beyond what lies in a server's own folder otherwise: questions, answers and models. No key does.
"""

from fgrpo_secure.engines.workers.database import Cursor, Database, NoDatabase

VERSION = 1
LOCK = 0x6667727001  # of this schema's making, among the database's advisory locks
TABLES = """
CREATE TABLE fgrpo_schema (version integer NOT NULL);
CREATE TABLE fgrpo_run (
    run bytea PRIMARY KEY, workers integer NOT NULL, is_over boolean NOT NULL, asked bigint NOT NULL);
CREATE TABLE fgrpo_seat (
    run bytea, seat integer, holder bytea NOT NULL, until timestamptz NOT NULL, PRIMARY KEY (run, seat));
CREATE TABLE fgrpo_client (run bytea, client integer, public bytea NOT NULL, PRIMARY KEY (run, client));
CREATE TABLE fgrpo_blob (run bytea, digest bytea, start bigint, data bytea NOT NULL, PRIMARY KEY (run, digest, start));
CREATE TABLE fgrpo_session (
    run bytea, session bytea, worker integer NOT NULL, holder bytea, state text NOT NULL, asked boolean NOT NULL,
    handed bytea NOT NULL, outcome bytea, PRIMARY KEY (run, session));
CREATE TABLE fgrpo_question (
    run bytea, client integer, scope text NOT NULL, id bytea NOT NULL, most bigint NOT NULL, sealed bytea NOT NULL,
    session bytea, PRIMARY KEY (run, client));
CREATE TABLE fgrpo_answer (
    run bytea, id bytea, scope text NOT NULL, client integer NOT NULL, kept bigint NOT NULL, is_whole boolean NOT NULL,
    PRIMARY KEY (run, id));
CREATE TABLE fgrpo_piece (run bytea, id bytea, start bigint, data bytea NOT NULL, PRIMARY KEY (run, id, start),
    FOREIGN KEY (run, id) REFERENCES fgrpo_answer ON DELETE CASCADE);
"""


def make(database: Database) -> None:
    """The tables are there when this returns. NoDatabase if another version of them is, or if what is committed may be
    lost in a power cut."""

    def act(cursor: Cursor) -> None:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        cursor.execute("SELECT current_setting('fsync')")
        if cursor.fetchone() != ("on",):
            raise NoDatabase("the database runs with fsync off: after a power cut it would not know what was paid for")
        if _version(cursor) is None:
            for table in TABLES.strip().removesuffix(";").split(";"):
                cursor.execute(table.encode())
            cursor.execute("INSERT INTO fgrpo_schema VALUES (%s)", [VERSION])
        _check(cursor)

    database.transact(act)


def is_made(database: Database) -> bool:
    """Whether a coordinator made the tables. NoDatabase if those of another version are there."""

    def act(cursor: Cursor) -> bool:
        if _version(cursor) is None:
            return False
        _check(cursor)
        return True

    return database.transact(act)


def _version(cursor: Cursor) -> int | None:
    cursor.execute("SELECT to_regclass('fgrpo_schema') IS NOT NULL")
    if cursor.fetchone() != (True,):
        return None
    found = cursor.execute("SELECT version FROM fgrpo_schema").fetchone()
    return None if found is None else int(found[0])


def _check(cursor: Cursor) -> None:
    found = _version(cursor)
    if found != VERSION:
        raise NoDatabase(
            f"the database has tables of version {found}, this program needs {VERSION}: end the run with the version "
            "of fgrpo-secure that began it, or take another database"
        )
