"""The sealed log: its Merkle tree and checkpoints in Postgres, and the search for the first lie."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import psycopg

from domain.audit.checkpoint import Checkpoint, CheckpointInvalid, Verifier, verify
from domain.audit.leaf import leaf_data
from domain.audit.merkle import CompactRange, edge_of, fold_subtree, leaf_hash

from .archive import ArchiveUnreadable
from .event_store.reader import LogReader, Record

STORED_LEVELS = 8
"""Levels 0, 8, 16, ... are stored; a node between them is folded from at most 128 stored ones."""
BATCH = 2_000

_NODES = "SELECT hash FROM log.hashes WHERE level = %s AND index >= %s AND index < %s ORDER BY index"
_HASHED = "SELECT index + 1 FROM log.hashes WHERE level = 0 ORDER BY index DESC LIMIT 1"
_ADD = "INSERT INTO log.hashes (level, index, hash) SELECT * FROM unnest(%b::smallint[], %b::bigint[], %b::bytea[])"


class NotSealed(LookupError):
    """The tree does not reach this far: wait for the sealer."""


class SealedLog:
    """Merkle tree and checkpoints of one log, over a connection the caller owns."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def hashed(self) -> int:
        """How many facts the tree covers."""
        row = self._connection.execute(_HASHED).fetchone()
        return 0 if row is None else int(row[0])

    def node(self, level: int, index: int) -> bytes:
        """Hash of a complete subtree.

        Raises:
            NotSealed: the tree does not have it yet.
        """
        above = level % STORED_LEVELS
        begin = index << above
        rows = self._connection.execute(_NODES, (level - above, begin, begin + (1 << above)), prepare=True).fetchall()
        if len(rows) != 1 << above:
            raise NotSealed(f"subtree {index} of level {level}")
        return fold_subtree([bytes(digest) for (digest,) in rows])

    def edge(self, size: int) -> CompactRange:
        """The right edge of the tree of the first `size` facts."""
        return CompactRange(size, [self.node(level, index) for level, index in edge_of(size)])

    def extend(self, edge: CompactRange, records: Sequence[Record]) -> None:
        """Add facts to the tree, in the caller's transaction."""
        nodes: list[tuple[int, int, bytes]] = []
        for record in records:
            digest = record_hash(record)
            nodes.append((0, edge.size, digest))
            nodes += [node for node in edge.add(digest) if node[0] % STORED_LEVELS == 0]
        if nodes:
            self._connection.execute(_ADD, [list(column) for column in zip(*nodes, strict=True)])

    def leaf_hashes(self, begin: int, end: int) -> list[bytes]:
        """Stored hashes of leaves begin..end-1, as far as there are any."""
        return [bytes(digest) for (digest,) in self._connection.execute(_NODES, (0, begin, end), prepare=True)]

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Every (size, note), smallest first."""
        yield from self._connection.execute("SELECT size, note FROM log.checkpoints ORDER BY size").fetchall()

    def newest_checkpoint(self) -> tuple[int, str] | None:
        """The (size, note) of the largest checkpoint."""
        return self._connection.execute("SELECT size, note FROM log.checkpoints ORDER BY size DESC LIMIT 1").fetchone()

    def checkpoint(self, size: int) -> str | None:
        """The note of the checkpoint of this size."""
        row = self._connection.execute("SELECT note FROM log.checkpoints WHERE size = %s", (size,)).fetchone()
        return None if row is None else str(row[0])

    def add_checkpoint(self, size: int, note: str) -> None:
        """Keep a signed checkpoint, in the caller's transaction."""
        self._connection.execute(
            "INSERT INTO log.checkpoints (size, note, sealed_at) VALUES (%s, %s, clock_timestamp())", (size, note)
        )


class Verdict(msgspec.Struct, frozen=True):
    """What an audit found. `first_lie` is a position (of the first fact that is not as sealed), 0 for none."""

    facts: int
    sealed: int
    checkpoints: int
    first_lie: int = 0
    reason: str = ""

    @property
    def honest(self) -> bool:
        return not self.reason


class _Lie(Exception):
    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position
        self.reason = reason


def audit(
    connection: psycopg.Connection[Any],
    trusted: list[Verifier],
    progress: Callable[[int, int], None] | None = None,
    kept: str | None = None,
) -> Verdict:
    """Recompute the whole tree from the stored facts and check every checkpoint's root and signature.

    Names the first position whose fact was altered, removed, inserted or reordered after it was sealed. Facts that
    are not sealed yet are only checked to be without gaps.

    Args:
        trusted: the keys that may have signed; get them from elsewhere than this database.
        progress: called with (facts checked, facts in all).
        kept: a checkpoint from elsewhere, which tells even when the later ones were removed with their facts.

    Raises:
        CheckpointInvalid: `kept` is malformed, or none of the trusted keys has signed it.
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return _Audit(connection, trusted, progress or (lambda done, total: None), kept).run()


class _Audit:
    def __init__(
        self,
        connection: psycopg.Connection[Any],
        trusted: list[Verifier],
        progress: Callable[[int, int], None],
        kept: str | None,
    ) -> None:
        self._sealed_log = SealedLog(connection)
        self._reader = LogReader(connection)
        self._trusted = trusted
        self._progress = progress
        stored = list(self._sealed_log.checkpoints())
        elsewhere = [] if kept is None else [(verify(kept, trusted).size, kept)]
        self._checkpoints = sorted([*elsewhere, *stored], key=lambda checkpoint: checkpoint[0])
        self._stored = len(stored)
        self._sealed = self._checkpoints[-1][0] if self._checkpoints else 0
        self._edge = CompactRange()
        self._next = 0  # the next checkpoint to compare
        self._good = 0  # the size of the last one that was right

    def run(self) -> Verdict:
        head = self._reader.head()
        found = _Lie(0, "")
        try:
            for batch in self._reader.all(head, limit=BATCH):
                self._check(batch.records)
                self._progress(self._edge.size, head)
            if self._edge.size < self._sealed:
                self._genuine(*self._checkpoints[self._next])
                raise _Lie(self._edge.size + 1, "a sealed fact was removed")
        except _Lie as lie:
            found = lie
        except ArchiveUnreadable as error:
            found = self._before(error)
        return Verdict(self._edge.size, self._sealed, self._stored, found.position, found.reason)

    def _before(self, error: ArchiveUnreadable) -> _Lie:
        """An earlier lie of the batch that could not be read whole, or else the fact that is missing."""
        try:
            for batch in self._reader.all(error.position - 1, start=self._edge.size, limit=BATCH):
                self._check(batch.records)
        except _Lie as lie:
            return lie
        return _Lie(error.position, str(error))

    def _check(self, records: Sequence[Record]) -> None:
        stored = self._sealed_log.leaf_hashes(self._edge.size, self._edge.size + len(records))
        for index, record in enumerate(records):
            expected = self._edge.size + 1
            if record.position != expected:
                raise _Lie(expected, f"a fact is missing: position {expected} is followed by {record.position}")
            digest = record_hash(record)
            if index < len(stored) and digest != stored[index]:
                raise _Lie(expected, "the fact is not the one that was sealed")
            self._edge.add(digest)
            while self._next < len(self._checkpoints) and self._checkpoints[self._next][0] == self._edge.size:
                self._compare(*self._checkpoints[self._next])

    def _genuine(self, size: int, note: str) -> Checkpoint:
        try:
            return verify(note, self._trusted)
        except CheckpointInvalid as error:
            raise _Lie(self._good + 1, f"checkpoint {size} is not genuine: {error}") from error

    def _compare(self, size: int, note: str) -> None:
        checkpoint = self._genuine(size, note)
        if checkpoint.size != size or checkpoint.root != self._edge.root():
            raise _Lie(self._good + 1, f"facts {self._good + 1}..{size} do not hash to what checkpoint {size} signed")
        self._good = size
        self._next += 1


def record_hash(record: Record) -> bytes:
    """Leaf hash of a stored row."""
    return leaf_hash(
        leaf_data(
            record.position, record.stream, record.version, record.topic, record.event_id, record.command_id,
            record.correlation_id, record.causation_id, record.actor, record.recorded_at, record.state,
        )
    )  # fmt: skip
