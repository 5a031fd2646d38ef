"""Bytes that one client sends and receives in a round that it survives, before anything runs.

Counted on the messages themselves, filled with zeros and the largest id: the real ones differ by a few
bytes an id.
"""

from dataclasses import dataclass

from protocols import ring, wire
from protocols.params import Parameters


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes per client and round."""

    up: int
    down: int


def per_round(parameters: Parameters, lengths: tuple[int, ...], ring_bits: int, broadcast: int) -> Traffic:
    """The traffic of a client when nobody drops.

    `lengths` are the coordinates of each masked vector, `broadcast` the bytes of plan and model that the
    engine sends to every client.
    """
    return Traffic(_up(parameters, lengths, ring_bits), broadcast + _down(parameters))


def _up(parameters: Parameters, lengths: tuple[int, ...], ring_bits: int) -> int:
    holders = parameters.neighbours + 1
    last = parameters.cohort - 1
    vectors = sum(ring.packed_size(length, ring_bits) + 5 for length in lengths)
    opened = tuple(wire.OpenedShare(last, bytes(33)) for _ in range(holders))
    messages = (
        _announcement(last),
        wire.Deal(last, bytes(32), tuple(_leaf(last) for _ in range(holders)), bytes(64)),
        wire.Upload(last, (), bytes(64)),
        wire.Agreement(last, bytes(64)),
        wire.Opening(last, opened, bytes(64)),
    )
    return vectors + sum(len(wire.encode(message)) for message in messages)


def _down(parameters: Parameters) -> int:
    everybody = range(parameters.cohort)
    last, holders = parameters.cohort - 1, parameters.neighbours + 1
    path = (bytes(32),) * (holders - 1).bit_length()
    roots = tuple(wire.SignedRoot(last, bytes(32), bytes(32), bytes(64)) for _ in everybody)
    session = bytes(32)
    messages = (
        wire.Announcements(session, tuple(_announcement(last) for _ in everybody)),
        wire.Deliveries(
            session,
            wire.encode(wire.Roots(session, roots)),
            tuple(wire.Delivery(last, _leaf(last), path) for _ in range(holders)),
        ),
        wire.Uploads(session, tuple(wire.UploadDigest(last, bytes(32), bytes(64)) for _ in everybody)),
        wire.Quorum(session, tuple(wire.Agreement(last, bytes(64)) for _ in range(parameters.quorum))),
    )
    return sum(len(wire.encode(message)) for message in messages)


def _announcement(client: int) -> wire.Announcement:
    return wire.Announcement(client, bytes(32), bytes(32), bytes(64))


def _leaf(holder: int) -> bytes:
    return wire.encode(wire.Leaf(holder, bytes(32), bytes(49), bytes(32), bytes(49)))
