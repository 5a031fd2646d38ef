import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import merkle

# The eight leaves and roots of the Certificate Transparency reference tests (RFC 6962).
CT_LEAVES = [
    bytes.fromhex(h)
    for h in [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ]
]
CT_ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def slow_root(leaves):
    """RFC 6962 2.1 word for word: split at the largest power of two below the size."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + slow_root(leaves[:split]) + slow_root(leaves[split:])).digest()


@pytest.mark.parametrize("size", sorted(CT_ROOTS))
def test_roots_equal_the_published_ones(size):
    hashes = [merkle.leaf_hash(leaf) for leaf in CT_LEAVES[:size]]
    assert merkle.root(hashes).hex() == CT_ROOTS[size]


@given(st.lists(st.binary(max_size=8), max_size=40))
def test_roots_equal_the_recursive_definition(leaves):
    assert merkle.root([merkle.leaf_hash(leaf) for leaf in leaves]) == slow_root(leaves)


@pytest.mark.parametrize("size", [*range(1, 18), 51, 64, 65])
def test_every_leaf_of_every_tree_proves_itself_and_nothing_else(size):
    hashes = [merkle.leaf_hash(bytes([i])) for i in range(size)]
    root = merkle.root(hashes)
    assert merkle.inclusion_paths(hashes) == tuple(merkle.inclusion_path(hashes, i) for i in range(size))
    for index, path in enumerate(merkle.inclusion_paths(hashes)):
        assert merkle.root_from_path(hashes[index], index, size, path) == root
        assert merkle.root_from_path(merkle.leaf_hash(b"other"), index, size, path) != root
        for other in range(size):
            if other != index and len(merkle.inclusion_path(hashes, other)) == len(path):
                assert merkle.root_from_path(hashes[index], other, size, path) != root


def test_a_path_of_the_wrong_length_is_refused():
    hashes = [merkle.leaf_hash(bytes([i])) for i in range(5)]
    path = merkle.inclusion_path(hashes, 2)
    with pytest.raises(merkle.BadProof):
        merkle.root_from_path(hashes[2], 2, 5, path[:-1])
    with pytest.raises(merkle.BadProof):
        merkle.root_from_path(hashes[2], 2, 5, (*path, path[0]))
    with pytest.raises(IndexError):
        merkle.root_from_path(hashes[2], 5, 5, path)
    with pytest.raises(IndexError):
        merkle.inclusion_path(hashes, 5)


def test_an_inner_node_does_not_pass_for_a_leaf():
    hashes = [merkle.leaf_hash(bytes([i])) for i in range(4)]
    assert merkle.leaf_hash(hashes[0] + hashes[1]) != merkle.inclusion_path(hashes, 2)[-1]


def stored(hashes):
    """Subtree roots by (level, index), as a log keeps them; asks are counted."""
    asked = []

    def nodes(level, index):
        asked.append((level, index))
        assert (index + 1) << level <= len(hashes), "only complete subtrees are stored"
        return merkle.root(hashes[index << level : (index + 1) << level])

    return nodes, asked


@pytest.mark.parametrize("size", [*range(1, 18), 51, 64, 65])
def test_a_proof_from_stored_subtrees_is_the_same_path(size):
    hashes = [merkle.leaf_hash(bytes([i])) for i in range(size)]
    nodes, _ = stored(hashes)
    assert [merkle.inclusion_proof(nodes, i, size) for i in range(size)] == list(merkle.inclusion_paths(hashes))


def slow_consistency(first, leaves, complete=True):
    """SUBPROOF of RFC 6962 2.1.2 word for word."""
    if first == len(leaves):
        return [] if complete else [slow_root(leaves)]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if first <= split:
        return [*slow_consistency(first, leaves[:split], complete), slow_root(leaves[split:])]
    return [*slow_consistency(first - split, leaves[split:], False), slow_root(leaves[:split])]


@pytest.mark.parametrize("second", [*range(1, 18), 33, 50, 64])
def test_every_tree_proves_every_tree_that_it_grew_from_and_no_other(second):
    leaves = [bytes([i]) for i in range(second)]
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    nodes, _ = stored(hashes)
    end = merkle.root(hashes)
    for first in range(1, second + 1):
        proof = merkle.consistency_proof(nodes, first, second)
        assert list(proof) == slow_consistency(first, leaves)
        start = merkle.root(hashes[:first])
        merkle.check_consistency(first, start, second, end, proof)
        other = merkle.root([*hashes[: first - 1], merkle.leaf_hash(b"other")])
        for wrong in [(other, end), (start, other)]:
            with pytest.raises(merkle.BadProof):
                merkle.check_consistency(first, wrong[0], second, wrong[1], proof)
        for wrong in [(*proof, end), proof[:-1] if proof else (start,)]:
            with pytest.raises(merkle.BadProof):
                merkle.check_consistency(first, start, second, end, wrong)
        for place in range(len(proof)):
            flipped = [*proof[:place], merkle.leaf_hash(proof[place]), *proof[place + 1 :]]
            with pytest.raises(merkle.BadProof):
                merkle.check_consistency(first, start, second, end, flipped)


def test_an_impossible_growth_is_refused():
    nodes, _ = stored([merkle.leaf_hash(b"0")])
    for first, second in [(0, 1), (2, 1), (-1, 1)]:
        with pytest.raises(IndexError):
            merkle.consistency_proof(nodes, first, second)
        with pytest.raises(IndexError):
            merkle.check_consistency(first, b"", second, b"", ())


def test_proofs_ask_for_few_of_the_stored_subtrees():
    hashes = [merkle.leaf_hash(i.to_bytes(2)) for i in range(1000)]
    for make in (merkle.inclusion_proof, merkle.consistency_proof):
        nodes, asked = stored(hashes)
        make(nodes, 700, 1000)
        assert len(asked) <= 30


def test_there_is_no_proof_for_a_leaf_that_is_not_there():
    for index in (-1, 3, 4):
        with pytest.raises(IndexError):
            merkle.inclusion_proof(lambda level, index: bytes(32), index, 3)
