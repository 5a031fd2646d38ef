"""A run directory that is cut short, huge, nested or no run's at all: one sentence, exit 1, in bounded time and memory.

Every file of a run meets every kind of harm; what the server's key can sign about it is signed again, so that the harm
reaches the code that reads the file and not only its digest.
"""

import contextlib
import os
import sqlite3
import time
import tracemalloc

import pytest
from typer.testing import CliRunner

from fgrpo_secure.cli import app
from fgrpo_secure.config import files as config_file
from fgrpo_secure.evidence import files, manifest
from fgrpo_secure.storage import opening, rosters
from fgrpo_secure.storage.signed_file import BadFile
from protocols.identity import Identity

SECONDS, MEMORY = 20.0, 256 << 20  # on an overloaded machine; what is read is some hundred kilobytes
DEEP, DIGITS = 100_000, 1_000_000
HARMS = {
    "empty": lambda data: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "without its last byte": lambda data: data[:-1],
    "nested lists": lambda data: b"[" * DEEP + b"]" * DEEP,
    "nested tables": lambda data: b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "a nested value": lambda data: data.rstrip()[:-1] + b', "x": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "a number of a million digits": lambda data: b'{"version": ' + b"7" * DIGITS + b"}",
    "toml with a number of a million digits": lambda data: b"[run]\nseed = " + b"7" * DIGITS,
    "toml nested": lambda data: b"a = " + b"[" * DEEP + b"]" * DEEP,
    "not text": lambda data: b"\xff\xfe\x00" * 100,
    "a float beyond all": lambda data: b'{"version": 1e999}',
    "null": lambda data: b"null",
}
FILES = (
    "opening.json", "config.toml", "manifest.json", "privacy_statement.json", "summary.json", "metrics.jsonl",
    "deployment_registry.yaml", "ledger.sqlite", "roster.bin", "notes/00000003.note",
    "adapter/adapter_model.safetensors", "adapter/adapter_config.json",
)  # fmt: skip


def refused(directory):
    """The one sentence of the command, within bounds."""
    tracemalloc.start()
    started = time.monotonic()
    done = CliRunner().invoke(app, ["verify", str(directory.root)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert done.exit_code == 1, done.output
    assert time.monotonic() - started < SECONDS
    assert peak < MEMORY
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"fgrpo: {directory.root} does not verify: ")
    assert len(sentence) < 600
    assert sentence.isprintable()
    return sentence


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_every_file_in_every_harmed_form_is_refused_in_one_sentence(copied, name):
    path, key = copied.root / name, Identity.from_seed(copied.server_key.read_bytes())
    original = path.read_bytes()
    for harm in HARMS.values():
        path.write_bytes(harm(original))
        if name != "manifest.json":
            with contextlib.suppress(BadFile):  # too large to be listed: refused before any signature counts
                manifest.write(copied, key)
        refused(copied)
        path.write_bytes(original)


def test_the_listed_files_are_those_that_a_run_leaves_and_report(copied):
    left = {path.relative_to(copied.root).as_posix() for path in copied.root.rglob("*") if path.is_file()}
    assert set(FILES) <= left
    assert {name for name in left if not name.startswith(("notes/", "adapter/"))} <= {*FILES, "report.html"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_terabyte_is_refused_without_being_read(copied, name):
    with (copied.root / name).open("r+b") as file:
        file.truncate(1 << 40)
    assert "bytes; at most" in refused(copied)


@pytest.mark.parametrize("name", FILES)
def test_a_link_a_pipe_or_a_folder_in_the_place_of_a_file_is_refused(copied, name, tmp_path):
    path = copied.root / name
    (tmp_path / "elsewhere").write_bytes(path.read_bytes())
    for make in (
        lambda: path.symlink_to(tmp_path / "elsewhere"),
        lambda: path.symlink_to("/dev/zero"),
        lambda: os.mkfifo(path),
        path.mkdir,
    ):
        path.unlink()
        make()
        refused(copied)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        path.write_bytes(b"")


@pytest.mark.parametrize("name", ["..x", "a\nb", "\x1b[2J", "x" * 200, "notes/a b", "adapter/model.bin", "deep/er/x"])
def test_a_file_that_no_run_leaves_is_named_without_control_characters(copied, name):
    path = copied.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    assert "no run leaves" in refused(copied)


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT (x + 1) % 1000000 FROM c)"
COLUMNS = "x AS owner, x AS position, x AS session, x AS phase, x AS content, x AS budget, x AS spent, x AS frontier"
FOREIGN = {  # what SQLite would run, or read, in the place of our tables
    "an endless view for entries": f"CREATE VIEW entry AS {ENDLESS} SELECT {COLUMNS} FROM c WHERE x < 0",  # noqa: S608
    "an endless view for plans": f"CREATE VIEW plan AS {ENDLESS} SELECT x AS session, x AS signed FROM c WHERE x < 0",  # noqa: S608
    "a full-text table": "CREATE VIRTUAL TABLE entry USING fts5(owner, position, frontier)",
    "generated columns": "CREATE TABLE entry (owner TEXT, position INTEGER AS (length(owner)), frontier BLOB)",
    "one table more": "CREATE TABLE another (x)",
    "nothing": "",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("ours", [False, True])
def test_tables_that_are_none_of_a_ledgers_are_never_read(copied, foreign, ours):
    if ours and not foreign:
        pytest.skip("that is the ledger as it was")
    with contextlib.closing(sqlite3.connect(copied.ledger)) as database:
        if not ours:
            copied.ledger.unlink()
        elif "entry" in foreign or "plan" in foreign:
            table = "entry" if "entry" in foreign else "plan"
            database.execute(f"ALTER TABLE {table} RENAME TO before")
    with contextlib.closing(sqlite3.connect(copied.ledger)) as database:
        database.executescript(f"PRAGMA journal_mode=DELETE; {foreign}; PRAGMA user_version=1")
    manifest.write(copied, Identity.from_seed(copied.server_key.read_bytes()))
    assert ("other tables than a ledger" if foreign else "not a ledger") in refused(copied)


def test_nothing_is_computed_for_more_clients_than_were_enrolled(copied, finished):
    """A configuration that a server invents, and names a run after, costs an auditor no time."""
    config = config_file.load(str(copied.config))
    table = config.model_dump(mode="json", exclude_unset=True)
    table["client"][0]["count"] = 10**9
    forged = config_file.parse(table, "forged")
    copied.config.write_text(config_file.dump(forged))
    key, first = Identity.from_seed(copied.server_key.read_bytes()), rosters.first(finished)
    opening.write(copied, opening.begin(bytes(32), key.public, "2026", forged, first))
    manifest.write(copied, key)
    assert "clients, the first roster" in refused(copied)


def test_a_linked_folder_is_not_followed(copied, tmp_path):
    (tmp_path / "notes").mkdir()
    os.rename(copied.notes, tmp_path / "elsewhere")
    copied.notes.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadFile, match="no regular file"):
        files.listing(copied.root)
    refused(copied)
