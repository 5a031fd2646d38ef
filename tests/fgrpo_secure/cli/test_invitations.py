"""The invitation, which a server hands to its clients: whom it names, what it pins, and what it is refused for."""

import json

import pytest
from typer.testing import CliRunner

from fgrpo_secure.client import joining
from fgrpo_secure.storage import identity_file, invitation, opening, signed_file
from fgrpo_secure.storage.client_folder import ClientFolder, ClientFolderError
from fgrpo_secure.storage.run_directory import RunDirectory
from protocols.identity import Identity
from tests.fgrpo_secure.cli.organisations import URL, call, said, unchanged
from threat_model.audit.command import app as audit


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
