"""The line by which a client testifies: in one byte form, and with the newest roster that it has seen."""

import base64
from dataclasses import replace
from fractions import Fraction

import pytest

from fgrpo_secure.ledger import checkpoint_note, testimony
from fgrpo_secure.ledger import cosigning as witness
from fgrpo_secure.ledger.checkpoint_note import BadCheckpoint
from fgrpo_secure.ledger.store import Ledger
from fgrpo_secure.ledger.testimony import Account
from protocols.identity import Identity
from protocols.roster import Roster

SERVER, CLIENT = (Identity.from_seed(bytes([i]) * 32) for i in range(2))
ORIGIN = witness.origin(SERVER.public, bytes(16))
ROSTERS = {version: Roster(version, bytes(32), ()) for version in (1, 2)}
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger.open(tmp_path / "ledger.sqlite", "server", Fraction(10))
    yield opened
    opened.close()


def other_form(blob):
    """Base64 that decodes to the same bytes: the last character has bits that say nothing."""
    bare = blob.rstrip("=")
    assert len(base64.b64decode(blob)) % 3
    other = bare[:-1] + ALPHABET[ALPHABET.index(bare[-1]) + 1] + "=" * (len(blob) - len(bare))
    assert base64.b64decode(other) == base64.b64decode(blob)
    return other


def signed_line(ledger, roster):
    """A checkpoint, and client 4's line on it."""
    note = ledger.checkpoint(ORIGIN, witness.signer(SERVER, witness.SERVER))
    checkpoint = checkpoint_note.verify(note, witness.SERVER, SERVER.public)
    return checkpoint, testimony.sign(CLIENT, "client-4", checkpoint, 4, Account(), (), roster)


def test_a_line_says_which_roster_its_client_saw_last_and_counts_only_with_that_one(ledger):
    checkpoint, signed = signed_line(ledger, ROSTERS[2])
    line = testimony.read(signed, "client-4", 9)
    of = ([CLIENT.public], checkpoint, 4, Account())
    assert f"roster 2 {ROSTERS[2].digest.hex()}\n" in testimony.check(line, "client-4", *of, ROSTERS)
    with pytest.raises(BadCheckpoint, match="client-4 has seen is version 2; what is here has 1"):
        testimony.check(line, "client-4", *of, {1: ROSTERS[1]})
    with pytest.raises(BadCheckpoint, match="signed for another account"):
        testimony.check(line, "client-4", *of, {2: replace(ROSTERS[2], revoked=(3,))})
    with pytest.raises(BadCheckpoint, match="signed for another account"):
        testimony.check(replace(line, roster=1), "client-4", *of, ROSTERS)


def test_a_line_in_another_form_of_its_base64_or_of_its_numbers_is_none(ledger):
    _, signed = signed_line(ledger, ROSTERS[1])
    head, _, blob = signed.rstrip("\n").rpartition(" ")
    data = base64.b64decode(blob)
    version = base64.b64encode(data[:68] + b"01" + data[69:]).decode()
    for changed in (
        f"{head} {other_form(blob)}",
        f"{head} {version}",
        f"{head}  {blob}",
        f"{head.replace('4', '04')} {blob}",
    ):
        with pytest.raises(BadCheckpoint, match="not in its one form"):
            testimony.read(f"{changed}\n", "client-4", 9)


def test_a_servers_line_in_another_form_of_its_base64_is_no_signature(ledger):
    note = ledger.checkpoint(ORIGIN, witness.signer(SERVER, witness.SERVER))
    checkpoint_note.verify(note, witness.SERVER, SERVER.public)
    head, _, blob = note.rstrip("\n").rpartition(" ")
    with pytest.raises(BadCheckpoint, match="no valid signature of 'server'"):
        checkpoint_note.verify(f"{head} {other_form(blob)}\n", witness.SERVER, SERVER.public)
