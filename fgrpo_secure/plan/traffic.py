"""Bytes that one client sends and receives in a round that it survives, before anything runs.

Counted on the messages themselves, filled with zeros and the largest id: the real ones differ by a few
bytes an id. In a hybrid session the lower of two ids sends the pad; what is counted is the mean over clients.
"""

from dataclasses import dataclass

from protocols import envelope, hybrid, kem, keys, ring, wire
from protocols.params import Parameters

_PAD = 32 + kem.CIPHERTEXT_BYTES + hybrid.BOX_BYTES + 1  # its three fields, one of which needs a longer header


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes per client and round, and whether keys are hybrid ones, which is much of them."""

    up: int
    down: int
    post_quantum: bool = False


def per_round(
    parameters: Parameters, lengths: tuple[int, ...], ring_bits: int, broadcast: int, post_quantum: bool = False
) -> Traffic:
    """The traffic of a client when nobody drops.

    `lengths` are the coordinates of each masked vector, `broadcast` the bytes of plan and model that the
    engine sends to every client.
    """
    pads = _PAD * parameters.neighbours // 2 if post_quantum else 0
    up = _up(parameters, lengths, ring_bits, post_quantum)
    return Traffic(up + pads, broadcast + _down(parameters, post_quantum) + pads, post_quantum)


def _up(parameters: Parameters, lengths: tuple[int, ...], ring_bits: int, post_quantum: bool) -> int:
    holders = parameters.neighbours + 1
    last = parameters.cohort - 1
    vectors = sum(ring.packed_size(length, ring_bits) + 5 for length in lengths)
    opened = tuple(wire.OpenedShare(last, bytes(33)) for _ in range(holders))
    messages = (
        _announcement(last, post_quantum),
        wire.Deal(last, bytes(32), tuple(_leaf(last, post_quantum) for _ in range(holders)), bytes(64)),
        wire.Upload(last, (), bytes(64)),
        wire.Agreement(last, bytes(64)),
        wire.Opening(last, opened, bytes(64)),
    )
    envelopes = sum(envelope.OVERHEAD for _ in messages)  # of small messages two or three bytes fewer
    return vectors + envelopes + sum(len(wire.encode(message)) for message in messages)


def _down(parameters: Parameters, post_quantum: bool) -> int:
    everybody = range(parameters.cohort)
    last, holders = parameters.cohort - 1, parameters.neighbours + 1
    path = (bytes(32),) * (holders - 1).bit_length()
    roots = tuple(wire.SignedRoot(last, bytes(32), bytes(32), bytes(64)) for _ in everybody)
    session = bytes(32)
    messages = (
        wire.Announcements(session, tuple(_announcement(last, post_quantum) for _ in everybody)),
        wire.Deliveries(
            session,
            wire.encode(wire.Roots(session, roots)),
            tuple(wire.Delivery(last, _leaf(last, post_quantum), path) for _ in range(holders)),
        ),
        wire.Uploads(session, tuple(wire.UploadDigest(last, bytes(32), bytes(64)) for _ in everybody)),
        wire.Quorum(session, tuple(wire.Agreement(last, bytes(64)) for _ in range(parameters.quorum))),
    )
    return sum(len(wire.encode(message)) for message in messages)


def _announcement(client: int, post_quantum: bool) -> wire.Announcement:
    key = bytes(hybrid.PUBLIC_BYTES if post_quantum else keys.KEY_BYTES)
    return wire.Announcement(client, key, key, bytes(64))


def _leaf(holder: int, post_quantum: bool) -> bytes:
    """Without the pad of a hybrid one."""
    plain = (holder, bytes(32), bytes(49), bytes(32), bytes(49))
    if not post_quantum:
        return wire.encode(wire.Leaf(*plain))
    return wire.encode(wire.HybridLeaf(*plain, bytes(kem.CIPHERTEXT_BYTES), b"", b"", b""))
