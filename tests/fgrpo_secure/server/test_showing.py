"""Signature lines that clients send back: only those that hold are kept, so that nobody spoils the note of all."""

import base64

import pytest

from fgrpo_secure.ledger import cosigning, note_file, testimony
from fgrpo_secure.ledger.checkpoint_note import Checkpoint
from fgrpo_secure.ledger.testimony import Account
from fgrpo_secure.ledger.witnessed import Witnessed
from fgrpo_secure.server import own_prices
from protocols.identity import Identity

LIAR, VICTIM = 3, 5


def blob(line):
    return base64.b64decode(line.split(" ")[2])


def with_blob(line, data):
    return " ".join([*line.split(" ")[:2], base64.b64encode(data).decode()]) + "\n"


def of_nobody(federation):
    """A line of a key that no roster has, over the right checkpoint."""
    ledger, stranger = federation.ledger, Identity.from_seed(bytes(32))
    origin = cosigning.origin(federation.identity.public, federation.run)
    checkpoint = Checkpoint(origin, ledger.size(), ledger.root())
    return testimony.sign(stranger, f"client-{LIAR}", checkpoint, LIAR, Account(), (), federation.roster)


# What a client makes of its own good line: (client that it names, line).
LIES = {
    "another client's name": lambda line, _: (VICTIM, line.replace(f"client-{LIAR}", f"client-{VICTIM}")),
    "its own name, another client": lambda line, _: (VICTIM, line),
    "the server's name": lambda line, _: (LIAR, line.replace(f"client-{LIAR}", "server")),
    "a name of nobody": lambda line, _: (99, line.replace(f"client-{LIAR}", "client-99")),
    "a key of nobody": lambda _, federation: (LIAR, of_nobody(federation)),
    "another signature": lambda line, _: (LIAR, with_blob(line, blob(line)[:10] + b"x" + blob(line)[11:])),
    "sessions that nobody lost it in": lambda line, _: (LIAR, with_blob(line, blob(line) + b"0")),
    "twice": lambda line, _: (LIAR, line + line),
    "without an end": lambda line, _: (LIAR, line[:-1]),
    "another line after it": lambda line, _: (LIAR, line + "spoiled\n"),
    "an empty line before it": lambda line, _: (LIAR, "\n" + line),
    "more spaces": lambda line, _: (LIAR, line.replace(f" client-{LIAR} ", f"  client-{LIAR} ")),
    "no base64": lambda line, _: (LIAR, line.replace("\n", "\x85\n")),
    "nothing": lambda _, __: (LIAR, ""),
    "surrogates": lambda line, _: (LIAR, line.replace("client", "cl\u0130ent")),
}


@pytest.mark.slow
def test_a_lie_in_place_of_a_signature_spoils_nobodys_note(trial, monkeypatch):
    federation = trial.federation()
    witness = type(federation.engine).witness
    monkeypatch.setattr(type(federation), "_publish", lambda *_: None)
    honest: dict[int, str] = {}

    def once(engine, *asked):
        said = witness(engine, *asked)
        honest.update({each.client: each.line for each in said if each.line is not None})
        return said

    monkeypatch.setattr(type(federation.engine), "witness", once)
    federation.conduct(0, lambda *_: None)
    assert len(honest) == 8
    showing, size = federation._showing(), federation.ledger.size()
    whole = note_file.kept(federation.directory.notes, size)
    assert set(note_file.signers(whole)) == {"server", *map(cosigning.client_name, range(8))}

    for name, lie in LIES.items():
        said = [Witnessed(client, line, size) for client, line in honest.items() if client != LIAR]
        client, line = lie(honest[LIAR], federation)
        said.insert(0, Witnessed(client, line, size))
        monkeypatch.setattr(type(federation.engine), "witness", lambda *_, said=said: said)
        note = showing.signed({b"s" * 32: list(range(8))})
        assert sorted(note_file.signers(note)) == sorted(set(note_file.signers(whole)) - {f"client-{LIAR}"}), name
        checked = note_file.check(
            {f"{size:08d}.note": note},
            federation.ledger,
            cosigning.origin(federation.identity.public, federation.run),
            federation.identity.public,
            lambda _: {member.id: [member.public] for member in federation.roster.members},
            lambda *_: {},
            own_prices.read(federation.ledger, federation.privacy.round_charge),
            lambda _: {federation.roster.version: federation.roster},
        )
        assert checked.fewest == 7, name


@pytest.mark.parametrize(("left", "refunded"), [(0, True), (1, False)])
def test_what_clients_say_of_a_session_that_a_crash_left_open_decides_over_its_charge(
    trial, monkeypatch, left, refunded
):
    federation = trial.federation()
    opened = federation.open_round(0)
    federation.ledger.intent(opened.sessions[0].name, 0, opened.sessions[0].admitted.charge, {})
    monkeypatch.setattr(type(federation.engine), "recover", lambda *_: left)
    federation.recover()
    assert (federation.ledger.entries()[-1]["charge"] == "0/1") is refunded


def test_a_server_that_comes_back_after_everybody_signed_still_shows_the_end_which_ends_clients(trial, monkeypatch):
    """An engine tells its clients that the run is over when the end was shown, also to nobody who has yet to sign."""
    federation, shown = trial.federation(), []
    witness = type(federation.engine).witness

    def watched(engine, session, exhibits, *more):
        shown.append((session, sorted(exhibits)))
        return witness(engine, session, exhibits, *more)

    monkeypatch.setattr(type(federation.engine), "witness", watched)
    federation.directory.adapter.mkdir()
    for _ in range(2):
        federation.end(0, None)
    assert shown == [(b"", list(range(8))), (b"", [])]
