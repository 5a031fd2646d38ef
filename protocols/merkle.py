"""Merkle trees as in RFC 6962, section 2.1: roots and inclusion proofs.

Generic on purpose: leaves are bytes and nothing here knows what they mean. Leaf and node hashes carry
different prefixes, so that no inner node can be passed off as a leaf (second-preimage attack).

A proof shows that a leaf stands at one index of a tree of one size. Size and index are arguments, never
taken from the proof: the caller must know them from its own record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

HASH_BYTES = 32

_LEAF = b"\x00"
_NODE = b"\x01"


class BadProof(ValueError):
    """A proof that does not have the length which its index and size require."""


def leaf_hash(leaf: bytes) -> bytes:
    """SHA-256(0x00 || leaf), the 32-byte hash of one leaf."""
    return hashlib.sha256(_LEAF + leaf).digest()


def root(leaf_hashes: Sequence[bytes]) -> bytes:
    """The 32-byte root over leaf hashes in order; the empty tree has root SHA-256("")."""
    if not leaf_hashes:
        return hashlib.sha256(b"").digest()
    level = list(leaf_hashes)
    while len(level) > 1:
        level = _level_above(level)
    return level[0]


def inclusion_path(leaf_hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The sibling hashes from leaf `index` up to the root, lowest first (RFC 6962, 2.1.1).

    Raises IndexError if there is no such leaf.
    """
    if not 0 <= index < len(leaf_hashes):
        raise IndexError(f"no leaf {index} in a tree of {len(leaf_hashes)}")
    path: list[bytes] = []
    level = list(leaf_hashes)
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        index //= 2
        level = _level_above(level)
    return tuple(path)


def inclusion_paths(leaf_hashes: Sequence[bytes]) -> tuple[tuple[bytes, ...], ...]:
    """`inclusion_path` of every leaf, hashing each inner node once."""
    paths: list[list[bytes]] = [[] for _ in leaf_hashes]
    level = list(leaf_hashes)
    depth = 0
    while len(level) > 1:
        for index, path in enumerate(paths):
            sibling = (index >> depth) ^ 1
            if sibling < len(level):
                path.append(level[sibling])
        level = _level_above(level)
        depth += 1
    return tuple(tuple(path) for path in paths)


def root_from_path(leaf_hash: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that `path` gives for a leaf at `index` of a tree of `size` leaves.

    The caller compares it with a root it trusts. Raises IndexError for an impossible index, BadProof if the
    path has more or fewer hashes than that position needs.
    """
    if not 0 <= index < size:
        raise IndexError(f"no leaf {index} in a tree of {size}")
    node, used, last = leaf_hash, 0, size - 1
    while last > 0:
        if index % 2 == 1 or index < last:
            if used == len(path):
                raise BadProof("inclusion path is too short")
            node = _node(path[used], node) if index % 2 == 1 else _node(node, path[used])
            used += 1
        index //= 2
        last //= 2
    if used != len(path):
        raise BadProof("inclusion path is too long")
    return node


def _level_above(level: Sequence[bytes]) -> list[bytes]:
    """Parents of one level; an odd last node moves up unhashed, as RFC 6962 splits at powers of two."""
    above = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    if len(level) % 2 == 1:
        above.append(level[-1])
    return above


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()
