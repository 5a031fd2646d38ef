"""Whoever has the server's private key and every file of a run, changes one leaf and signs again, is refused, or
changed what is shown as the server's word.

A sample of leaves runs here, drawn anew each time; `FGRPO_FORGER=all` tries every leaf (minutes). The seed is printed.
"""

import os
import random
import shutil
import sys
from collections import Counter, defaultdict

import pytest

from fgrpo_secure.client.store import ClientStore
from fgrpo_secure.evidence import basis, manifest, summary
from fgrpo_secure.evidence.verify import UNCHECKED, Trust
from fgrpo_secure.ledger import checkpoint_note, testimony
from fgrpo_secure.ledger import cosigning as witness
from fgrpo_secure.storage import owners_folder, rosters
from fgrpo_secure.storage.run_directory import RunDirectory
from protocols.identity import Identity
from tests.fgrpo_secure.evidence import forger
from tests.fgrpo_secure.evidence.forger import Fate

SAMPLE = 40
PARTS = ("asserted", *summary.ASSERTED, *summary.MEASURED)  # of statement, summary and metrics


@pytest.fixture(scope="module")
def key(finished):
    return Identity.from_seed(finished.server_key.read_bytes())


@pytest.fixture(scope="module")
def trust(finished, key):
    return Trust(authority=rosters.pins(finished).authority, server=key.public)


def test_the_forger_finds_leaves_in_every_file_of_a_run(finished):
    found = {leaf.document.partition("#")[0] for leaf in forger.leaves(finished)}
    assert found == {path.relative_to(finished.root).as_posix() for path in finished.root.rglob("*") if path.is_file()}
    counted = Counter(leaf.document for leaf in forger.leaves(finished))
    assert counted["privacy_statement.json"] > 100
    assert counted["config.toml"] > 60
    assert counted["ledger.sqlite#entries"] > 30


@pytest.mark.slow
def test_no_leaf_can_be_changed_and_signed_again_without_being_refused_or_shown_as_asserted(
    finished, tmp_path, key, trust, capsys
):
    seed = random.SystemRandom().randrange(2**32)
    leaves = list(forger.leaves(finished))
    if os.environ.get("FGRPO_FORGER") != "all":
        by_document = defaultdict(list)
        for leaf in leaves:
            by_document[leaf.document].append(leaf)
        chance = random.Random(seed)
        leaves = [chance.choice(each) for each in by_document.values()] + chance.sample(leaves, SAMPLE)
    honest, fates = forger.asserted(finished, trust), defaultdict(list)
    for leaf in leaves:
        fates[forger.fate(finished, tmp_path / "copy", leaf, key, trust, honest)].append(leaf)
    with capsys.disabled():
        counts = ", ".join(f"{fate.value} {len(fates[fate])}" for fate in Fate)
        sys.stdout.write(f"\nforger, seed {seed}: leaves tried {len(leaves)}, {counts}\n")
    assert fates[Fate.ACCEPTED] == []
    assert {leaf.document for leaf in fates[Fate.UNCHECKED]} <= set(UNCHECKED)
    assert all(set(leaf.place) & set(PARTS) for leaf in fates[Fate.ASSERTED])


# --------------------------------------------------------------------------------------------- with clients' keys, too


def colluding(finished, count):
    """The identities of this many clients."""
    store = ClientStore(owners_folder.store(finished.owners, 0))
    found = {client: Identity.from_seed(store.identity_seed(client)) for client in range(count)}
    store.close()
    return found


def rewritten_with(finished, tmp_path, key, count):
    """A run whose second round shows another mean weight, signed by the server and by `count` clients."""
    shutil.copytree(finished.root, tmp_path / "run")
    forged = RunDirectory(tmp_path / "run")
    entries = forger._read_entries(forged.ledger)
    (settled,) = [entry for entry in entries[-2:] if entry["kind"] == "settled"]
    settled["facts"]["mean_weight"] = (0.5).hex()
    forger._write_entries(forged.ledger, entries)
    known = basis.read(finished, rosters.pins(finished).authority)
    priced = known.planner.priced(known.history)
    identities = colluding(finished, count)
    with basis.opened_ledger(forged) as ledger:
        for path in sorted(forged.notes.glob("*.note")):
            size = int(path.stem)
            if size <= settled["position"]:
                continue
            seen = checkpoint_note.Checkpoint(basis.origin_of(known.opening), size, ledger.root_at(size))
            note = checkpoint_note.sign(seen, witness.signer(key, witness.SERVER))
            for client, identity in identities.items():
                charged = [each.charged(client, frozenset()) for each in priced if each.ended < size]
                sums = testimony.Account().after(charged)
                note += testimony.sign(
                    identity, witness.client_name(client), seen, client, sums, (), known.planner.rosters[-1]
                )
            path.write_text(note)
    return forged


def test_with_the_keys_of_one_client_less_than_the_quorum_the_forger_is_refused(finished, tmp_path, key, trust):
    known = basis.read(finished, rosters.pins(finished).authority)
    quorum = known.history.rounds[0].sessions[0].plan.quorum
    forged = rewritten_with(finished, tmp_path, key, quorum - 1)
    manifest.write(forged, key)
    with pytest.raises(forger.verify.Mismatch, match=f"signatures of {quorum - 1} clients .* the quorum is {quorum}"):
        forger.asserted(forged, trust)


def test_with_the_keys_of_a_quorum_the_ledger_is_the_forgers(finished, tmp_path, key, trust):
    """The positive control, and the limit that docs/how-to/audit-a-run.md states."""
    known = basis.read(finished, rosters.pins(finished).authority)
    forged = rewritten_with(finished, tmp_path, key, known.history.rounds[0].sessions[0].plan.quorum)
    remade = basis.read(forged, rosters.pins(finished).authority)
    lines = [dict(line) for line in summary.metrics(remade)]
    assert lines[-1]["mean_weight"] == 0.5
    forger.restate(forged, rosters.pins(finished).authority, key)
    assert forger.asserted(forged, trust)


# ------------------------------------------------------------------------------------------------------- whole files


@pytest.fixture(scope="module")
def another(tmp_path_factory, silent):
    """A second run of the same configuration, by another server over other clients."""
    from fgrpo_secure.config import files as config_file
    from fgrpo_secure.run import training
    from tests.fgrpo_secure.evidence.conftest import TABLE

    directory = RunDirectory(tmp_path_factory.mktemp("another") / "run")
    training.start(config_file.parse(TABLE, "here"), directory, silent)
    return directory


@pytest.mark.slow
def test_files_swapped_with_those_of_another_run_are_refused_or_show_other_clocks(
    finished, another, tmp_path, key, trust
):
    honest, refused = forger.asserted(finished, trust), set()
    names = [
        name for name in forger.documents(finished) if "#" not in name and name not in (*UNCHECKED, "manifest.json")
    ]
    for name in names:
        if (
            not (another.root / name).is_file()
            or (another.root / name).read_bytes() == (finished.root / name).read_bytes()
        ):
            continue
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(finished.root, tmp_path / "copy")
        shutil.copy(another.root / name, tmp_path / "copy" / name)
        forged = RunDirectory(tmp_path / "copy")
        manifest.write(forged, key)
        try:
            shown = forger.asserted(forged, trust)
        except forger.verify.Mismatch:
            refused.add(name)
            continue
        # Two runs of one configuration can come to one summary but for clocks and lines, which nobody else measured.
        assert name == "summary.json", f"{name} of another run was accepted"
        odd = {key for key in honest if shown[key] != honest[key]}
        assert odd, "the auditor was shown nothing of what was swapped"
        assert shown.keys() == honest.keys()
        assert odd <= {f"summary.{key}" for key in summary.ASSERTED if key not in summary.RESULTS}
    assert {"ledger.sqlite", "opening.json", "roster.bin", "privacy_statement.json", "metrics.jsonl"} <= refused


def test_a_run_rolled_back_together_with_its_signatures_is_refused(finished, tmp_path, key, trust):
    shutil.copytree(finished.root, tmp_path / "run")
    forged = RunDirectory(tmp_path / "run")
    entries = forger._read_entries(forged.ledger)
    plans = forger._read_tables(forged.ledger)["plan"]
    first = entries[1]["session"]
    tables = {
        "entry": forger._read_tables(forged.ledger)["entry"][:3],
        "plan": [row for row in plans if row[0] == first],
    }
    forger._write_tables(forged.ledger, tables)
    for path in sorted(forged.notes.glob("*.note"))[1:]:
        path.unlink()
    manifest.write(forged, key)
    with pytest.raises(forger.verify.Mismatch, match="the ledger has no last entry"):
        forger.asserted(forged, trust)
