"""Witnessing: after each session the clients look at the server's ledger and sign that they saw it.

The server shows each client a signed checkpoint of its ledger, a proof that the ledger grew from what this client
signed last, and the entries of all sessions since then that the client may have paid for. A client that finds each of
its own there, at its own figures, signs its account in this run on that checkpoint (`testimony`). A server that keeps
two ledgers, cuts one, hides or renames a session, or charges less than its clients did finds no signatures. When the
run ends, its last entry names the released adapter, and the clients sign once more.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

import msgspec

from fgrpo_secure.ledger import checkpoint_note, privacy_spent
from fgrpo_secure.ledger.checkpoint_note import BadCheckpoint, Checkpoint
from fgrpo_secure.ledger.entries import canonical, count_ids, fraction, ids_text, read_ids
from fgrpo_secure.ledger.store import Ledger
from fgrpo_secure.ledger.testimony import Account, Charged
from protocols import merkle
from protocols.identity import Identity

SERVER = "server"  # the name under which the server signs notes; no client has it
SHARDS = "shards"  # the fact of a ledger entry that names a round's further sessions
NOTHING = Account()
MAX_EXHIBIT = 4 << 20  # bytes; two entries for each session since a client signed last, with their proofs

Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Place = Annotated[int, msgspec.Meta(ge=0, le=checkpoint_note.MAX_SIZE)]
Path = Annotated[tuple[Hash, ...], msgspec.Meta(max_length=64)]


class Unwitnessed(ValueError):
    """A client does not sign what it was shown; the sentence says why, from public facts only."""


class Shown(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One entry with its proof."""

    position: Place
    entry: bytes
    path: Path


class Exhibit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="exhibit"):
    """What one client is shown. `seen` is the size that it signed last, 0 if none."""

    note: str
    seen: Place
    growth: tuple[Hash, ...]
    shown: tuple[Shown, ...]


@dataclass(frozen=True)
class Own:
    """A session that a client was charged for in a run, by its own books. `ids` are the survivors, where it knows.

    `full` is what it was charged before the session ended.
    """

    charged: Charged
    training_round: int
    blocks: int = 1
    ids: tuple[int, ...] | None = None
    full: Fraction = Fraction(0)


@dataclass(frozen=True)
class Signable:
    """What a client found in order: it signs `account` on `checkpoint`, and names the sessions it was `lost` in."""

    checkpoint: Checkpoint
    account: Account
    lost: tuple[int, ...]


def origin(server: bytes, run: bytes) -> str:
    """The name of a run's ledger: it binds every witness to the server's key and the run."""
    return f"fgrpo-secure/ledger/{server.hex()}/{run.hex()}"


def client_name(client: int) -> str:
    """The name under which a client signs notes."""
    return f"client-{client}"


def signer(identity: Identity, name: str) -> checkpoint_note.Signer:
    """An identity as a signer of notes."""
    return checkpoint_note.Signer(name, identity.public, lambda text: identity.sign_note(text.decode()))


def exhibit(ledger: Ledger, note: str, seen: int, positions: Iterable[int]) -> bytes:
    """The encoded proof, for a client that last signed `seen` entries, of the entries at `positions`."""
    growth = ledger.prove_growth(seen) if seen else ()
    shown = tuple(Shown(position, *ledger.prove(position)) for position in positions)
    return msgspec.msgpack.encode(Exhibit(note, seen, growth, shown))


def examine(
    data: bytes,
    server: bytes,
    expected_origin: str,
    last: tuple[int, bytes] | None,
    own: Sequence[Own],
    before: Account = NOTHING,
    lost: Sequence[int] = (),
    released: bytes | None = None,
) -> Signable:
    """What to sign; raises Unwitnessed.

    `last` is (size, root) of what this client signed last in this ledger, `before` the account of its sessions that
    it signed then, `lost` the entries of those that gave it no sum. `own` are all its charged sessions of the run: the
    server must show each of the others, under its name, at no less than it cost, in an entry of its own. **Why** A
    session that the ledger hides, renames, merges or prices lower would be one that nobody accounts for. `released` is
    the digest of the adapter that the client holds when the run ends: the newest entry must name it, and then only.
    """
    exhibited = _decode(data)
    checkpoint, entries = _proven(exhibited, server, expected_origin, last)
    ordered = sorted(own, key=lambda each: each.charged)
    paid, accounted = [*lost], []
    signed, used = last[0] if last else 0, set()  # entries that count for sessions of this client already
    for each in ordered[before.sessions :]:
        opened = _opening_of(entries, each.charged.session)
        if opened["position"] < signed or opened["position"] in used:
            raise Unwitnessed("the server's ledger charges two sessions that this client paid for once")
        used.add(opened["position"])
        without_sum = _check_end(opened, _end_of(entries, opened), each)
        if without_sum:
            full = max(each.full, each.charged.charge)
            accounted.append(Charged(each.charged.number, each.charged.session, full, 0))
            paid.append(opened["position"])
        else:
            accounted.append(each.charged)
    _check_newest(entries.get(checkpoint.size - 1), released)
    return Signable(checkpoint, before.after(accounted), tuple(paid))


def shown_note(data: bytes) -> str:
    """The server's note in an exhibit; raises Unwitnessed."""
    return _decode(data).note


def opening_facts(others: Sequence[bytes]) -> dict[str, str]:
    """The fact by which one entry charges a round of several sessions: which there are besides the entry's own."""
    return {SHARDS: " ".join(session.hex() for session in others)} if others else {}


def sessions(opened: Mapping[str, Any]) -> list[str]:
    """The sessions, hex, of the round that an intent entry charges, shard by shard."""
    return [opened["session"], *opened["facts"].get(SHARDS, "").split()]


def end_facts(training_round: int, ended: Mapping[bytes, Sequence[int]]) -> dict[str, str | int]:
    """The facts by which an entry settles a round: which one, and who survived in each of its sessions that ended."""
    survivors = " ".join(f"{session.hex()}:{ids_text(ids)}" for session, ids in ended.items())
    return {"training_round": training_round, "survivors": survivors}


def survivors_of(settled: Mapping[str, Any], most: int) -> dict[str, tuple[int, ...]]:
    """Session, hex -> who survived in it, by a settled entry, at most `most` in all of them together.

    ValueError or KeyError if it does not say, or names more.
    """
    found, left = {}, most
    for session, ids in named_survivors(settled).items():
        found[session] = read_ids(ids, left)
        left -= len(found[session])
    return found


def named_survivors(settled: Mapping[str, Any]) -> dict[str, str]:
    """Session, hex -> the text of who survived in it: nothing that it names is built. ValueError or KeyError."""
    parts = [part.partition(":") for part in settled["facts"]["survivors"].split()]
    return {session: ids for session, _, ids in parts}


def _proven(
    exhibited: Exhibit, server: bytes, expected_origin: str, last: tuple[int, bytes] | None
) -> tuple[Checkpoint, dict[int, dict[str, Any]]]:
    """The checkpoint and the entries shown by position, each proven to be under its root."""
    try:
        if not exhibited.note.startswith(f"{expected_origin}\n"):  # before any signature: the note may be long
            raise Unwitnessed("the checkpoint is not one of this run's ledger")
        checkpoint = checkpoint_note.verify(exhibited.note, SERVER, server)
        if not checkpoint_note.is_bare(exhibited.note, checkpoint, SERVER):
            # The client keeps the note: with a line of somebody else in it no auditor would take it from the client.
            raise Unwitnessed("the note shown is not a checkpoint with the server's signature alone")
        if last is not None:
            merkle.check_consistency(*last, checkpoint.size, checkpoint.root, exhibited.growth)
        roots = {
            merkle.root_from_path(merkle.leaf_hash(each.entry), each.position, checkpoint.size, each.path)
            for each in exhibited.shown
        }
    except (BadCheckpoint, merkle.BadProof, IndexError) as problem:
        raise Unwitnessed(f"the server's ledger does not prove itself: {problem}") from None
    if not roots <= {checkpoint.root}:
        raise Unwitnessed("an entry shown is not in the server's ledger")
    return checkpoint, {each.position: _object(each) for each in exhibited.shown}


def _object(shown: Shown) -> dict[str, Any]:
    try:
        fields = json.loads(shown.entry)
        # In its one byte form, which has no 1.0, no true and no name twice: two readers read the same.
        if not isinstance(fields, dict) or canonical(fields) != shown.entry:
            raise ValueError
        if fields["position"] != shown.position or not isinstance(fields["kind"], str):
            raise ValueError
        fields["charge"] = fraction(fields["charge"]) if "charge" in fields else Fraction(0)
        fields["facts"] = dict(fields.get("facts", {}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Unwitnessed("an entry shown is no ledger entry") from None
    # Taken apart once: a client looks at it for each of its sessions, and a hostile one names many.
    with contextlib.suppress(KeyError, AttributeError):
        if fields["kind"] == "intent":
            fields["opens"] = frozenset(filter(_is_text, sessions(fields)))
        elif fields["kind"] == "settled":
            fields["named"] = named_survivors(fields)
    return fields


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _opening_of(entries: Mapping[int, Mapping[str, Any]], session: str) -> Mapping[str, Any]:
    found = [each for each in entries.values() if each["kind"] == "intent" and session in _opens(each)]
    if len(found) != 1:
        raise Unwitnessed("the server's ledger does not show a session that this client paid for")
    return found[0]


def _end_of(entries: Mapping[int, Mapping[str, Any]], opened: Mapping[str, Any]) -> Mapping[str, Any]:
    kinds = ("settled", "aborted")
    found = [each for each in entries.values() if each["kind"] in kinds and each.get("session") == opened["session"]]
    if len(found) != 1:
        raise Unwitnessed("the server's ledger does not show how a session ended that this client paid for")
    return found[0]


def _opens(opened: Mapping[str, Any]) -> frozenset[str]:
    if "opens" not in opened:
        raise Unwitnessed("an entry shown opens no session")
    found: frozenset[str] = opened["opens"]
    return found


def _check_newest(newest: Mapping[str, Any] | None, released: bytes | None) -> None:
    """The newest entry ends the run if the client is asked about its end, with the adapter it holds, and only then.

    **Why** The same signature lines stand for the run's end: whoever signs it takes no part in the run any more.
    """
    if newest is None:
        raise Unwitnessed("the ledger's newest entry is not shown")
    ends = newest["kind"] == "closed"
    if ends != (released is not None) or (ends and newest["facts"].get("adapter") != (released or b"").hex()):
        raise Unwitnessed("the ledger's last entry is not about the adapter that this client was shown")


def _check_end(opened: Mapping[str, Any], end: Mapping[str, Any], own: Own) -> bool:
    """Whether a session gave this client no sum by the entries shown, which must charge no less than it paid.

    It was lost in it, or the server could not use the sum: a sum beyond its bound is one, and only the server saw it.
    Then all of the price counts.
    """
    full = max(own.full, own.charged.charge)
    try:
        came_to_nothing = end["kind"] == "aborted" or own.charged.session not in end["named"]
    except KeyError:
        came_to_nothing = False
    if opened["charge"] < full:
        raise Unwitnessed("the server's ledger charges less for this session than this client did")
    if own.charged.survivors and not (came_to_nothing and end["charge"] >= full):
        _check_settled(end, own)
        return False
    if end["charge"] <= 0:
        raise Unwitnessed("the server's ledger gave back a session that this client paid for")
    if came_to_nothing and end["charge"] < full:
        raise Unwitnessed("the server's ledger charges less for this session than this client did")
    return True


def _check_settled(end: Mapping[str, Any], own: Own) -> None:
    """The entry that settles a session of this client must have its survivors, its price and its round."""
    session, charged = own.charged.session, own.charged
    try:
        named: str = end["named"][session]  # a session of others is none of this client's, however many it names
        count = count_ids(named)
    except (ValueError, KeyError):
        raise Unwitnessed("the entry shown does not settle this client's session") from None
    if count != charged.survivors or (own.ids is not None and named != ids_text(own.ids)):
        raise Unwitnessed(f"the server's ledger counts {count} survivors, this client {charged.survivors}")
    if end["charge"] < charged.charge:
        raise Unwitnessed("the server's ledger charges less for this session than this client did")
    if end["facts"].get("training_round") != own.training_round:
        raise Unwitnessed("the entry shown settles another round")
    if end["facts"].get(privacy_spent.BLOCK) != privacy_spent.facts(own.training_round, own.blocks).get(
        privacy_spent.BLOCK
    ):
        # Under another block's name the units that paid would seem to have spent less.
        raise Unwitnessed("the entry shown is counted for another block of units")


def _decode(data: bytes) -> Exhibit:
    if len(data) > MAX_EXHIBIT:
        raise Unwitnessed(f"an exhibit of {len(data)} bytes is longer than {MAX_EXHIBIT}")
    try:
        return msgspec.msgpack.decode(data, type=Exhibit)
    except (msgspec.MsgspecError, UnicodeError):
        raise Unwitnessed("the exhibit cannot be read") from None
