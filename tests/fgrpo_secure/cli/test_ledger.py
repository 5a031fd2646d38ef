"""`fgrpo ledger` on ledgers at rest, on one that is being written, and on what is none."""

import base64
import json
import sqlite3
from fractions import Fraction

import pytest
from typer.testing import CliRunner

from fgrpo_secure.cli import app
from fgrpo_secure.ledger.store import Ledger, Ledgers
from fgrpo_secure.storage import owners_folder
from fgrpo_secure.storage.owners_folder import Enrolled
from protocols import merkle

run = CliRunner()


@pytest.fixture
def store(tmp_path):
    made = Ledgers(tmp_path / "ledger.sqlite")
    server = made.open("server", Fraction(2))
    for i in range(5):
        server.intent(bytes([i]) * 32, i, Fraction(1, 4))
        server.settle(bytes([i]) * 32, 7, Fraction(1, 5))
    yield made
    made.close()


@pytest.fixture
def directory(store, tmp_path):
    store.close()
    return tmp_path


def ask(*arguments):
    return run.invoke(app, ["ledger", *map(str, arguments)])


def test_show_lists_every_entry_and_what_was_spent(directory):
    shown = ask("show", directory)
    assert shown.exit_code == 0
    assert "server: spent 1 of 2, 0 sessions open" in shown.stdout
    assert shown.stdout.count("settled") == 5


def test_a_ledger_that_is_being_written_can_be_read(store, tmp_path):
    ledger = store.existing("server")
    with store.transaction():
        ledger.intent(bytes([9]) * 32, 9, Fraction(1, 4))
        during = ask("show", tmp_path)
    after = ask("show", tmp_path)
    assert "0 sessions open" in during.stdout
    assert "1 sessions open" in after.stdout


def test_a_proof_leads_to_the_root(directory):
    proof = json.loads(ask("prove", directory, 3).stdout)
    leaf = merkle.leaf_hash(proof["entry"].encode())
    path = [bytes.fromhex(node) for node in proof["path"]]
    assert merkle.root_from_path(leaf, 3, proof["size"], path).hex() == proof["root"]


def test_verify_names_the_entry_that_does_not_follow(directory):
    assert ask("verify", directory).exit_code == 0
    rows = sqlite3.connect(directory / "ledger.sqlite")
    (trigger,) = rows.execute("SELECT sql FROM sqlite_master WHERE name = 'never_change'").fetchone()
    rows.execute("DROP TRIGGER never_change")
    rows.execute("UPDATE entry SET spent = '0/1' WHERE position = 4")
    rows.execute(trigger)  # as whoever tampers with a row would put it back
    rows.commit()
    rows.close()
    broken = ask("verify", directory)
    assert broken.exit_code == 1
    assert "breaks at entry 4" in broken.stderr


def test_export_holds_the_entries_and_their_root(directory, tmp_path):
    out = tmp_path / "out.jsonl"
    assert ask("export", directory, out).exit_code == 0
    *lines, end = out.read_text().splitlines()
    assert base64.b64decode(json.loads(end)["root"]) == merkle.root([merkle.leaf_hash(x.encode()) for x in lines])
    again = ask("export", directory, out)
    assert (again.exit_code, "exists already" in again.stderr) == (2, True)


def test_one_of_several_owners_must_be_chosen(store, tmp_path):
    store.open("clinic", Fraction(1))
    assert "holds 2 ledgers; choose one with --owner" in ask("show", tmp_path).stderr
    assert "clinic: spent 0 of 1" in ask("show", tmp_path, "--owner", "clinic").stdout
    assert "no ledger of 'nobody'" in ask("show", tmp_path, "--owner", "nobody").stderr


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to be taken for one" * 40])
def test_a_file_that_is_no_ledger_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "ledger.sqlite").write_bytes(content)
    refused = ask("show", tmp_path)
    assert refused.exit_code == 1
    assert "is missing or not a ledger" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_what_does_not_exist_exits_with_two(directory, tmp_path):
    assert ask("show", tmp_path / "nowhere").exit_code == 2
    missing = ask("prove", directory, 11)
    assert (missing.exit_code, "has entries 0 to 10" in missing.stderr) == (2, True)


@pytest.fixture
def folder(tmp_path):
    """Three owners in two processes, as an earlier run left them."""
    made = tmp_path / "owners"
    made.mkdir()
    Enrolled("ab" * 32, (), ("ann", "bob", "cas"), 2, "client").write(made)
    for client in range(3):
        place = owners_folder.store(made, client % 2).with_name(owners_folder.LEDGERS)
        ledger = Ledger.open(place, client, Fraction(2))
        ledger.intent(bytes([client]) * 32, client, Fraction(1 + client, 4))
        ledger.close()
    return made


def test_an_owner_looks_at_its_ledger_by_its_name(folder):
    assert "2: spent 0.75 of 2, 1 sessions open" in ask("show", folder, "--owner", "cas").stdout
    assert "1: 2 entries verify" in ask("verify", folder, "--owner", "bob").stdout
    proof = json.loads(ask("prove", folder, 1, "--owner", "ann").stdout)
    assert json.loads(proof["entry"])["charge"] == "1/4"


@pytest.mark.parametrize(
    ("owner", "said"), [((), "choose one with --owner"), (("--owner", "eve"), "none of them is 'eve'")]
)
def test_an_owner_that_the_folder_does_not_hold_is_named_beside_those_it_holds(folder, owner, said):
    refused = ask("show", folder, *owner)
    assert refused.exit_code == 2
    assert f"owners holds the ledgers of 3 owners, {said}; they are ann, bob, cas" in refused.stderr


def test_a_damaged_folder_of_owners_is_named(folder):
    (folder / owners_folder.PINS).write_text("[]")
    assert "pins.json is missing or damaged" in ask("verify", folder, "--owner", "ann").stderr
