"""The Merkle tree against the definition of RFC 6962, and its proofs against tampering."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.audit.merkle import (
    EMPTY_ROOT,
    CompactRange,
    ProofInvalid,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# The test vectors of RFC 6962's reference implementation: eight leaves and the roots of their prefixes.
LEAVES = [bytes.fromhex(x) for x in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657",
                                     "606162636465666768696a6b6c6d6e6f")]  # fmt: skip
ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01" + definition(leaves[:split]) + definition(leaves[split:])).digest()


class Tree:
    """A tree of test leaves that remembers every node."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.leaves = leaves
        self._nodes: dict[tuple[int, int], bytes] = {}
        edge = CompactRange()
        for index, leaf in enumerate(leaves):
            self._nodes[0, index] = leaf_hash(leaf)
            self._nodes.update({(level, at): node for level, at, node in edge.add(leaf_hash(leaf))})
        self.root = edge.root()

    def nodes(self, level: int, index: int) -> bytes:
        return self._nodes[level, index]


def tree(size: int) -> Tree:
    return Tree([b"fact %d" % number for number in range(size)])


@pytest.mark.parametrize("size", ROOTS)
def test_roots_are_those_of_the_reference_vectors(size: int) -> None:
    assert Tree(LEAVES[:size]).root.hex() == ROOTS[size]


def test_the_empty_tree_has_the_hash_of_nothing_as_its_root() -> None:
    assert CompactRange().root() == EMPTY_ROOT == sha256().digest()


@given(st.integers(0, 70))
def test_a_growing_tree_has_the_root_of_the_definition(size: int) -> None:
    assert tree(size).root == definition(tree(size).leaves)


@given(st.integers(1, 70), st.data())
def test_the_root_of_any_prefix_comes_from_its_complete_subtrees(size: int, data: st.DataObject) -> None:
    prefix = data.draw(st.integers(1, size))
    assert root_of(prefix, tree(size).nodes) == definition(tree(size).leaves[:prefix])


@given(st.integers(1, 70), st.data())
def test_every_leaf_can_be_proved_to_be_where_it_is(size: int, data: st.DataObject) -> None:
    leaf = data.draw(st.integers(0, size - 1))
    grown = tree(size)
    proof = inclusion_proof(leaf, size, grown.nodes)
    verify_inclusion(leaf, size, leaf_hash(grown.leaves[leaf]), proof, grown.root)


@given(st.integers(2, 70), st.data())
def test_a_leaf_cannot_be_proved_to_be_anywhere_else(size: int, data: st.DataObject) -> None:
    leaf, other = data.draw(st.lists(st.integers(0, size - 1), min_size=2, max_size=2, unique=True))
    grown = tree(size)
    proof = inclusion_proof(leaf, size, grown.nodes)
    with pytest.raises(ProofInvalid):
        verify_inclusion(other, size, leaf_hash(grown.leaves[leaf]), proof, grown.root)


@given(st.integers(2, 70), st.data())
def test_a_proof_with_one_bit_changed_proves_nothing(size: int, data: st.DataObject) -> None:
    leaf = data.draw(st.integers(0, size - 1))
    grown = tree(size)
    proof = inclusion_proof(leaf, size, grown.nodes)
    at, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 255))
    flipped = (int.from_bytes(proof[at], "big") ^ (1 << bit)).to_bytes(32, "big")
    with pytest.raises(ProofInvalid):
        verify_inclusion(
            leaf, size, leaf_hash(grown.leaves[leaf]), [*proof[:at], flipped, *proof[at + 1 :]], grown.root
        )


@given(st.integers(1, 70), st.data())
def test_every_prefix_can_be_proved_to_be_one(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size))
    grown = tree(size)
    proof = consistency_proof(old, size, grown.nodes)
    verify_consistency(old, size, tree(old).root, grown.root, proof)


@given(st.integers(2, 70), st.data())
def test_a_history_that_was_rewritten_is_no_prefix(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size - 1))
    changed = data.draw(st.integers(0, old - 1))
    rewritten = Tree([b"lie" if at == changed else leaf for at, leaf in enumerate(tree(size).leaves)])
    with pytest.raises(ProofInvalid):
        verify_consistency(old, size, tree(old).root, rewritten.root, consistency_proof(old, size, rewritten.nodes))


@given(st.integers(2, 70), st.data())
def test_a_proof_that_is_too_short_or_too_long_is_refused(size: int, data: st.DataObject) -> None:
    leaf = data.draw(st.integers(0, size - 1))
    grown = tree(size)
    proof = inclusion_proof(leaf, size, grown.nodes)
    for wrong in (proof[:-1], [*proof, proof[-1]]):
        with pytest.raises(ProofInvalid):
            verify_inclusion(leaf, size, leaf_hash(grown.leaves[leaf]), wrong, grown.root)
