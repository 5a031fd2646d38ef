"""A finished run verifies from its files alone; every change of it is found, and named."""

import json
import random
import shutil
import sqlite3
from fractions import Fraction
from itertools import islice

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from fgrpo_secure.cli import app
from fgrpo_secure.client.store import ClientStore
from fgrpo_secure.evidence import manifest, statement
from fgrpo_secure.evidence.verify import Mismatch, Trust, verify
from fgrpo_secure.ledger import checkpoint_note
from fgrpo_secure.ledger import cosigning as witness
from fgrpo_secure.ledger import entries as ledger_entry
from fgrpo_secure.ledger import note_file as notes
from fgrpo_secure.ledger.store import Ledger, Ledgers
from fgrpo_secure.storage import identity_file, owners_folder, rosters, signed_file
from protocols.identity import Identity

run = CliRunner()


def checks(directory, trust=None):
    return [name for name, _ in verify(directory, trust or Trust())]


def resign(directory, change=None):
    """What a server that cheats after the run can do: sign everything again, after an own change of the statement."""
    identity = Identity.from_seed(directory.server_key.read_bytes())
    if change is not None:
        stated = signed_file.read(directory.statement)
        change(stated)
        signed_file.write(directory.statement, stated, identity)
    manifest.write(directory, identity)


def refused(directory, check, reason, trust=None):
    """`check` is the one that finds it, or those of which one does."""
    with pytest.raises(Mismatch, match=reason) as mismatch:
        checks(directory, trust)
    assert mismatch.value.check in ((check,) if isinstance(check, str) else check)


def rewritten(directory, entries):
    """A ledger with other entries in the place of the run's, and the same plans."""
    store = Ledgers.read(directory.ledger)
    plans = store.plans()
    store.close()
    directory.ledger.unlink()
    store = Ledgers(directory.ledger)
    before, intents = None, {}
    for entry in entries:
        fields = {**entry, "position": 0 if before is None else before.position + 1}
        before = ledger_entry.replay("server", before, intents, ledger_entry.canonical(fields))
        store.append(before)
    charged = {entry["session"] for entry in entries if entry["kind"] == "intent"}
    for session in sorted(charged & plans.keys()):
        store.keep_plan(bytes.fromhex(session), plans[session])
    store.close()


def entries_of(directory):
    return [dict(entry) for entry in Ledgers.read(directory.ledger).existing("server").entries()]


def restate(directory):
    """Make the statement agree with a rewritten ledger, as far as a statement of it can be computed."""

    def change(stated):
        ledger = Ledgers.read(directory.ledger).existing("server")
        stated["ledger"] |= {"size": ledger.size(), "root": ledger.root().hex()}

    resign(directory, change)


def test_a_finished_run_verifies_from_its_files_alone(finished):
    names = ["secrets", "files", "rosters", "identity", "ledger", "plans", "witnesses", "checkpoints kept elsewhere"]
    assert checks(finished) == [*names, "adapter", "statement", "documents"]


def test_it_verifies_elsewhere_without_the_servers_folder_and_leaves_nothing_behind(copied):
    shutil.rmtree(copied.private)
    before = sorted(path.name for path in copied.root.rglob("*"))
    checks(copied)
    assert sorted(path.name for path in copied.root.rglob("*")) == before


def test_the_keys_that_an_auditor_knows_are_the_ones_that_count(finished):
    server = Identity.from_seed(finished.server_key.read_bytes()).public
    authority = rosters.pins(finished).authority
    assert len(checks(finished, Trust(authority, server))) == 11
    refused(finished, "files", "is signed by", Trust(authority, bytes(32)))
    refused(finished, "rosters", "signature", Trust(bytes(range(32)), server))


def test_every_client_that_finished_signed_every_checkpoint(finished):
    found = sorted(finished.notes.glob("*.note"))
    assert len(found) == 3
    for path in found:
        assert sorted(notes.signers(path.read_text())) == sorted(
            ["server", *(witness.client_name(i) for i in range(6))]
        )


def test_a_thousand_flipped_bytes_are_all_noticed(copied):
    files = [path for path in copied.root.rglob("*") if path.is_file()]
    chance = random.Random(5)
    for _ in range(1000):
        path = chance.choices(files, [path.stat().st_size for path in files])[0]
        path = chance.choice([path, chance.choice(files)])
        data = bytearray(path.read_bytes())
        place = chance.randrange(len(data))
        data[place] ^= 1 << chance.randrange(8)
        original, _ = path.read_bytes(), path.write_bytes(data)
        with pytest.raises(Mismatch):
            list(islice(verify(copied, Trust()), 2))
        path.write_bytes(original)
    checks(copied)


def test_a_secret_key_in_what_was_handed_over_is_named(copied, tmp_path):
    shutil.copy(copied.server_key, copied.root / "notes" / "x.note")
    refused(copied, "secrets", r"notes/x.note holds a secret key: whoever was handed this directory can sign")
    identity_file.write(copied.root / "mine.identity", "me", bytes(32))
    (copied.root / "notes" / "x.note").unlink()
    refused(copied, "secrets", "mine.identity holds a secret key")


@pytest.mark.parametrize("name", ["config.toml", "adapter/adapter_model.safetensors", "summary.json", "ledger.sqlite"])
def test_a_missing_or_added_file_is_named(copied, name):
    (copied.root / name).unlink()
    refused(copied, "files", f"{name} is missing")
    shutil.copy(copied.roster, copied.root / name)
    refused(copied, "files", f"{name} is not the file that the run left")
    (copied.root / "extra.txt").write_text("x")
    refused(copied, "secrets", "holds a file that no run leaves: 'extra.txt'")


def test_a_swapped_adapter_is_found(copied):
    path = copied.adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x01")
    refused(copied, "files", "adapter/adapter_model.safetensors is not the file that the run left")


def test_an_edited_statement_is_found(copied):
    text = copied.statement.read_text()
    copied.statement.write_text(text.replace('"unit": "client"', '"unit": "subject"'))
    refused(copied, "files", "privacy_statement.json is not the file")
    identity = Identity.from_seed(bytes(32))
    manifest.write(copied, identity)
    refused(copied, "identity", "opening.json names another server")


def test_a_statement_with_another_space_is_found_even_if_the_manifest_is_signed_again(copied):
    copied.statement.write_text(copied.statement.read_text().replace('": ', '":  ', 1))
    resign(copied)
    refused(copied, "statement", "not in its one byte form")


@pytest.mark.parametrize("part", ["key", "value"])
def test_a_signature_in_capital_letters_is_another_file(copied, part):
    content = json.loads(copied.manifest.read_text())
    content["signature"][part] = content["signature"][part].upper()
    copied.manifest.write_text(json.dumps(content, sort_keys=True, indent=2) + "\n")
    refused(copied, "files", "manifest.json is not in its one byte form")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s["claims"]["server"].update(epsilon_spent=0.01), "says claims.server.epsilon_spent = 0.01"),
        (lambda s: s["claims"]["server"].update(mu=5.0), "says claims.server.mu"),
        (lambda s: s["rounds"].pop(), "has 1 of rounds; what was signed gives 2"),
        (
            lambda s: s["mechanism"].update(unit_blocks=2),
            "says mechanism.unit_blocks = 2; what was signed and configured gives 1",
        ),
        (lambda s: s["run"].update(adapter_digest="00" * 32), "says run.adapter_digest"),
        (lambda s: s.update(not_protected=s["not_protected"][1:]), "of not_protected; what was signed gives"),
        (lambda s: s.update(unit="none"), "says unit = .none"),
        (lambda s: s.update(extra=1), "extra"),
        (lambda s: s["assumptions"].update(quorum=7), "says assumptions.quorum = 7; .* gives 4"),
        (lambda s: s["asserted"].update(operator=["somebody else"]), "says asserted.operator.0"),
    ],
)
def test_a_statement_that_its_server_signs_again_must_still_follow(copied, change, reason):
    resign(copied, change)
    refused(copied, "statement", reason)


def test_a_registry_record_that_says_something_else_is_found(copied):
    copied.registry.write_text(copied.registry.read_text().replace("status: Draft", "status: Approved"))
    resign(copied)
    refused(copied, "documents", "is not the statement's record")


# ------------------------------------------------------------------------------------------------ a server that cheats


def test_any_byte_of_any_entry_is_covered_by_the_clients_signatures(copied):
    entries = entries_of(copied)
    for place, entry in enumerate(entries):
        if "facts" not in entry:
            continue
        rewritten(copied, [*entries[:place], {**entry, "facts": {"x": 1}}, *entries[place + 1 :]])
        restate(copied)
        refused(
            copied,
            ("ledger", "plans", "witnesses", "adapter"),
            "another history|last entry|price|does not|count|plan|breaks",
        )


def test_entries_dropped_reordered_or_inserted_are_found_by_the_clients_signatures(copied):
    budget, *rest = entries_of(copied)
    first, second = rest[:2], rest[2:]
    rewritten(copied, [budget, *second, *first])
    restate(copied)
    refused(
        copied,
        ("ledger", "plans", "witnesses", "adapter"),
        "another history|last entry|price|does not|count|plan|breaks",
    )
    rewritten(copied, [budget, *second])
    restate(copied)
    refused(copied, ("ledger", "plans", "witnesses"), "another history|was cut")
    rewritten(copied, [budget, budget, *first, *second])
    restate(copied)
    refused(
        copied,
        ("ledger", "plans", "witnesses", "adapter"),
        "another history|last entry|price|does not|count|plan|breaks",
    )


def test_a_ledger_rolled_back_is_found(copied):
    rewritten(copied, entries_of(copied)[:3])
    restate(copied)
    refused(copied, "witnesses", "this ledger has only 3: it was cut")


def test_a_ledger_that_grew_without_witnesses_is_found(copied):
    for note in copied.notes.glob("*.note"):
        last = note
    last.unlink()
    resign(copied)
    refused(copied, "witnesses", "no clients signed for entry 5, the last that they had to sign for")


def test_a_rewritten_row_is_found_even_if_everything_is_signed_again(copied):
    rows = sqlite3.connect(copied.ledger)
    rows.execute("DROP TRIGGER never_change")
    rows.execute("UPDATE entry SET spent = '0/1' WHERE position = 2")
    rows.commit()
    rows.close()
    resign(copied)
    refused(copied, "ledger", "other tables|breaks at entry 2")


def test_a_forked_ledger_shown_to_one_client_is_found_by_what_that_client_kept(finished, tmp_path):
    server = Identity.from_seed(finished.server_key.read_bytes())
    origin = signed_file.read(finished.statement)["origins"]["ledger"]
    fork = Ledger.open(tmp_path / "fork.sqlite", "server", Fraction(10))
    fork.intent(bytes(32), 0, Fraction(1, 5))
    fork.settle(bytes(32), 6, Fraction(1, 9))
    kept = tmp_path / "client-3.note"
    kept.write_text(fork.checkpoint(origin, witness.signer(server, witness.SERVER)))
    refused(finished, "checkpoints kept elsewhere", "there are two ledgers", Trust(witnessed=(kept,)))


def test_what_the_clients_kept_is_of_this_ledger(finished, tmp_path):
    store = ClientStore(owners_folder.store(finished.owners, 0))
    kept = tmp_path / "client-0.note"
    (text,) = store.notes(Identity.from_seed(store.identity_seed(0)).public)
    kept.write_text(text)
    store.close()
    assert "client-0" in notes.signers(text)
    assert len(checks(finished, Trust(witnessed=(kept,)))) == 11


def test_a_note_signed_by_the_wrong_key_or_a_stranger_or_twice_is_found(copied):
    note = max(copied.notes.glob("*.note"))
    text = note.read_text()
    lines = text.splitlines(keepends=True)
    stranger = witness.signer(Identity.from_seed(bytes(32)), "client-2")
    nobody = witness.signer(Identity.from_seed(bytes(32)), "client-9")
    checkpoint = notes.check_one(
        text,
        note.name,
        Ledgers.read(copied.ledger).existing("server"),
        signed_file.read(copied.statement)["origins"]["ledger"],
        Identity.from_seed(copied.server_key.read_bytes()).public,
    )
    forged = checkpoint_note.signature_line(checkpoint, stranger)
    cases = [
        (
            [line if " client-2 " not in line else forged for line in lines],
            "client-2's line is no testimony",
        ),
        ([*lines, checkpoint_note.signature_line(checkpoint, nobody)], "roster"),
        ([*lines, lines[-1]], "the same twice"),
        ([*lines, "nonsense\n"], "no signature"),
        (lines[:7], "the signatures of 2 clients"),
        ([line if " server " not in line else line.replace("server", "serve") for line in lines], "of 'server'"),
    ]
    for changed, reason in cases:
        note.write_text("".join(changed))
        resign(copied)
        refused(copied, "witnesses", reason)


# ------------------------------------------------------------------------------------------------ forms and the command


def test_the_statement_has_its_published_form_and_the_schema_refuses_others(finished):
    signed = json.loads(finished.statement.read_text())
    jsonschema.Draft202012Validator.check_schema(statement.schema())
    jsonschema.validate(signed, statement.schema())
    for change in ({"unit": "person"}, {"extra": 1}, {"rounds": [{}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**signed, **change}, statement.schema())


def test_the_statement_says_what_was_seen_and_what_is_not_protected(finished):
    stated = signed_file.read(finished.statement)
    assert {row["cover"] for row in stated["server_saw"]} >= {"masked", "charged", "participation"}
    assert stated["claims"]["server"]["epsilon_spent"] <= stated["claims"]["server"]["epsilon"]
    assert [each["outcome"] for each in stated["rounds"]] == ["settled", "settled"]
    assert len(stated["not_protected"]) >= 6


def test_the_registry_record_is_valid_against_the_registrys_rules(finished, registry_schema):
    record = yaml.safe_load(finished.registry.read_text())
    jsonschema.validate(record, registry_schema)
    for change in ({"status": "Done"}, {"tier": 4}, {"more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**record, **change}, registry_schema)


def test_the_command_says_each_check_and_exits_with_one_at_the_first_mismatch(finished, copied):
    done = run.invoke(app, ["verify", str(finished.root)])
    assert (done.exit_code, done.stdout.count("ok    ")) == (0, 11)
    copied.summary.write_text("{}")
    failed = run.invoke(app, ["verify", str(copied.root)])
    assert failed.exit_code == 1
    assert "does not verify: files: summary.json is not the file that the run left" in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "nowhere is not a directory"),
        (["{run}", "--server", "xyz"], "--server is not a public key; allowed are 64 hexadecimal digits"),
        (["{run}", "--witnessed", "nothing.note"], "nothing.note is not a file"),
    ],
)
def test_unusable_arguments_exit_with_two(finished, arguments, sentence):
    failed = run.invoke(app, ["verify", *(each.format(run=finished.root) for each in arguments)])
    assert failed.exit_code == 2
    assert sentence in failed.stderr


def test_a_run_cut_short_or_empty_says_what_is_missing(copied, tmp_path):
    copied.manifest.unlink()
    refused(copied, "files", "manifest.json is missing")
    (tmp_path / "empty").mkdir()
    failed = run.invoke(app, ["verify", str(tmp_path / "empty")])
    assert failed.exit_code == 2
    assert "holds no run: none of" in failed.stderr
