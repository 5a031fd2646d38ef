import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from protocols import keys, labels
from protocols.errors import Malformed

ALICE, BOB = bytes(range(32)), bytes(range(32, 64))
S1, S2 = b"1" * 32, b"2" * 32
SHARE = bytes(range(33))

# The u-coordinates of small order on Curve25519 and its twist, reduced or not (as libsodium lists them).
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


def test_agreement_equals_another_library():
    private = X25519PrivateKey.from_private_bytes(ALICE)
    assert keys.public_key(ALICE) == private.public_key().public_bytes_raw()
    theirs = X25519PublicKey.from_public_bytes(keys.public_key(BOB))
    assert keys.agree(ALICE, keys.public_key(BOB)) == private.exchange(theirs)


def test_both_sides_agree_and_nobody_else_does():
    shared = keys.agree(ALICE, keys.public_key(BOB))
    assert shared == keys.agree(BOB, keys.public_key(ALICE))
    assert shared != keys.agree(bytes(32), keys.public_key(ALICE))


@pytest.mark.parametrize("point", LOW_ORDER)
def test_points_of_small_order_are_refused(point):
    with pytest.raises(keys.LowOrderPoint):
        keys.agree(ALICE, bytes.fromhex(point))
    with pytest.raises(keys.LowOrderPoint):
        keys.refuse_low_order(bytes.fromhex(point))
    high_bit = bytearray(bytes.fromhex(point))
    high_bit[31] |= 0x80
    with pytest.raises(keys.LowOrderPoint):
        keys.agree(ALICE, bytes(high_bit))


def test_an_honest_public_key_is_not_refused():
    keys.refuse_low_order(keys.public_key(ALICE))


def test_every_mask_key_depends_on_session_clients_and_vector():
    made = [
        keys.pair_key(ALICE, S2, 1, 2, "update"),
        keys.pair_key(BOB, S2, 1, 2, "update"),
        keys.pair_key(ALICE, S1, 1, 2, "update"),
        keys.pair_key(ALICE, S2, 1, 3, "update"),
        keys.pair_key(ALICE, S2, 1, 2, "scores"),
        keys.self_key(ALICE, S2, 1, "update"),
        keys.self_key(ALICE, S1, 1, "update"),
        keys.self_key(ALICE, S2, 2, "update"),
        keys.self_key(ALICE, S2, 1, "scores"),
    ]
    assert len(set(made)) == len(made)
    assert keys.pair_key(ALICE, S2, 2, 1, "update") == made[0]


def seal(share=SHARE, dealer=1, holder=2, s1=S1, shared=ALICE, kind=keys.SEED):
    hashes = tuple(keys.share_commitment(s1, dealer, holder, k, share) for k in (keys.SEED, keys.MASK_KEY))
    return keys.Seal.between(shared, s1, dealer, holder, hashes).close(kind, share), hashes


def open_as(box, hashes, dealer=1, holder=2, s1=S1, shared=ALICE, kind=keys.SEED):
    commitment = keys.share_commitment(s1, dealer, holder, kind, SHARE)
    return keys.Seal.between(shared, s1, dealer, holder, hashes).open(kind, box, commitment)


def test_a_sealed_share_opens_for_its_holder():
    box, hashes = seal()
    assert open_as(box, hashes) == SHARE


@pytest.mark.parametrize(
    "other",
    [
        {"dealer": 2, "holder": 1},
        {"dealer": 3},
        {"holder": 3},
        {"s1": S2},
        {"shared": BOB},
        {"kind": keys.MASK_KEY},
    ],
)
def test_a_sealed_share_opens_in_no_other_place(other):
    """The first case is the reflection of a dealer's own box (SECAGG.md's G1)."""
    box, hashes = seal()
    with pytest.raises(Malformed):
        open_as(box, hashes, **other)


def test_a_changed_box_does_not_open():
    box, hashes = seal()
    for place in (0, 20, len(box) - 1):
        changed = bytearray(box)
        changed[place] ^= 1
        with pytest.raises(Malformed):
            open_as(bytes(changed), hashes)


def test_a_box_with_another_share_than_committed_to_is_refused():
    box, hashes = seal()
    seal_ = keys.Seal.between(ALICE, S1, 1, 2, hashes)
    with pytest.raises(Malformed, match="commitment"):
        seal_.open(keys.SEED, box, keys.share_commitment(S1, 1, 2, keys.SEED, bytes(33)))


def test_other_shares_are_sealed_under_another_key():
    """Else repeating the share step with fresh randomness would use one key and nonce for two plaintexts."""
    one, _ = seal()
    other, _ = seal(share=bytes(33))
    keystream = bytes(a ^ b for a, b in zip(one[:33], SHARE, strict=True))
    assert bytes(a ^ b for a, b in zip(other[:33], keystream, strict=True)) != bytes(33)


def test_no_label_is_used_twice():
    words = [value for name, value in vars(labels).items() if name.split("_")[0] in {"SIGN", "HASH", "KEY", "COMMIT"}]
    words.append(labels.SEALED_SHARE)
    assert len(words) == len(set(words)) > 20
