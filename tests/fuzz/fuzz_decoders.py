"""Every decoder as a target: one per kind of message, found by its tag, and one per other reader of a peer's bytes."""

import functools
from collections.abc import Iterator

import fuzz_messages
import msgspec
from fuzz_world import WORLDS, Broken, Target, check_reason, recording

from protocols import keys, merkle, ring, roster, shares, states, wire
from protocols.errors import BadSignature, Malformed, Refused
from protocols.wire import Step
from threat_model.world import World

DECODE_LIMIT = 1 << 16  # longest message that a decoder is offered here


def recorded_messages() -> list[bytes]:
    """All messages of the honest sessions, a signed roster and the stored states among them."""
    found = []
    for name in WORLDS:
        seen = recording(name)
        found += seen.messages()
        found.append(roster.sign_roster(seen.world.authority, seen.world.roster))
    return found


def decoders() -> Iterator[Target]:
    """One target per kind of message, and one per other function that reads a peer's bytes."""
    recorded = recorded_messages()
    known = fuzz_messages.by_tag(recorded)
    for tag, kind in sorted(fuzz_messages.kinds().items()):
        corpus = known.get(tag) or [fuzz_messages.example(kind)]
        yield Target(f"decode {tag}", corpus, recorded, functools.partial(_decode, kind))
    world = recording("lying").world
    signed = [roster.sign_roster(world.authority, world.roster)]
    yield Target("open roster", signed, recorded, functools.partial(_open_roster, world))
    yield Target("renew roster", signed, recorded, functools.partial(_renew_roster, world))
    yield Target("look into roster", signed, recorded, _look_into_roster)
    lines = [roster.enrolment_line(identity, "client-a").encode() for identity in world.identities.values()]
    yield Target("enrolment line", lines, lines, _enrolment_line)
    yield Target("session in", recorded, recorded, _session_in)
    yield from _states_and_parts(recorded)


def _states_and_parts(recorded: list[bytes]) -> Iterator[Target]:
    seen = recording("lying")
    stored = [
        data for step in list(Step)[1:] for store in seen.stores[step].values() for data in store._states.values()
    ]
    yield Target("decode state", stored, recorded, _decode_state)
    yield Target("unpack vector", [bytes(13), b"\xff" * 12 + b"\x0f"], recorded, _unpack)
    yield Target("parse share", [bytes(33), b"\xff" * 33], recorded, _parse_share)
    yield Target("agree on key", [*fuzz_messages.SMALL_ORDER, b"\x09" + bytes(31)], recorded, _agree_key)
    yield Target("open box", [_SEAL.close(keys.SEED, bytes(33))], recorded, _open_box)
    yield Target("follow path", [bytes(32 * 3)], recorded, _follow_path)


def _decode(kind: type[msgspec.Struct], data: bytes) -> str:
    try:
        message = wire.decode(kind, data, DECODE_LIMIT)
    except Malformed as error:
        check_reason(error)
        return "refused"
    if wire.encode(message) != data:
        raise Broken("two byte forms of one message")
    return "taken"


def _open_roster(world: World, data: bytes) -> str:
    try:
        opened = roster.open_roster(data, world.authority.public, 1)
    except (Malformed, BadSignature, Refused) as error:
        check_reason(error)
        return "refused"
    if opened.digest != world.roster.digest:
        raise Broken("another roster opens")
    return "taken"


def _renew_roster(world: World, data: bytes) -> str:
    try:
        renewed = roster.renew(world.roster, data)
    except (Malformed, BadSignature, Refused) as error:
        check_reason(error)
        return "refused"
    if renewed is not world.roster:
        raise Broken("another roster succeeds")
    return "taken"


def _look_into_roster(data: bytes) -> str:
    taken = 0
    for look in (roster.claimed_authority, roster.handovers_of):
        try:
            look(data)
            taken += 1
        except Malformed as error:
            check_reason(error)
    return "taken" if taken else "refused"


def _enrolment_line(data: bytes) -> str:
    """As it comes from a terminal or a file: bytes that are no UTF-8 arrive as lone surrogates."""
    try:
        name, _ = roster.read_enrolment_line(data.decode("utf-8", "surrogateescape"))
    except (Malformed, BadSignature) as error:
        check_reason(error)
        return "refused"
    if name != "client-a":
        raise Broken("a key is enrolled under another name than it signed")
    return "taken"


def _session_in(data: bytes) -> str:
    taken = 0
    for kind in (wire.Announcements, wire.Deliveries, wire.Uploads, wire.Quorum):
        try:
            taken += len(wire.session_in(kind, data)) == 32
        except Malformed as error:
            check_reason(error)
    return "taken" if taken else "refused"


def _decode_state(data: bytes) -> str:
    try:
        states.decode_state(data)
    except Malformed:
        return "refused"
    return "taken"


def _unpack(data: bytes) -> str:
    try:
        elements = ring.unpack(data, 5, 20)
    except Malformed:
        return "refused"
    if ring.pack(elements, 20) != data:
        raise Broken("two byte forms of one vector")
    return "taken"


def _parse_share(data: bytes) -> str:
    try:
        value = shares.parse(data)
    except Malformed:
        return "refused"
    if value.to_bytes(33, "little") != data:
        raise Broken("two byte forms of one share")
    return "taken"


def _agree_key(data: bytes) -> str:
    if len(data) != keys.KEY_BYTES:  # the message's type sees to that
        return "refused"
    try:
        return "taken" if any(keys.agree(b"\x05" * 32, data)) else "zero"
    except keys.LowOrderPoint:
        return "refused"


_SEAL = keys.Seal.between(bytes(32), bytes(32), 2, 5, (bytes(32), bytes(32)))
_COMMITMENT = keys.share_commitment(bytes(32), 2, 5, keys.SEED, bytes(33))


def _open_box(data: bytes) -> str:
    try:
        share = _SEAL.open(keys.SEED, data, _COMMITMENT)
    except Malformed:
        return "refused"
    if share != bytes(33):
        raise Broken("a box opens to another share")
    return "taken"


def _follow_path(data: bytes) -> str:
    path = tuple(data[at : at + 32] for at in range(0, len(data), 32))
    for index in range(5):
        try:
            merkle.root_from_path(bytes(32), index, 5, path)
        except merkle.BadProof as error:
            check_reason(error)
    return "refused"
