"""A run of several shards a round verifies, and only with a quorum's signatures in each shard."""

import shutil

import pytest

from fgrpo_secure import config_file, enrolment, schedule, training
from fgrpo_secure.evidence import manifest, notes, signed_file, witness
from fgrpo_secure.evidence.signed_file import BadFile
from fgrpo_secure.evidence.verify import Mismatch, Trust, verify
from fgrpo_secure.run_directory import RunDirectory
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
    return schedule.partition(
        config_file.load(str(directory.config)), enrolment.roster(directory).digest, training_round
    )


def without(note, clients):
    """The note without the signature lines of these clients."""
    names = {witness.client_name(client) for client in clients}
    kept = [
        line for line in note.splitlines(keepends=True) if len(line.split(" ")) < 2 or line.split(" ")[1] not in names
    ]
    return "".join(kept)


def test_a_run_of_three_shards_verifies_with_the_signatures_of_all_its_clients(sharded):
    assert len(list(verify(sharded, Trust()))) == 8
    found = sorted(sharded.notes.glob("*.note"))
    assert len(found) == 2
    for training_round, path in enumerate(found):
        signed = set(notes.signers(path.read_text()))
        assert signed == {"server", *(witness.client_name(client) for client in range(24))}
        assert [len(part) for part in parts_of(sharded, training_round)] == [8, 8, 8]


@pytest.mark.parametrize(("lacking", "fails"), [(2, False), (3, True)])
def test_a_shard_without_its_quorums_signatures_is_found_however_many_others_signed(sharded, tmp_path, lacking, fails):
    shutil.copytree(sharded.root, tmp_path / "run")
    copied = RunDirectory(tmp_path / "run")
    assert signed_file.read(copied.statement)["assumptions"]["quorum"] == 6
    first = min(copied.notes.glob("*.note"))
    first.write_text(without(first.read_text(), parts_of(sharded, 0)[1][:lacking]))
    manifest.write(copied, Identity.from_seed(copied.server_key.read_bytes()))
    if not fails:
        assert len(list(verify(copied, Trust()))) == 8
        return
    with pytest.raises(Mismatch, match="not the signatures of a quorum of 6 in each shard") as mismatch:
        list(verify(copied, Trust()))
    assert mismatch.value.check == "witnesses"


PARTS = ((0, 1, 2), (3, 4, 5), (6, 7, 8))
OPENED = {"kind": "intent", "session": "aa", "facts": {"shards": "bb cc"}}
SETTLED = {"kind": "settled", "session": "aa", "facts": {"training_round": 4, "survivors": "aa:3 cc:2"}}


def signed_by(clients, opened=OPENED, settled=SETTLED):
    names = {witness.client_name(client) for client in clients}
    notes._check_shards(
        "a note", [opened, settled], names, 2, lambda training_round: [PARTS] * (training_round in (0, 4))
    )


def test_a_shard_that_failed_owes_no_signatures_and_one_that_ended_does():
    signed_by({0, 1, 7, 8})
    for clients in ({0, 1, 2, 3, 4, 5}, {0, 7, 8, 3, 4}, {0, 1, 2, 8}):
        with pytest.raises(BadFile, match="each shard"):
            signed_by(clients)


def test_a_ledger_that_hides_the_shards_of_a_round_is_refused():
    """One session's entry would do with the signatures of one shard."""
    alone = {"kind": "intent", "session": "aa", "facts": {}}
    with pytest.raises(BadFile, match="each shard"):
        signed_by(range(9), alone, {**SETTLED, "facts": {}})


def test_a_round_that_no_roster_of_the_run_splits_like_this_is_refused():
    with pytest.raises(BadFile, match="each shard"):
        signed_by(range(9), settled={**SETTLED, "facts": {**SETTLED["facts"], "training_round": 5}})
