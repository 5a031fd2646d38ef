"""What the server sees of a session, field by field, and why each is allowed to be seen.

Completeness is tested against the protocol's messages: a field that is not listed here fails the suite.
"""

from dataclasses import dataclass
from enum import StrEnum


class Cover(StrEnum):
    """What stands between a field and the data behind it."""

    PUBLIC = "public"  # known to everybody before training, or made from what is
    KEY_MATERIAL = "key material"  # fresh randomness, independent of all data
    MASKED = "masked"  # uniform to everybody but its sender; only its sum is ever opened
    CHARGED = "charged"  # a function of data, noised, with an entry in the ledger
    PARTICIPATION = "participation"  # who took part and when: not hidden, and independent of the data by design


@dataclass(frozen=True)
class Exposure:
    """One thing the server sees."""

    name: str
    cover: Cover
    meaning: str


_WHO = (Cover.PARTICIPATION, "which enrolled client this is about")
_SIGNED = (Cover.PUBLIC, "an Ed25519 signature over public bytes")
_COMMITTED = (Cover.KEY_MATERIAL, "a hash that binds a dealer to a share or seed of full entropy")

MESSAGES: dict[str, dict[str, tuple[Cover, str]]] = {
    "announcement": {
        "client": _WHO,
        "mask_key": (Cover.KEY_MATERIAL, "a fresh X25519 public key"),
        "seal_key": (Cover.KEY_MATERIAL, "a fresh X25519 public key"),
        "signature": _SIGNED,
    },
    "deal": {
        "dealer": _WHO,
        "seed_commitment": _COMMITTED,
        "leaves": (Cover.KEY_MATERIAL, "one leaf for each holder"),
        "signature": _SIGNED,
    },
    "leaf": {
        "holder": _WHO,
        "seed_commitment": _COMMITTED,
        "seed_box": (Cover.KEY_MATERIAL, "an encrypted share, readable by its holder alone"),
        "key_commitment": _COMMITTED,
        "key_box": (Cover.KEY_MATERIAL, "an encrypted share, readable by its holder alone"),
    },
    "hybrid leaf": {
        "holder": _WHO,
        "seed_commitment": _COMMITTED,
        "seed_box": (Cover.KEY_MATERIAL, "an encrypted share, readable by its holder alone"),
        "key_commitment": _COMMITTED,
        "key_box": (Cover.KEY_MATERIAL, "an encrypted share, readable by its holder alone"),
        "seal_ciphertext": (Cover.KEY_MATERIAL, "an ML-KEM-768 ciphertext to the holder's key"),
        "pad_commitment": (Cover.KEY_MATERIAL, "a hash of the pad, which has full entropy"),
        "pad_ciphertext": (Cover.KEY_MATERIAL, "an ML-KEM-768 ciphertext to the holder's mask key"),
        "pad_box": (Cover.KEY_MATERIAL, "the encrypted pad of one pair"),
    },
    "upload": {
        "client": _WHO,
        "vectors": (Cover.MASKED, "update and scores, clipped, noised and masked"),
        "signature": _SIGNED,
    },
    "complaint": {
        "client": _WHO,
        "dealer": (Cover.KEY_MATERIAL, "whose pad does not open for this client, which then uploads nothing"),
        "s2": (Cover.PUBLIC, "the hash of what was announced and dealt, as this client saw it"),
    },
    "agreement": {"signer": _WHO, "signature": _SIGNED},
    "opening": {
        "holder": _WHO,
        "shares": (Cover.KEY_MATERIAL, "one share for each dealer"),
        "signature": _SIGNED,
    },
    "opened": {
        "dealer": _WHO,
        "share": (
            Cover.KEY_MATERIAL,
            "a share of a survivor's self mask or of a dropped client's mask key, never both",
        ),
    },
    "signed": {"body": (Cover.PUBLIC, "one of the messages above, field by field"), "signature": _SIGNED},
}
"""Tag of a message that clients send -> its fields."""

RELEASED = (
    Exposure("sum of updates", Cover.CHARGED, "over at least the stated number of honest survivors, with their noise"),
    Exposure("sum of weights", Cover.CHARGED, "one coordinate of the same noised vector"),
    Exposure("sum of gains", Cover.CHARGED, "one coordinate of the same noised vector"),
    Exposure(
        "clients within the clip norm", Cover.CHARGED, "with an adaptive clip: one coordinate of the same noised vector"
    ),
)

BESIDES = (
    Exposure("refusals", Cover.PUBLIC, "a client's public reason to stay out: the plan, its policy or its budget"),
    Exposure("times and sizes of messages", Cover.PARTICIPATION, "sizes follow from the plan; times are not hidden"),
    Exposure(
        "signatures on the ledger",
        Cover.PARTICIPATION,
        "each client's signature on the checkpoints that it saw, with the newest roster that it knows and the sessions "
        "that it paid for and was lost in",
    ),
    Exposure(
        "whether a masked vector may have left",
        Cover.PARTICIPATION,
        "after a crash of the server: a client's answer for the sessions that were open",
    ),
    Exposure(
        "requests over HTTPS",
        Cover.PARTICIPATION,
        "between machines: a client's address, id, key and clock, the length and digest of what it brings",
    ),
)


def rows(released: Cover, post_quantum: bool = False) -> list[dict[str, str]]:
    """Everything as plain objects. `released` says how the opened sums are covered: charged, or only masked.
    A session has leaves of one kind: `post_quantum` says which, and only then are there pads to complain about.
    """
    absent = ("leaf",) if post_quantum else ("hybrid leaf", "complaint")
    fields = [
        Exposure(f"{tag}.{name}", cover, meaning)
        for tag, parts in MESSAGES.items()
        if tag not in absent
        for name, (cover, meaning) in parts.items()
    ]
    sums = [Exposure(each.name, released, each.meaning) for each in RELEASED]
    return [{"name": e.name, "cover": e.cover.value, "meaning": e.meaning} for e in (*fields, *sums, *BESIDES)]
