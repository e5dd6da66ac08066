"""The Merkle tree of RFC 6962 (section 2.1): hashes, roots, inclusion and consistency proofs.

A tree of size n has leaves 0..n-1; position p of the log is leaf p-1. Functions that need hashes of complete
subtrees take a `Nodes`: the hash of the subtree of 2^level leaves that begins at leaf index * 2^level.
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()
Nodes = Callable[[int, int], bytes]


class ProofInvalid(ValueError):
    """A proof does not lead from what it claims to the root that was signed."""


def leaf_hash(data: bytes) -> bytes:
    """Hash of a leaf: SHA-256(0x00 || data)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node: SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def fold_subtree(hashes: Sequence[bytes]) -> bytes:
    """Root of a complete subtree, given the hashes of one level (a power of two of them)."""
    level = list(hashes)
    while len(level) > 1:
        level = [node_hash(level[i], level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


class CompactRange:
    """The right edge of a growing tree: roots of its complete subtrees, largest first. O(log n) memory."""

    def __init__(self, size: int = 0, edge: Iterable[bytes] = ()) -> None:
        self.size = size
        self._edge = list(edge)
        assert len(self._edge) == size.bit_count(), "one root per set bit of the size"

    def add(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Append a leaf hash; answers the inner nodes it completes, as (level, index, hash)."""
        completed = []
        node, level = leaf, 0
        while self.size >> level & 1:
            node = node_hash(self._edge.pop(), node)
            level += 1
            completed.append((level, self.size >> level, node))
        self._edge.append(node)
        self.size += 1
        return completed

    def root(self) -> bytes:
        """Root hash of the tree so far."""
        if not self._edge:
            return EMPTY_ROOT
        root = self._edge[-1]
        for left in reversed(self._edge[:-1]):
            root = node_hash(left, root)
        return root


def edge_of(size: int) -> list[tuple[int, int]]:
    """The complete subtrees a tree of this size consists of, largest first, as (level, index)."""
    subtrees, begin = [], 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            subtrees.append((level, begin >> level))
            begin += 1 << level
    return subtrees


def root_of(size: int, nodes: Nodes) -> bytes:
    """Root hash of the tree of the first `size` leaves."""
    return CompactRange(size, [nodes(level, index) for level, index in edge_of(size)]).root()


def inclusion_proof(leaf: int, size: int, nodes: Nodes) -> list[bytes]:
    """The audit path of a leaf in the tree of `size` leaves (RFC 6962, 2.1.1), nearest sibling first."""
    assert 0 <= leaf < size
    return _path(leaf, 0, size, nodes)


def consistency_proof(old: int, new: int, nodes: Nodes) -> list[bytes]:
    """Proof that the tree of `old` leaves is a prefix of the one of `new` leaves (RFC 6962, 2.1.2)."""
    assert 0 < old <= new
    return [] if old == new else _subproof(old, 0, new, nodes, whole=True)


def verify_inclusion(leaf: int, size: int, hashed: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Check an audit path (RFC 9162, 2.1.3.2).

    Raises:
        ProofInvalid: the leaf hash is not at this place in the tree with this root.
    """
    if not 0 <= leaf < size:
        raise ProofInvalid(f"leaf {leaf} is not in a tree of {size}")
    index, last, node = leaf, size - 1, hashed
    for sibling in proof:
        if last == 0:
            raise ProofInvalid("the proof is too long")
        if index & 1 or index == last:
            node = node_hash(sibling, node)
            while not index & 1 and index:
                index >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        index >>= 1
        last >>= 1
    if last != 0 or node != root:
        raise ProofInvalid(f"leaf {leaf} does not lead to the root of size {size}")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check a consistency proof (RFC 9162, 2.1.4.2).

    Raises:
        ProofInvalid: the old tree is not a prefix of the new one.
    """
    if not 0 < old <= new:
        raise ProofInvalid(f"no tree of {old} is a prefix of one of {new}")
    if old == new:
        if proof or old_root != new_root:
            raise ProofInvalid("trees of one size have one root and an empty proof")
        return
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        raise ProofInvalid("the proof is empty")
    index, last = old - 1, new - 1
    while index & 1:
        index >>= 1
        last >>= 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofInvalid("the proof is too long")
        if index & 1 or index == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not index & 1 and index:
                index >>= 1
                last >>= 1
        else:
            second = node_hash(second, sibling)
        index >>= 1
        last >>= 1
    if last != 0 or first != old_root or second != new_root:
        raise ProofInvalid(f"the tree of {old} is not a prefix of the one of {new}")


def _split(size: int) -> int:
    """The largest power of two smaller than `size` (at least 2)."""
    return 1 << (size - 1).bit_length() - 1


def _range_root(begin: int, size: int, nodes: Nodes) -> bytes:
    """Root of `size` leaves from `begin`, which is a multiple of the next power of two."""
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return nodes(level, begin >> level)
    split = _split(size)
    return node_hash(_range_root(begin, split, nodes), _range_root(begin + split, size - split, nodes))


def _path(leaf: int, begin: int, size: int, nodes: Nodes) -> list[bytes]:
    if size == 1:
        return []
    split = _split(size)
    if leaf < split:
        return [*_path(leaf, begin, split, nodes), _range_root(begin + split, size - split, nodes)]
    return [*_path(leaf - split, begin + split, size - split, nodes), _range_root(begin, split, nodes)]


def _subproof(old: int, begin: int, size: int, nodes: Nodes, *, whole: bool) -> list[bytes]:
    if old == size:
        return [] if whole else [_range_root(begin, size, nodes)]
    split = _split(size)
    if old <= split:
        right = _range_root(begin + split, size - split, nodes)
        return [*_subproof(old, begin, split, nodes, whole=whole), right]
    left = _range_root(begin, split, nodes)
    return [*_subproof(old - split, begin + split, size - split, nodes, whole=False), left]
