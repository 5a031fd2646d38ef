"""Witnessing: after each session the clients look at the server's ledger and sign that they saw it.

The server shows each client a signed checkpoint of its ledger, a proof that the ledger grew from what this client
signed last, and the entry that settled the session. A client that finds its session at its own figures signs the
checkpoint too. A server that keeps two ledgers, cuts one, or charges less than its clients did finds no signatures.
"""

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any

import msgspec

from fgrpo_secure.evidence import spent
from fgrpo_secure.privacy import checkpoint_note
from fgrpo_secure.privacy.checkpoint_note import BadCheckpoint, Checkpoint
from fgrpo_secure.privacy.ledger import Ledger
from protocols import merkle
from protocols.identity import Identity

SERVER = "server"  # the name under which the server signs notes; no client has it
SHARDS = "shards"  # the fact of a ledger entry that names a round's further sessions
MAX_EXHIBIT = 64 << 10  # bytes; a proof has one hash per doubling of the ledger

Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Place = Annotated[int, msgspec.Meta(ge=0)]


class Unwitnessed(ValueError):
    """A client does not sign what it was shown; the sentence says why, from public facts only."""


class Exhibit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="exhibit"):
    """What one client is shown. `seen` is the size that it signed last, 0 if none."""

    note: str
    seen: Place
    growth: tuple[Hash, ...]
    position: Place
    entry: bytes
    path: tuple[Hash, ...]


def origin(server: bytes, run: bytes) -> str:
    """The name of a run's ledger: it binds every witness to the server's key and the run."""
    return f"fgrpo-secure/ledger/{server.hex()}/{run.hex()}"


def client_name(client: int) -> str:
    """The name under which a client signs notes."""
    return f"client-{client}"


def signer(identity: Identity, name: str) -> checkpoint_note.Signer:
    """An identity as a signer of notes."""
    return checkpoint_note.Signer(name, identity.public, lambda text: identity.sign_note(text.decode()))


def exhibit(ledger: Ledger, note: str, seen: int, session: bytes) -> bytes:
    """The encoded proof, for a client that last signed `seen` entries, that `session` is settled in `ledger`."""
    position = ledger.end_of(session)
    entry, path = ledger.prove(position)
    growth = ledger.prove_growth(seen) if seen else ()
    return msgspec.msgpack.encode(Exhibit(note, seen, growth, position, entry, path))


def examine(
    data: bytes,
    server: bytes,
    expected_origin: str,
    last: tuple[int, bytes] | None,
    session: bytes,
    survivors: int,
    charge: Fraction,
    training_round: int,
    turns: int = 1,
) -> Checkpoint:
    """The checkpoint to sign; raises Unwitnessed.

    `last` is (size, root) of what this client signed last in this ledger. `survivors` and `charge` are its own
    figures for `session`: the server's ledger may not show fewer survivors' noise as cheaper than the client did. An
    entry of several shards must be of `training_round`, by which auditors tell who was in which shard; where units
    take `turns`, it must be counted for the turn of that round.
    """
    shown = _decode(data)
    try:
        checkpoint = checkpoint_note.verify(shown.note, SERVER, server)
        if last is not None:
            merkle.check_consistency(*last, checkpoint.size, checkpoint.root, shown.growth)
        leaf = merkle.leaf_hash(shown.entry)
        root = merkle.root_from_path(leaf, shown.position, checkpoint.size, shown.path)
    except (BadCheckpoint, merkle.BadProof, IndexError) as problem:
        raise Unwitnessed(f"the server's ledger does not prove itself: {problem}") from None
    if checkpoint.origin != expected_origin:
        raise Unwitnessed(f"the checkpoint is of {checkpoint.origin!r}, not of {expected_origin!r}")
    if root != checkpoint.root:
        raise Unwitnessed("the entry shown is not in the server's ledger")
    _check_entry(shown.entry, session, survivors, charge, training_round)
    _check_turn(shown.entry, spent.facts(training_round, turns))
    return checkpoint


def shown_note(data: bytes) -> str:
    """The server's note in an exhibit; raises Unwitnessed."""
    return _decode(data).note


def opening_facts(others: Sequence[bytes]) -> dict[str, str]:
    """The fact by which one entry charges a round of several sessions: which there are besides the entry's own."""
    return {SHARDS: " ".join(session.hex() for session in others)} if others else {}


def sessions(opened: Mapping[str, Any]) -> list[str]:
    """The sessions, hex, of the round that an intent entry charges, shard by shard."""
    return [opened["session"], *opened["facts"].get(SHARDS, "").split()]


def shard_facts(training_round: int, ended: Mapping[bytes, Sequence[int]]) -> dict[str, str | int]:
    """The facts by which one entry settles a round of several sessions: which round, and how many survived in each."""
    counts = " ".join(f"{session.hex()}:{len(survivors)}" for session, survivors in ended.items())
    return {"training_round": training_round, "survivors": counts}


def ended_shards(opened: Mapping[str, Any], settled: Mapping[str, Any]) -> tuple[int, list[int]]:
    """(training round, places of the shards that ended) by a round's two entries; (0, [0]) of one session alone.

    Raises ValueError or KeyError if they contradict each other.
    """
    places, facts = sessions(opened), settled["facts"]
    if len(places) == 1:
        return 0, [0]
    return facts["training_round"], [places.index(part.partition(":")[0]) for part in facts["survivors"].split()]


def _check_entry(entry: bytes, session: bytes, survivors: int, charge: Fraction, training_round: int) -> None:
    try:
        fields = json.loads(entry)
        kind, named, counted = fields["kind"], fields["session"], fields["survivors"]
        charged = Fraction(fields["charge"])
        shards = fields.get("facts", {}).get("survivors", "")
        if shards:  # a round of several sessions: this client's is one of them
            named = session.hex()
            counted = int(dict(part.split(":") for part in shards.split())[named])
            if fields["facts"]["training_round"] != training_round:
                raise Unwitnessed("the entry shown settles another round")
    except Unwitnessed:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        raise Unwitnessed("the entry shown does not settle a session") from None
    if (kind, named) != ("settled", session.hex()):
        raise Unwitnessed("the entry shown settles another session")
    if counted != survivors:
        raise Unwitnessed(f"the server's ledger counts {counted} survivors, this client {survivors}")
    if charged < charge:
        raise Unwitnessed("the server's ledger charges less for this session than this client did")


def _check_turn(entry: bytes, expected: Mapping[str, int]) -> None:
    """By another turn's mark the units that paid would seem to have spent less."""
    if json.loads(entry).get("facts", {}).get(spent.TURN) != expected.get(spent.TURN):
        raise Unwitnessed("the entry shown is counted for another turn's units")


def _decode(data: bytes) -> Exhibit:
    if len(data) > MAX_EXHIBIT:
        raise Unwitnessed(f"an exhibit of {len(data)} bytes is longer than {MAX_EXHIBIT}")
    try:
        return msgspec.msgpack.decode(data, type=Exhibit)
    except (msgspec.MsgspecError, UnicodeError):
        raise Unwitnessed("the exhibit cannot be read") from None
