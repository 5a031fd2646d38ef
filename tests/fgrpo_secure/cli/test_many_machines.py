"""`fgrpo authority`, `server` and `client` up to the start: files that organisations hand to each other; refusals."""

import math
import re
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import pytest

from fgrpo_secure.client import own_view
from fgrpo_secure.client import policy as client_policy
from fgrpo_secure.config import own_file
from fgrpo_secure.ledger.store import Ledger, Ledgers
from fgrpo_secure.privacy.accounting import epsilon_of
from fgrpo_secure.storage.client_folder import ClientFolder, ClientFolderError
from protocols.identity import Identity
from tests.fgrpo_secure.cli.organisations import RUN, URL, call, said, state, unchanged
from tests.fgrpo_secure.engines.federations import certificate as server_certificate


def test_an_owner_sees_what_it_joins_in_words_and_what_its_policy_says(original, place):
    _, key, server, _ = original
    shown = said("client", "join", place / "east", place / "five.invitation.json", "--yes")
    for words in (
        "'five'", "256 numbers", "you are 'east', client 2", "a server that lies, with 1 of the clients on its side",
        "none of fewer than 4 clients", "at delta 1e-05 for each client, in 1 rounds", server, key,
        "allows it: your ledger would stand at epsilon", "of 8.5 after the run",
    ):  # fmt: skip
        assert words in shown, words
    folder = ClientFolder.open(place / "east")
    (run,) = folder.pinned()
    assert folder.client_id(run) == 2
    assert Identity.from_seed(folder.seed()).public == folder.invitation(run).members().public(2)
    assert not folder.identity.exists()


def test_joining_writes_authority_and_model_into_the_policy_and_leaves_the_rest_as_its_owner_wrote_it(original, place):
    policy = place / "east" / "client-policy.toml"
    policy.write_text(policy.read_text().replace("max_sessions = 3000", "max_sessions = 7  # mine"))
    before = policy.read_text().splitlines()
    said("client", "join", place / "east", place / "five.invitation.json", "--yes")
    changed = [line for line in policy.read_text().splitlines() if line not in before]
    assert [line.split(" = ")[0] for line in changed] == ["authority", "models"]
    assert original[1] in changed[0]
    kept = state(place)
    said("client", "join", place / "east", place / "five.invitation.json", "--yes")
    assert policy.read_bytes() == kept[policy]


def test_who_says_no_has_joined_nothing(place):
    before = state(place)
    outcome = call("client", "join", place / "west", place / "five.invitation.json", input="n\n")
    assert outcome.exit_code == 1
    assert "nothing was changed" in outcome.output
    assert state(place) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("min_cohort = 5", "min_cohort = 6"), "rounds.min_cohort: a cohort of 5 is below this client's 6"),
        (("epsilon = 8.5", "epsilon = 7.5"), "your ledger would stand at epsilon 7.9995 at delta 1e-05"),
        (("max_sessions = 3000", "max_sessions = 0"), "privacy.max_sessions must be an integer at least 1"),
        (('unit = "client"', 'unit = "subject"'), "privacy.unit: the plan protects 'client'"),
        (("post_quantum = false", "post_quantum = true"), "trust.post_quantum"),
        (("[rounds]", f'authority = "{"1" * 64}"\n[rounds]'), "trust.authority"),
    ],
)
def test_a_run_that_the_owners_policy_forbids_is_not_joined(place, change, words):
    policy = place / "west" / "client-policy.toml"
    text = policy.read_text()
    assert change[0] in text
    policy.write_text(text.replace(*change, 1))
    if "authority" in change[1]:  # one that the owner wrote itself is not replaced
        policy.write_text("\n".join(line for line in policy.read_text().splitlines() if "# authority" not in line))
    before = state(place)
    outcome = call("client", "join", place / "west", place / "five.invitation.json", "--yes")
    assert outcome.exit_code == (2 if "must be" in words else 1), outcome.output
    assert words in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1
    assert state(place) == before


def test_a_run_that_divides_units_is_not_joined_by_an_owner_whose_ledgers_show_another(original, place):
    """Each run deals units into blocks anew: what a unit paid elsewhere may be in another block's ledger."""
    blocks = '[privacy]\nunit = "prompt_group"\nepsilon = 8.0\nmax_rounds_per_unit = 1\nunits_per_client = 8\n'
    (place / "turns.toml").write_text(RUN.replace("rounds = 1", "rounds = 2") + blocks)
    said("server", "new", place / "turns.toml", "--authority", original[1], "--out", place / "turns")
    said("server", "invite", place / "turns", *URL, "--roster", place / "authority" / "roster.bin")
    west = place / "west"
    (west / "rows.jsonl").write_text('{"prompt": "1+1=", "answer": "2"}\n')
    (west / "client.toml").write_text('name = "west"\n[data]\ndata = "rows.jsonl"\nreward = "exact"\n')
    policy = (west / "client-policy.toml").read_text().replace('unit = "client"', 'unit = "prompt_group"')
    (west / "client-policy.toml").write_text(re.sub(r"(?m)^seconds = .*$", "seconds = 1.0", policy))
    joins = ("client", "join", west, place / "turns.invitation.json")
    shown = call(*joins, input="n\n").output
    assert "allows it: your ledger would stand at epsilon" in shown, shown
    with closing(Ledgers(ClientFolder.open(west).ledgers)) as ledgers:
        for block in range(2):
            ledgers.open(f"3/block-{block}", Fraction(4)).intent(bytes(32), block, Fraction(block + 1, 8))
    refused = unchanged(place, 1, *joins, "--yes")
    assert (
        "privacy.max_rounds_per_unit: rounds of a part of your units are accounted alone, and your ledger has"
        in refused
    )


def test_a_client_certificate_is_named_in_the_owners_file_by_two_paths_from_its_folder(place):
    folder = ClientFolder.open(place / "west")
    assert folder.certificate is None
    text = folder.own_file.read_text()
    (network,) = re.findall(r"^\[network\]\n", text, re.MULTILINE)
    named = {"one": 'certificate = "tls/west.pem"\n', "both": 'certificate = "tls/west.pem"\nkey = "/keys/west.key"\n'}
    folder.own_file.write_text(text.replace(network, network + named["both"]))
    assert folder.certificate == (place / "west" / "tls" / "west.pem", Path("/keys/west.key"))
    assert own_file.load(folder.own_file).network.key == "/keys/west.key"
    folder.own_file.write_text(text.replace(network, network + named["one"]))
    with pytest.raises(ClientFolderError, match=r"network\.certificate and network\.key are named together"):
        _ = folder.certificate


def test_a_server_whose_authority_of_client_certificates_cannot_be_read_says_so(place, tmp_path):
    certificate, key = server_certificate(tmp_path)
    given = ("--listen", "127.0.0.1:0", "--certificate", certificate, "--key", key, "--client-ca", tmp_path / "ca.pem")
    outcome = call("server", "start", place / "five", *given)
    assert outcome.exit_code == 2, outcome.output
    assert outcome.stderr.strip().endswith(
        f"{tmp_path / 'ca.pem'} holds no certificates in PEM form: No such file or directory"
    )


@pytest.mark.parametrize("command", ["show", "join", "try", "status", "stop", "leave", "receipt"])
def test_a_folder_that_others_can_read_is_refused_by_every_command(place, command):
    (place / "east").chmod(0o750)
    more = [place / "five.invitation.json", "--yes"] if command == "join" else []
    assert "can be read by others" in unchanged(place, 2, "client", command, place / "east", *more)
    (place / "east").chmod(0o700)
    assert (
        "is no owner's folder" in unchanged(place, 2, "client", command, place / "five", *more) or command == "receipt"
    )


def test_a_folder_is_never_made_over_another(place):
    assert "exists" in unchanged(place, 2, "client", "new", place / "east", "--task", "add")
    assert "cannot be made" in unchanged(place, 2, "authority", "new", place / "authority")
    assert "exactly one of 'task' and 'data'" in unchanged(place, 2, "client", "new", place / "fresh")


def test_the_enrolment_line_is_printed_again(original, place):
    assert said("client", "show", place / "north") == original[3][0]


def test_a_client_tries_its_own_data_and_says_what_would_fail(place):
    data, reward = place / "rows.jsonl", place / "own.py"
    data.write_text('{"prompt": "1+2=", "answer": "3"}\n' * 3)
    reward.write_text("def marks(completions, **_):\n    return [1.0 for _ in completions]\n")
    own = place / "west" / "client.toml"
    given = own.read_text().replace('task = "add"', f'data = "{data}"\nreward = "{reward}:marks"')
    said("client", "join", place / "west", place / "five.invitation.json", "--yes")
    assert "task without end" in said("client", "try", place / "west")
    own.write_text(given)
    assert "3 rows, every prompt fits" in said("client", "try", place / "west")
    reward.write_text("def marks(completions, **_):\n    return completions[0].nothing\n")
    assert "worked on none of its first 3 rows" in unchanged(place, 2, "client", "try", place / "west")
    data.unlink()
    assert "rows.jsonl" in unchanged(place, 2, "client", "try", place / "west")


def test_a_run_is_left_and_may_be_joined_again(place):
    said("client", "join", place / "west", place / "five.invitation.json", "--yes")
    folder = ClientFolder.open(place / "west")
    (run,) = folder.pinned()
    assert run in said("client", "status", place / "west")
    assert f"left run {run}" in said("client", "leave", place / "west")
    assert folder.pinned() == ()
    assert "has joined no run" in unchanged(place, 2, "client", "leave", place / "west")
    assert "has joined no run" in unchanged(place, 2, "client", "try", place / "west")
    said("client", "join", place / "west", place / "five.invitation.json", "--yes")
    assert folder.pinned() == (run,)


def test_one_process_acts_for_an_owner_at_a_time(place):
    folder = ClientFolder.open(place / "west")
    assert "no client runs" in unchanged(place, 2, "client", "stop", place / "west")
    with folder.claimed():
        assert "another process acts" in unchanged(
            place, 2, "client", "join", place / "west", place / "five.invitation.json", "--yes"
        )
        assert "west: runs" in said("client", "status", place / "west")


def test_a_server_is_drained_and_let_go_on(place):
    assert "does not run: 0 of 1 rounds" in said("server", "status", place / "five")
    said("server", "drain", place / "five")
    assert "drains" in said("server", "status", place / "five")
    said("server", "drain", place / "five", "--undo")
    assert "drains" not in said("server", "status", place / "five")
    assert "holds no run" in unchanged(place, 2, "server", "status", place / "west")


def test_a_server_is_not_made_for_a_trial_nor_a_trial_taken_for_one(place):
    (place / "trial.toml").write_text('[[client]]\nname = "a"\ntask = "add"\ncount = 5\n')
    new = ("server", "new", place / "trial.toml", "--out", place / "t", "--authority")
    assert "a simulation; a server for others needs 'https'" in unchanged(place, 2, *new, "ab" * 32)
    assert "--authority is not a public key" in unchanged(place, 2, *new, "ab" * 31)


def test_an_owner_watches_its_own_rounds_and_what_they_cost(place):
    said("client", "join", place / "east", place / "five.invitation.json", "--yes")
    folder = ClientFolder.open(place / "east")
    own_view.append(folder.log, own_view.RoundView(1, 0.25, 0.0, 1.0, 4, 3, 5.5, 0.5, 1.25, 0.02, None, 0.5, 1.0))
    own_view.append(folder.log, own_view.RoundView(2, 0.5, 0.5, 0.5, 4, 0, 6.0, 0.0, 1.0, None, 0.1, 0.0, 1.0))
    best = own_view.Completion("2+2=", "4", 1.0, False)
    third = own_view.RoundView(3, 0.5, 0.0, 1.0, 4, 2, 6.0, 0.0, 1.0, None, None, 0.5, 1.0, (best,))
    before = said("client", "watch", place / "east", "--once")
    assert "reward 1" not in before
    own_view.append(folder.log, third)
    assert "round 3: 2+2= -> 4: reward 1" in said("client", "watch", place / "east", "--once")
    shown = before
    for words in ("east: 2 rounds; for its owner alone", "3 of 4", "50%", "0.02", "10.0%", "0.5 / 1"):
        assert words in shown, words
    assert "round 2: no prompt had two different rewards: nothing was learnt from this data" in shown
    assert "round 1:" not in shown
    assert "epsilon" not in shown, "nothing was charged yet"
    budget = client_policy.read(folder.policy).budget()
    with closing(Ledger.open(folder.ledgers, 2, budget)) as ledger:
        ledger.intent(bytes(32), 0, budget / 2)
        halfway = client_policy.read(folder.policy).reading(budget / 2, budget)
        assert halfway > 1.05 * epsilon_of(math.sqrt(budget / 2), 1e-5), "of which a server that stops makes more"
        assert f"epsilon spent {halfway:.3f} of 8.5" in said("client", "watch", place / "east", "--once")
        ledger.intent(bytes([1] * 32), 1, budget / 2)
    assert "epsilon spent 8.500 of 8.5, in all runs together" in said("client", "watch", place / "east", "--once")
    assert "is no owner's folder" in unchanged(place, 2, "client", "watch", place / "five", "--once")
