"""Merkle trees as in RFC 6962, section 2.1: roots, inclusion proofs and consistency proofs.

Generic on purpose: leaves are bytes and nothing here knows what they mean. Leaf and node hashes carry
different prefixes, so that no inner node can be passed off as a leaf (second-preimage attack).

An inclusion proof shows that a leaf stands at one index of a tree of one size, a consistency proof that one
tree begins with all the leaves of another. Sizes and index are arguments, never taken from the proof: the caller
must know them from its own record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

HASH_BYTES = 32

_LEAF = b"\x00"
_NODE = b"\x01"


Nodes = Callable[[int, int], bytes]
"""(level, index) -> root of the complete subtree over leaves [index << level, (index + 1) << level)."""


class BadProof(ValueError):
    """A proof of the wrong length for its index and sizes, or one that does not lead to the roots it is for."""


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
        # The last node of an odd level has no sibling and rises as it is: the proof skips it.
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


def inclusion_proof(nodes: Nodes, index: int, size: int) -> tuple[bytes, ...]:
    """`inclusion_path` from stored subtree roots: asks for O(log size) of them.

    Raises IndexError if there is no such leaf.
    """
    if not 0 <= index < size:
        raise IndexError(f"no leaf {index} in a tree of {size}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _left_size(end - start)
        if index < middle:
            path.append(_range_root(nodes, middle, end))
            end = middle
        else:
            path.append(_range_root(nodes, start, middle))
            start = middle
    return tuple(reversed(path))


def consistency_proof(nodes: Nodes, first: int, second: int) -> tuple[bytes, ...]:
    """The hashes that lead from the first `first` leaves to all `second` (RFC 6962, 2.1.2).

    Raises IndexError unless 0 < first <= second.
    """
    if not 0 < first <= second:
        raise IndexError(f"no tree of {first} leaves begins one of {second}")
    proof: list[bytes] = []
    start, end, whole = 0, second, True  # whole: the first tree's root is known to the verifier, not sent
    while end != first:
        middle = start + _left_size(end - start)
        if first <= middle:
            proof.append(_range_root(nodes, middle, end))
            end = middle
        else:
            proof.append(_range_root(nodes, start, middle))
            start, whole = middle, False
    if not whole:
        proof.append(_range_root(nodes, start, end))
    return tuple(reversed(proof))


def check_consistency(first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]) -> None:
    """Returns if the tree of `second` leaves begins with that of `first` (RFC 9162, 2.1.4.2); else raises BadProof.

    Raises IndexError unless 0 < first <= second.
    """
    if not 0 < first <= second:
        raise IndexError(f"no tree of {first} leaves begins one of {second}")
    power_of_two = first & (first - 1) == 0  # then the first root is itself a node of the second tree
    steps = [first_root, *proof] if power_of_two or first == second else list(proof)
    if not steps:
        raise BadProof("consistency proof is too short")
    old, new = (0, 0) if first == second else (first - 1, second - 1)
    # Up to the largest complete subtree that ends where the first tree does: its root is what the proof begins with.
    while old & 1:
        old, new = old >> 1, new >> 1
    old_root = new_root = steps[0]
    for node in steps[1:]:
        if new == 0:
            raise BadProof("consistency proof is too long")
        if old & 1 or old == new:
            old_root, new_root = _node(node, old_root), _node(node, new_root)
            while old and not old & 1:
                old, new = old >> 1, new >> 1
        else:
            new_root = _node(new_root, node)
        old, new = old >> 1, new >> 1
    if new:
        raise BadProof("consistency proof is too short")
    # Both: a proof of the new root alone would accept any old one, and with it a rewritten history.
    if (old_root, new_root) != (first_root, second_root):
        raise BadProof("consistency proof does not lead to both roots")


def _left_size(size: int) -> int:
    """The largest power of two below `size`, which is at least 2: where RFC 6962 splits."""
    return 1 << (size - 1).bit_length() - 1


def _range_root(nodes: Nodes, start: int, end: int) -> bytes:
    """The root over leaves [start, end), where `start` is a multiple of a power of two of at least that length."""
    size = end - start
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return nodes(level, start >> level)
    middle = start + _left_size(size)
    return _node(_range_root(nodes, start, middle), _range_root(nodes, middle, end))


def _level_above(level: Sequence[bytes]) -> list[bytes]:
    """Parents of one level; an odd last node moves up unhashed, as RFC 6962 splits at powers of two."""
    above = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    if len(level) % 2 == 1:
        above.append(level[-1])
    return above


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()
