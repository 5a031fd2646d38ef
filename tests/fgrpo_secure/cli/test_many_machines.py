"""`fgrpo authority`, `server` and `client` up to the start: files that organisations hand to each other; refusals."""

import json
import math
import re
import shutil
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fgrpo_secure.cli import app
from fgrpo_secure.client import joining, own_view
from fgrpo_secure.client import policy as client_policy
from fgrpo_secure.config import own_file
from fgrpo_secure.ledger.store import Ledger, Ledgers
from fgrpo_secure.privacy.accounting import epsilon_of
from fgrpo_secure.storage import identity_file, invitation, opening, signed_file
from fgrpo_secure.storage.client_folder import ClientFolder, ClientFolderError
from fgrpo_secure.storage.run_directory import RunDirectory
from protocols.identity import Identity
from tests.fgrpo_secure.engines.federations import certificate as server_certificate
from threat_model.audit.command import app as audit

NAMES = ("north", "south", "east", "west", "centre")
RUN = (
    '[run]\nname = "five"\n[federation]\nclients = 5\nrounds = 1\n[engine]\nkind = "https"\n[adapter]\nrank = 1\n'
    '[aggregation]\nadversary = "lying_server"\nmax_dropout = 0.2\n'
    "[grpo]\nnum_generations = 2\nprompts_per_step = 1\nmax_completion_length = 4\n"
    '[evaluation]\ntasks = ["add"]\nprompts = 2\nsamples = 1\nevery = 0\n'
)
URL = ("--url", "https://server.example:8443")


def call(*arguments, **more):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **more)


def said(*arguments):
    outcome = call(*arguments)
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout.strip()


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Authority, server and five clients, up to the invitation: what each of their commands printed."""
    root = tmp_path_factory.mktemp("organisations")
    (root / "run.toml").write_text(RUN)
    key = said("authority", "new", root / "authority")
    lines = [said("client", "new", root / name, "--task", "add") for name in NAMES]
    said("authority", "sign", root / "authority", *lines)
    server = said("server", "new", root / "run.toml", "--authority", key, "--out", root / "five")
    said("server", "invite", root / "five", *URL, "--roster", root / "authority" / "roster.bin")
    return root, key, server, lines


@pytest.fixture
def place(original, tmp_path, monkeypatch):
    """A copy of it, which a test may change."""
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copytree(original[0], tmp_path / "o")
    return tmp_path / "o"


def state(root):
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def unchanged(place, code, *arguments, **more):
    """The one sentence of a command that is refused and changes nothing."""
    before = state(place)
    outcome = call(*arguments, **more)
    assert outcome.exit_code == code, outcome.output
    lines = outcome.stderr.strip().splitlines()
    assert len(lines) == 1, outcome.stderr
    assert "Traceback" not in outcome.output
    assert state(place) == before
    return lines[0]


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


def test_a_run_over_pipes_has_no_address_and_no_certificate(place):
    invited = ("server", "invite", place / "five", "--url", "pipe:", "--out", place / "piped.json")
    said(*invited)
    shown = said("client", "join", place / "west", place / "piped.json", "--yes")
    assert "reached over pipes alone" in shown
    assert "--url" not in unchanged(place, 2, "client", "start", place / "west", "--pipe", "tcp:9")
    for given, words in (
        (("--pipe", "unix:/run/x", "--certificate", "tls.pem"), "a pipe has no TLS: give --pipe, or --certificate"),
        (("--certificate", "tls.pem"), "give --certificate and --key, for HTTPS; or --pipe unix:PATH"),
        (("--pipe", "unix:/proc/x"), "cannot listen on unix:/proc/x"),
        (("--pipe", "/run/x"), "'/run/x' is no pipe; write unix:PATH"),
    ):
        outcome = call("server", "start", place / "five", *given)
        assert outcome.exit_code == 2, outcome.output
        assert words in outcome.stderr, outcome.stderr


def test_an_invitation_that_somebody_touched_is_refused(place):
    file = place / "five.invitation.json"
    whole = json.loads(file.read_text())
    for name in whole:
        other = dict(whole)
        other[name] = 2 if name == "version" else {"key": "00"} if name == "signature" else f"{whole[name]}0"
        file.write_text(json.dumps(other, sort_keys=True, indent=2) + "\n")
        assert unchanged(place, 2, "client", "join", place / "west", file, "--yes").startswith("fgrpo: "), name


def test_nobody_but_the_server_changes_an_address_unseen(place):
    file = place / "five.invitation.json"
    elsewhere = file.read_text().replace("https://server.example:8443", "https://other.example:8443")
    file.write_text(elsewhere)
    assert "does not carry the signature" in unchanged(place, 2, "client", "join", place / "west", file, "--yes")
    made = json.loads(elsewhere)
    del made["signature"]
    signed_file.write(file, made, Identity.from_seed(bytes(32)))
    assert "is signed by" in unchanged(place, 2, "client", "join", place / "west", file, "--yes")


@pytest.mark.parametrize("part", ["config", "opening", "first_roster", "authority", "run", "url", "ca"])
def test_a_lying_server_cannot_sign_an_invitation_to_another_run_under_this_ones_name(original, place, part):
    """It has the key: only what must agree can stop it. The URL is its to say, and no security rests on that."""
    file, key = place / "five.invitation.json", Identity.from_seed((place / "five.server" / "server.key").read_bytes())
    made = signed_file.read(file)
    changed = {
        "config": made["config"].replace("rounds = 1 ", "rounds = 2 "),
        "opening": made["opening"].replace('"nonce": "', '"nonce": "0')[:-2] + "\n",
        "first_roster": made["first_roster"][:-8] + "AAAAAAA=",
        "authority": "ab" * 32,
        "run": "0" * 32,
        "url": "http://server.example",
        "ca": "no certificate",
    }[part]
    assert changed != made[part]
    signed_file.write(file, {**made, part: changed}, key)
    said_of_it = unchanged(place, 2, "client", "join", place / "west", file, "--yes")
    assert "invitation" in said_of_it or "address" in said_of_it


def test_a_stranger_to_the_roster_and_a_second_federation_are_refused(place):
    said("client", "new", place / "stranger", "--task", "add")
    told = unchanged(place, 2, "client", "join", place / "stranger", place / "five.invitation.json", "--yes")
    assert "does not enrol the key" in told
    seed = identity_file.read_seed(place / "south" / "client.identity")
    said("client", "join", place / "north", place / "five.invitation.json", "--yes")
    folder = ClientFolder.open(place / "north")
    made = folder.invitation(folder.pinned()[0])
    with pytest.raises(ClientFolderError, match="is client 0 of another federation"):
        joining._client(folder, made.members(), Identity.from_seed(seed).public)


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


def test_a_run_of_organisations_is_not_taken_for_a_trial_by_the_commands_of_one(place):
    for arguments in (("run", place / "run.toml", "--out", place / "r"), ("run", "--resume", place / "five")):
        assert "`fgrpo server start` conduct it" in unchanged(place, 2, *arguments)
    audited = CliRunner().invoke(audit, ["data", str(place / "run.toml")])
    assert (audited.exit_code, "no [[client]] table names data" in audited.stderr) == (2, True)
    assert "`fgrpo server start`" not in said("plan", place / "run.toml")


def test_an_invitation_needs_a_roster_of_the_authority_for_all_clients_and_an_https_address(original, place):
    key = original[1]
    said("server", "new", place / "run.toml", "--authority", key, "--out", place / "again")
    invite = ("server", "invite", place / "again")
    assert "has no roster yet" in unchanged(place, 2, *invite, *URL)
    said("authority", "new", place / "other")
    said("authority", "sign", place / "other", *original[3])
    other = ("--roster", place / "other" / "roster.bin")
    assert "the roster is not one of the authority" in unchanged(place, 2, *invite, *URL, *other)
    said(
        "roster",
        "revoke",
        place / "authority" / "roster.bin",
        4,
        "--authority",
        place / "authority" / "authority.identity",
    )
    fewer = ("--roster", place / "authority" / "roster.bin")
    assert "enrols 4 clients" in unchanged(place, 2, *invite, *URL, *fewer)
    assert "no address of a server" in call("server", "invite", place / "five", "--url", "http://a").stderr


def test_a_later_invitation_brings_the_newer_roster_and_names_the_same_run(original, place):
    identity = place / "authority" / "authority.identity"
    said("roster", "sign", place / "authority" / "roster.bin", "--authority", identity, "--last-day", "2099-12-31")
    roster = ("--roster", place / "authority" / "roster.bin")
    said("server", "invite", place / "five", *URL, *roster, "--out", place / "later.json")
    first, later = invitation.read(place / "five.invitation.json"), invitation.read(place / "later.json")
    assert (first.run, first.first_roster) == (later.run, later.first_roster)
    assert (first.members().version, later.members().version) == (1, 2)
    assert RunDirectory(place / "five").next_roster.exists()
    assert joining.configuration(later).clients_total == 5
    assert opening.decode(later.opening.encode()).run == later.run


def test_an_invitation_after_a_revocation_says_that_too_few_are_left(original, place):
    files = (place / "authority" / "roster.bin", "--authority", place / "authority" / "authority.identity")
    said("roster", "revoke", files[0], 4, *files[1:])
    told = call("server", "invite", place / "five", *URL, "--roster", files[0], "--out", place / "fewer.json")
    assert (told.exit_code, (place / "fewer.json").exists()) == (0, True)
    assert "no further round can be held under this roster: " in told.stderr
    same = call("server", "invite", place / "five", *URL, "--out", place / "same.json")
    assert same.stderr == ""


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
