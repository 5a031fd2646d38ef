"""What users of several workers meet, in one sentence each; and a password that no sentence repeats."""

import itertools
import threading
import traceback
from urllib.parse import quote

import pytest

pytest.importorskip("psycopg")

from typer.testing import CliRunner

from fgrpo_secure.cli import app, several_servers
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.engines.workers import database as databases
from fgrpo_secure.engines.workers import schema, seats, working
from fgrpo_secure.engines.workers.database import Address, Database, NoDatabase
from fgrpo_secure.errors import UnusableInput
from tests.fgrpo_secure.engines import postgres
from tests.fgrpo_secure.engines.conftest import RUN

pytestmark = pytest.mark.slow  # a database of its own: seconds


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "127.0.0.1",
        f"host=/nowhere password={postgres.PASSWORD} =",
        f"postgresql://a:{postgres.PASSWORD}@[",
        "x" * 20,
    ],
)
def test_a_connection_string_that_is_none_is_refused_and_not_repeated(tmp_path, wrong):
    path = postgres.address_file(tmp_path, wrong)
    with pytest.raises(NoDatabase, match="holds no connection string of PostgreSQL") as refused:
        Address.read(path)
    assert postgres.PASSWORD not in str(refused.value)
    assert refused.value.__context__ is None, "libpq's own sentence quotes the string"


def test_the_password_is_in_no_form_of_the_address_and_in_no_sentence(tmp_path, monkeypatch):
    path = postgres.address_file(tmp_path, f"host=/nowhere user=me dbname=mine password={postgres.PASSWORD}")
    address = Address.read(path)
    monkeypatch.setattr(databases, "PATIENCE", 0.0)
    with pytest.raises(NoDatabase, match=r"the database of \S+database.conf does not answer") as refused:
        Database(address).transact(lambda cursor: None, 0.0)
    assert all(postgres.PASSWORD not in text for text in (repr(address), str(address), str(refused.value)))
    path.chmod(0o640)
    with pytest.raises(NoDatabase, match="can be read by others"):
        Address.read(path)


MARK = "Marked"
PARTS = ("", "@", "/", "#", "?", ":", "%", "@h/", "'", " ", "\\", "=", "[", "&", "é", "%40", "/1@")


def strings():
    """Connection strings with a marked password among any characters, percent-encoded or not, in both forms."""
    for before, after in itertools.product(PARTS, ("", "@", "/", "@h/")):
        for password in (before + MARK + after, before + after + MARK, quote(before + MARK + after, safe="")):
            yield f"postgresql://me:{password}@127.0.0.1:1/mine"
            yield f"postgresql://me:{password}@127.0.0.1:1"
            yield f"host=127.0.0.1 port=1 user=me password={password} dbname=mine"
            yield f"host=127.0.0.1 port=1 user=me password='{password}'"


def test_no_part_of_a_password_is_shown_however_it_is_written(tmp_path, monkeypatch, capfd):
    def refused(*_, **options):
        text = databases.psycopg.conninfo.make_conninfo(_[0]) if _ else ""
        raise databases.psycopg.OperationalError(f"could not translate {text}")

    monkeypatch.setattr(databases.psycopg, "connect", refused)
    kinds = set()
    for text in strings():
        path, shown = postgres.address_file(tmp_path, text), []
        try:
            address = Address.read(path)
            shown += [repr(address), str(address)]
            Database(address).transact(lambda cursor: None, 0.0)
        except NoDatabase as problem:
            shown += ["".join(traceback.format_exception(problem)), repr(problem), repr(problem.__context__)]
            kinds.add("holds no" in str(problem))
        assert MARK not in "".join(shown), text
    assert kinds == {False, True}, "each is tried: strings that are none, and databases that do not answer"
    assert MARK not in "".join(capfd.readouterr())


def test_tables_of_another_version_are_refused_and_left_as_they_are(database):
    database.transact(lambda cursor: cursor.execute("UPDATE fgrpo_schema SET version = 2"))
    for use in (schema.make, schema.is_made):
        with pytest.raises(NoDatabase, match="has tables of version 2, this program needs 1"):
            use(database)


def test_a_database_that_may_forget_commits_is_refused(database):
    class Forgetful:
        def transact(self, act):
            return database.transact(lambda cursor: act(SaysOff(cursor)))

    class SaysOff:
        def __init__(self, cursor):
            self.execute, self._fetchone = cursor.execute, cursor.fetchone

        def fetchone(self):
            self._fetchone()
            return ("off",)

    with pytest.raises(NoDatabase, match="fsync off"):
        schema.make(Forgetful())


def test_a_worker_of_another_number_than_the_coordinator_counts_is_refused(database, leases):
    leases(seats.COORDINATOR)
    with pytest.raises(UnusableInput, match="counts 2 workers, this one was started as one of 3"):
        working._wait_for_coordinator(database, RUN, 3, [].append)


def test_a_worker_without_a_coordinator_says_what_it_waits_for(database, leases):
    said = []
    thread = threading.Thread(target=working._wait_for_coordinator, args=[database, RUN, 2, said.append])
    thread.start()
    while not said:
        thread.join(0.1)
    leases(seats.COORDINATOR)
    thread.join(10)
    assert not thread.is_alive()
    assert said[0].startswith("no coordinator of this run is there yet; this worker waits: start `fgrpo server start")


@pytest.mark.parametrize("wrong", ["0/2", "3/2", "1", "1/", "a/b", "1/2/3", "-1/2", "01/2", "1/0"])
def test_a_number_that_is_no_worker_is_refused(wrong):
    with pytest.raises(ConfigError, match="write I/N with I from 1 to N"):
        several_servers.seat_of(wrong)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--workers", "2"), "--workers needs --database FILE"),
        (("--worker", "1/2", "--pipe", "unix:/x"), "--worker needs --database FILE"),
        (("--workers", "2", "--worker", "1/2"), "not both"),
        (("--workers", "2", "--pipe", "unix:/x"), "listens nowhere"),
        (("--pipe", "unix:/x", "--database", "f"), "--database is for several workers"),
        (("--workers", "2", "--database", "/nowhere"), "/nowhere cannot be read"),
    ],
)
def test_options_that_do_not_go_together_are_refused_in_one_sentence(tmp_path, options, sentence):
    place, private = tmp_path / "run", tmp_path / "run.server"
    place.mkdir()
    private.mkdir(mode=0o700)
    (place / "config.toml").write_text("")
    (private / "authority.pub").write_text("")
    outcome = CliRunner().invoke(app, ["server", "start", str(place), *options])
    assert outcome.exit_code == 2
    assert sentence in " ".join(outcome.stderr.split())
    assert len(outcome.stderr.strip().splitlines()) == 1
