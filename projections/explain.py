"""Explain: the chain of causation behind a fact, from the log alone, with a proof that each link is sealed."""

import base64
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from domain.audit.checkpoint import Verifier, verify
from domain.audit.merkle import inclusion_proof
from domain.kernel import NotFound
from infrastructure.audit import SealedLog, record_hash
from infrastructure.event_store.reader import LogReader, Record

MAX_CHAIN = 1_000
MAX_CORRELATED = 50_000


class NothingToExplain(NotFound):
    """No stream of the log has this id."""


class Proof(msgspec.Struct, frozen=True):
    """That a fact is a leaf of a signed tree: check it with `domain.audit.merkle.verify_inclusion`."""

    leaf: int
    leaf_hash: str
    size: int
    path: list[str]
    checkpoint: str


class Link(msgspec.Struct, frozen=True):
    """One fact of a chain, as it is stored."""

    position: int
    topic: str
    stream: UUID
    version: int
    event_id: UUID
    causation_id: UUID | None
    actor: str
    recorded_at: str
    state: dict[str, Any]
    proof: Proof | None


def explain(connection: psycopg.Connection[Any], stream: UUID, trusted: list[Verifier]) -> list[Link]:
    """How a stream (a transfer, a round, a claim) came to be what it is: each of its facts and their causes.

    The links are in order of position, causes before effects; facts that are not sealed yet have no proof.

    Raises:
        NothingToExplain: no stream has this id.
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        own = LogReader(connection).of_streams([stream])
        if not own:
            raise NothingToExplain(str(stream))
        records = _with_causes(connection, own)
        prove = _Prover(connection, trusted)
        return [_link(record, prove(record)) for record in records]


def prove(connection: psycopg.Connection[Any], position: int, trusted: list[Verifier]) -> Proof | None:
    """Proof that the fact at a position is sealed; None while it is not."""
    (record,) = LogReader(connection).at([position]) or (None,)
    return None if record is None else _Prover(connection, trusted)(record)


def _with_causes(connection: psycopg.Connection[Any], own: Sequence[Record]) -> list[Record]:
    reader = LogReader(connection)
    known = {
        record.event_id: record
        for correlation_id in {record.correlation_id for record in own}
        for record in reader.correlated(correlation_id, MAX_CORRELATED)
    }
    chain = {record.position: record for record in own}
    waiting = [record.causation_id for record in own]
    while waiting and len(chain) < MAX_CHAIN:
        cause = known.get(waiting.pop() or UUID(int=0))
        if cause is not None and cause.position not in chain:
            chain[cause.position] = cause
            waiting.append(cause.causation_id)
    return [chain[position] for position in sorted(chain)]


class _Prover:
    """Inclusion proofs under the newest checkpoint."""

    def __init__(self, connection: psycopg.Connection[Any], trusted: list[Verifier]) -> None:
        self._sealed = SealedLog(connection)
        newest = self._sealed.newest_checkpoint()
        self._note = "" if newest is None else newest[1]
        self._size = 0 if newest is None else verify(newest[1], trusted).size

    def __call__(self, record: Record) -> Proof | None:
        leaf = record.position - 1
        if leaf >= self._size:
            return None
        path = inclusion_proof(leaf, self._size, self._sealed.node)
        return Proof(leaf, _text(record_hash(record)), self._size, list(map(_text, path)), self._note)


def _link(record: Record, proof: Proof | None) -> Link:
    return Link(
        record.position, record.topic, record.stream, record.version, record.event_id, record.causation_id,
        record.actor, record.recorded_at.isoformat(), msgspec.json.decode(record.state), proof,
    )  # fmt: skip


def _text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
