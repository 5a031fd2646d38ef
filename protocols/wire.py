"""The messages, each with exactly one byte form: MessagePack arrays, first the tag, then the fields in
order.

`decode` bounds the size first, refuses unknown or missing fields, and re-encodes: bytes that are not the
canonical form of what they say are Malformed. Message structs hold nothing secret: shares travel sealed
until they are opened. Beside each signed message stands the payload that its signature covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from operator import lt
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from protocols import hybrid, kem, keys, labels, ring, shares
from protocols.errors import Malformed
from protocols.params import Adversary, Parameters

_SEALED = shares.SHARE_BYTES + keys.TAG_BYTES

Bytes16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Bytes64 = Annotated[bytes, Meta(min_length=64, max_length=64)]  # signatures
PublicKey = Annotated[bytes, Meta(min_length=keys.KEY_BYTES, max_length=hybrid.PUBLIC_BYTES)]  # a plan says which
Id = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**48)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
SealedShare = Annotated[bytes, Meta(min_length=_SEALED, max_length=_SEALED)]
Ciphertext = Annotated[bytes, Meta(min_length=kem.CIPHERTEXT_BYTES, max_length=kem.CIPHERTEXT_BYTES)]
OpenShare = Annotated[bytes, Meta(max_length=shares.SHARE_BYTES)]

UNSIGNED = bytes(64)  # stands where a signature will
MAX_SETTINGS = 64 << 10
MAX_PLAN = 1 << 20
_ROOM = 64  # tags, array headers and the session identifier


class Step(StrEnum):
    """The five exchanges of a session, in order."""

    ANNOUNCE = "announce"
    SHARE = "share"
    MASK = "mask"
    AGREE = "agree"
    UNMASK = "unmask"


class RoundPlan(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="plan"):
    """Everything public that a round depends on. A client takes part only if all of it fits its own record.

    `context` are 32-byte digests of what clients must have loaded, by name; `settings` is canonical JSON
    that this package does not read. `floor` is the least number of survivors.
    """

    version: Count
    run: Bytes16
    session_number: Count
    roster_digest: Bytes32
    roster_version: Count
    cohort: tuple[Id, ...]
    context: tuple[tuple[Name, Bytes32], ...]
    settings: Annotated[bytes, Meta(max_length=MAX_SETTINGS)]
    vectors: tuple[tuple[Name, Annotated[int, Meta(ge=1, le=2**32)]], ...]
    ring_bits: Annotated[int, Meta(ge=ring.MIN_BITS, le=ring.MAX_BITS)]
    adversary: Adversary
    colluders: Count
    quorum: Count
    threshold: Count
    floor: Count
    neighbours: Count

    @property
    def post_quantum(self) -> bool:
        """Whether keys are agreed with ML-KEM-768 as well."""
        return False

    @property
    def key_bytes(self) -> int:
        """The size of an announced public key."""
        return hybrid.PUBLIC_BYTES if self.post_quantum else keys.KEY_BYTES

    @property
    def parameters(self) -> Parameters:
        """The thresholds as one value."""
        return Parameters(
            self.adversary,
            len(self.cohort),
            self.colluders,
            self.quorum,
            self.threshold,
            self.neighbours,
            self.floor,
        )

    @property
    def upload_size(self) -> int:
        """Packed bytes of all vectors together."""
        return sum(ring.packed_size(length, self.ring_bits) for _, length in self.vectors)


class HybridPlan(RoundPlan, frozen=True, array_like=True, forbid_unknown_fields=True, tag="hybrid plan"):
    """The plan of a hybrid session. The tag says so, and through it every hash and signature of the session."""

    @property
    def post_quantum(self) -> bool:
        """Whether keys are agreed with ML-KEM-768 as well."""
        return True


Plan = RoundPlan | HybridPlan


class SignedPlan(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="signed plan"):
    """The server's opening message."""

    plan: Plan
    signature: Bytes64


class Signed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="signed"):
    """Whatever a client sends: one encoded message, signed for its session and step (envelope.py)."""

    body: bytes
    signature: Bytes64


class Announcement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="announcement"):
    """A client's keys of this session: X25519, or hybrid ones (SPEC.md, section 10)."""

    client: Id
    mask_key: PublicKey
    seal_key: PublicKey
    signature: Bytes64


class Announcements(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="announcements"):
    """All announcements, by ascending client."""

    session: Bytes32
    entries: tuple[Announcement, ...]


class Leaf(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="leaf"):
    """What one dealer deals to one holder: two sealed shares and the commitments to them."""

    holder: Id
    seed_commitment: Bytes32
    seed_box: SealedShare
    key_commitment: Bytes32
    key_box: SealedShare


class HybridLeaf(Leaf, frozen=True, array_like=True, forbid_unknown_fields=True, tag="hybrid leaf"):
    """A leaf of a hybrid session. The last three are empty unless the holder's id is above the dealer's."""

    seal_ciphertext: Ciphertext
    pad_commitment: Annotated[bytes, Meta(max_length=32)]
    pad_ciphertext: Annotated[bytes, Meta(max_length=kem.CIPHERTEXT_BYTES)]
    pad_box: Annotated[bytes, Meta(max_length=hybrid.BOX_BYTES)]


class Deal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="deal"):
    """A dealer's encoded leaves, by ascending holder."""

    dealer: Id
    seed_commitment: Bytes32
    leaves: tuple[bytes, ...]
    signature: Bytes64


class SignedRoot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="root"):
    """What everybody learns of a deal: its Merkle root, under the dealer's signature."""

    dealer: Id
    root: Bytes32
    seed_commitment: Bytes32
    signature: Bytes64


class Roots(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="roots"):
    """All signed roots, by ascending dealer."""

    session: Bytes32
    entries: tuple[SignedRoot, ...]


class Delivery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="delivery"):
    """One encoded leaf with its inclusion path."""

    dealer: Id
    leaf: bytes
    path: tuple[Bytes32, ...]


class Deliveries(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="deliveries"):
    """The encoded `Roots`, and one holder's leaves by ascending dealer."""

    session: Bytes32
    roots: bytes
    leaves: tuple[Delivery, ...]


class Upload(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="upload"):
    """The masked, packed vectors in the plan's order."""

    client: Id
    vectors: tuple[bytes, ...]
    signature: Bytes64


class Complaint(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="complaint"):
    """Instead of an upload, in hybrid sessions: the dealer's pad does not open for this client, in this view."""

    client: Id
    dealer: Id
    s2: Bytes32


class UploadDigest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="upload digest"):
    """The digest and the signature of one client's upload, without its vectors."""

    client: Id
    digest: Bytes32
    signature: Bytes64


class Uploads(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="uploads"):
    """The survivors, by ascending client. Everyone else who dealt has dropped."""

    session: Bytes32
    entries: tuple[UploadDigest, ...]


class Agreement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="agreement"):
    """One survivor's signature on the list of survivors, dropped clients and uploads."""

    signer: Id
    signature: Bytes64


class Quorum(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="quorum"):
    """Agreements by ascending signer."""

    session: Bytes32
    entries: tuple[Agreement, ...]


class OpenedShare(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="opened"):
    """One dealer's share; empty if the dealer's leaf did not open."""

    dealer: Id
    share: OpenShare

    def __repr__(self) -> str:
        return f"OpenedShare(dealer={self.dealer})"

    def __rich_repr__(self) -> list[tuple[str, int]]:
        return [("dealer", self.dealer)]


class Opening(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="opening"):
    """One holder's shares, by ascending dealer: of a survivor its seed's, of a dropped client its mask
    key's.
    """

    holder: Id
    shares: tuple[OpenedShare, ...]
    signature: Bytes64


Answer = Announcement | Deal | Upload | Complaint | Agreement | Opening
"""What a client sends, step by step, each in a `Signed`."""

Message = TypeVar("Message", bound=msgspec.Struct)

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type[msgspec.Struct], msgspec.msgpack.Decoder[msgspec.Struct]] = {}


def encode(message: object) -> bytes:
    """The canonical bytes of a message."""
    return _encoder.encode(message)


def decode(kind: type[Message], data: bytes, limit: int) -> Message:
    """The message in `data`, if it is a `kind` in canonical form and at most `limit` bytes long, else
    Malformed.
    """
    if len(data) > limit:
        raise Malformed(f"{len(data)} bytes, at most {limit} can be right")
    try:
        message = _decoder(kind).decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise Malformed(f"not a {kind.__name__} message") from None
    # Two byte forms of one message would have two hashes: clients that agree on its meaning would differ on S1 or S2.
    if _encoder.encode(message) != data:
        raise Malformed(f"not the canonical form of a {kind.__name__} message")
    return message


def session_in(kind: type[msgspec.Struct], data: bytes) -> bytes:
    """The session that relayed bytes name, read from their canonical beginning; everything else stays
    unchecked.
    """
    fields = len(kind.__struct_fields__) + 1
    start = bytes([0x90 | fields]) + encode(kind.__struct_config__.tag) + b"\xc4\x20"
    session = data[len(start) : len(start) + 32]
    if not data.startswith(start) or len(session) != 32:
        raise Malformed(f"not a {kind.__name__} message")
    return session


def ascending(ids: Sequence[int]) -> bool:
    """Whether ids ascend without repetition."""
    return all(map(lt, ids, ids[1:]))


def _decoder(kind: type[Message]) -> msgspec.msgpack.Decoder[Message]:
    if kind not in _decoders:
        _decoders[kind] = msgspec.msgpack.Decoder(kind)
    return _decoders[kind]  # type: ignore[return-value]  # the key fixes the value's type


def limit(kind: type[msgspec.Struct], plan: RoundPlan) -> int:
    """The most bytes that a message of this kind can have in a session of this plan."""
    n = len(plan.cohort)
    holders = plan.neighbours + 1
    announcement = 116 + 2 * plan.key_bytes
    leaf = 190 + 2300 * plan.post_quantum
    path = 34 * n.bit_length()
    sizes: dict[type[msgspec.Struct], int] = {
        Announcement: announcement,
        Announcements: announcement * n,
        Deal: 180 + (leaf + 3) * holders,
        Leaf: leaf + 3,
        HybridLeaf: leaf + 3,
        Roots: 190 * n,
        Deliveries: 190 * n + holders * (leaf + path + 40),
        Upload: 120 + plan.upload_size + 5 * len(plan.vectors),
        Complaint: 60,
        Uploads: 140 * n,
        Agreement: 100,
        Quorum: 100 * n,
        Opening: 110 + 60 * holders,
    }
    return _ROOM + sizes[kind]


def session_of(plan: RoundPlan) -> bytes:
    """The session's 32-byte name: a hash of the whole plan, and through it of the roster and the cohort."""
    return labels.digest(labels.HASH_SESSION, encode(plan), plan.roster_digest)


def announcement_payload(session: bytes, entry: Announcement) -> bytes:
    """What a client signs with its keys."""
    return session + entry.client.to_bytes(8, "big") + entry.mask_key + entry.seal_key


def root_payload(s1: bytes, entry: SignedRoot) -> bytes:
    """What a dealer signs with its deal."""
    return s1 + entry.dealer.to_bytes(8, "big") + entry.root + entry.seed_commitment


def upload_digest(vectors: Sequence[bytes | memoryview]) -> bytes:
    """The digest of masked vectors that an uploader signs."""
    return labels.digest_long(labels.HASH_UPLOAD, *vectors)


def digest_only(upload: Upload) -> UploadDigest:
    """An upload without its vectors."""
    return UploadDigest(upload.client, upload_digest(upload.vectors), upload.signature)


def upload_payload(s2: bytes, entry: UploadDigest) -> bytes:
    """What an uploader signs: its vectors' digest, under its own view of the session."""
    return s2 + entry.client.to_bytes(8, "big") + entry.digest


def list_digest(s2: bytes, survivors: Sequence[UploadDigest], dropped: Sequence[int]) -> bytes:
    """The 32 bytes that stand for one outcome: who survived with which upload, and who dropped."""
    alive = b"".join(entry.client.to_bytes(8, "big") + entry.digest for entry in survivors)
    lost = b"".join(client.to_bytes(8, "big") for client in dropped)
    return labels.digest(labels.HASH_LIST, labels.VERSION, s2, alive, lost)


def agreement_payload(outcome: bytes, signer: int) -> bytes:
    """What a survivor signs: the outcome and itself."""
    return outcome + signer.to_bytes(8, "big")


def opening_payload(outcome: bytes, holder: int, shares: Sequence[OpenedShare]) -> bytes:
    """What a holder signs with the shares that it opens."""
    opened = labels.digest(labels.HASH_OPENING, encode(tuple(shares)))
    return outcome + holder.to_bytes(8, "big") + opened
