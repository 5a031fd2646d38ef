"""A run of several shards a round verifies, and only with a quorum's signatures in each shard."""

import json
import shutil

import pytest

from fgrpo_secure.config import files as config_file
from fgrpo_secure.evidence import basis, history, manifest
from fgrpo_secure.evidence.verify import Mismatch, Trust, verify
from fgrpo_secure.ledger import cosigning as witness
from fgrpo_secure.ledger import note_file as notes
from fgrpo_secure.plan import schedule
from fgrpo_secure.run import training
from fgrpo_secure.storage import rosters, signed_file
from fgrpo_secure.storage.run_directory import RunDirectory
from fgrpo_secure.storage.signed_file import BadFile
from protocols.identity import Identity

pytestmark = pytest.mark.slow  # two rounds of 24 clients

TABLE = {
    "run": {"name": "sharded"},
    "adapter": {"rank": 1},
    "federation": {"rounds": 2},
    "grpo": {"num_generations": 2, "prompts_per_step": 1},
    "privacy": {"noise_multiplier": 40.0},
    "aggregation": {"adversary": "lying_server", "shard_size": 8, "max_dropout": 0.25},
    "evaluation": {"prompts": 2, "samples": 1, "every": 0},
    "client": [{"name": "adders", "task": "add", "count": 24}],
}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory, silent):
    """The directory of a finished run of 24 clients in 3 shards. Nobody may change it."""
    directory = RunDirectory(tmp_path_factory.mktemp("sharded") / "run")
    training.start(config_file.parse(TABLE, "here"), directory, silent)
    return directory


def parts_of(directory, training_round):
    return schedule.partition(config_file.load(str(directory.config)), rosters.roster(directory).digest, training_round)


def without(note, clients):
    """The note without the signature lines of these clients."""
    names = {witness.client_name(client) for client in clients}
    kept = [
        line for line in note.splitlines(keepends=True) if len(line.split(" ")) < 2 or line.split(" ")[1] not in names
    ]
    return "".join(kept)


def test_a_run_of_three_shards_verifies_with_the_signatures_of_all_its_clients(sharded):
    assert len(list(verify(sharded, Trust()))) == 11
    found = sorted(sharded.notes.glob("*.note"))
    assert len(found) == 3  # one for each round, one for the ledger's last entry
    for path in found:
        signed = set(notes.signers(path.read_text()))
        assert signed == {"server", *(witness.client_name(client) for client in range(24))}
    for training_round in range(2):
        assert [len(part) for part in parts_of(sharded, training_round)] == [8, 8, 8]


@pytest.mark.parametrize(("lacking", "fails"), [(2, False), (3, True)])
def test_a_shard_without_its_quorums_signatures_is_found_however_many_others_signed(sharded, tmp_path, lacking, fails):
    for folder in (sharded.root, sharded.private):
        shutil.copytree(folder, tmp_path / folder.name)
    copied = RunDirectory(tmp_path / "run")
    assert signed_file.read(copied.statement)["assumptions"]["quorum"] == 6
    first = min(copied.notes.glob("*.note"))
    first.write_text(without(first.read_text(), parts_of(sharded, 0)[1][:lacking]))
    manifest.write(copied, Identity.from_seed(copied.server_key.read_bytes()))
    if not fails:  # enough for the quorum, but not what the statement counts
        with pytest.raises(Mismatch, match=r"ledger.signed_by_at_least = 24; what was signed and configured gives 22"):
            list(verify(copied, Trust()))
        return
    with pytest.raises(
        Mismatch, match=r"has the signatures of 5 clients of session .*; the quorum is 6; missing"
    ) as found:
        list(verify(copied, Trust()))
    assert found.value.check == "witnesses"
    named = {witness.client_name(client) for client in parts_of(sharded, 0)[1][:lacking]}
    assert all(name in str(found.value) for name in named)


def test_a_session_that_failed_owes_no_signatures_and_one_that_ended_does():
    required = {"aa": ((0, 1, 2), 2), "cc": ((6, 7, 8), 2)}
    notes._check_quorums("a note", {0, 1, 7, 8}, required)
    for clients in ((0, 1, 2, 3, 4, 5), (0, 7, 8, 3, 4), (0, 1, 2, 8)):
        with pytest.raises(BadFile, match="the quorum is 2; missing: client-"):
            notes._check_quorums("a note", set(clients), required)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda entry: entry["facts"].pop("shards", None), "configuration and rosters give|never charged"),
        (lambda entry: entry["facts"].update(training_round=1), "another round of training"),
        (lambda entry: entry["facts"].update(survivors=" ".join(entry["facts"]["survivors"].split()[:1])), "survivors"),
    ],
)
def test_a_ledger_that_hides_shards_or_survivors_of_a_round_or_moves_it_is_refused(sharded, change, reason):
    """One session's entry would do with the signatures of one shard."""
    known = basis.read(sharded, rosters.pins(sharded).authority)
    entries = [json.loads(json.dumps(entry)) for entry in known.history.entries]
    for entry in entries[1:3]:
        if "survivors" in entry["facts"] or "shards" in entry["facts"]:
            try:
                change(entry)
            except KeyError:
                continue
    server = bytes.fromhex(known.opening.server)

    def check():
        with basis.opened_ledger(sharded) as ledger:
            known.planner.check(history.read(entries, ledger.plans(), known.history.root, server))

    with pytest.raises(BadFile, match=reason):
        check()
