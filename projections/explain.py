"""Explain: the chain of causation behind a fact, from the log alone, with a proof that each link is sealed."""

import base64
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from domain.audit.checkpoint import Verifier, verify
from domain.audit.merkle import ProofInvalid, consistency_proof, inclusion_proof, verify_inclusion
from domain.kernel import NotFound, Refusal
from infrastructure.audit import NotSealed, SealedLog, record_hash
from infrastructure.event_store.reader import LogReader, Record

MAX_CHAIN = 1_000
MAX_CORRELATED = 50_000
CONTRACT, PROCESS = "marketplace.Contract.", "sagas.Process."
STORIES = (CONTRACT, PROCESS, "sagas.Deadline.")
"""What happens in these streams has all that happened in them before among its causes."""


class NothingToExplain(NotFound):
    """No stream of the log has this id."""


class SealBroken(Refusal):
    """What is stored is not what was sealed: `village audit verify` tells where."""

    status = 503


class SizesOutOfOrder(Refusal):
    """A consistency proof leads from a tree of at least one fact to one that is not smaller."""


class Proof(msgspec.Struct, frozen=True):
    """That a fact is a leaf of a signed tree: check it with `domain.audit.merkle.verify_inclusion`."""

    leaf: int
    leaf_hash: str
    size: int
    path: list[str]
    checkpoint: str


class Growth(msgspec.Struct, frozen=True):
    """That the tree of `old` facts is a prefix of what `checkpoint` signs: check it with `verify_consistency`."""

    old: int
    new: int
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

    A contract is explained with its effects, too: hold, capture, fee, credit, and whatever else it moved. The links
    are in order of position, causes before effects; facts that are not sealed yet have no proof.

    Raises:
        NothingToExplain: no stream has this id. SealBroken.
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        own = LogReader(connection).of_streams([stream])
        if not own:
            raise NothingToExplain(str(stream))
        chain = _Chain(connection, own)
        if own[0].topic.startswith(CONTRACT):
            chain.add_effects()
        prove = _Prover(connection, trusted)
        return [_link(record, prove(record)) for record in chain.records]


def prove(connection: psycopg.Connection[Any], position: int, trusted: list[Verifier]) -> Proof | None:
    """Proof that the fact at a position is sealed; None while it is not. Raises SealBroken."""
    (record,) = LogReader(connection).at([position]) or (None,)
    return None if record is None else _Prover(connection, trusted)(record)


def prove_growth(connection: psycopg.Connection[Any], old: int, new: int) -> Growth | None:
    """Proof that the log only grew from `old` facts to `new`, the size of a checkpoint; None when there is none such.

    Raises:
        SizesOutOfOrder, SealBroken.
    """
    sealed = SealedLog(connection)
    note = sealed.checkpoint(new)
    if note is None:
        return None
    if not 0 < old <= new:
        raise SizesOutOfOrder(f"from {old} to {new}")
    try:
        return Growth(old, new, list(map(_text, consistency_proof(old, new, sealed.node))), note)
    except NotSealed as error:
        raise SealBroken(str(error)) from error


class _Chain:
    """Facts with their causes, and on request with their effects: at most MAX_CHAIN besides those it begins with."""

    def __init__(self, connection: psycopg.Connection[Any], own: Sequence[Record]) -> None:
        self._reader = LogReader(connection)
        self._known: dict[UUID, Record] = {}
        self._correlations: set[UUID] = set()
        self._most = len(own) + MAX_CHAIN
        self._facts: dict[int, Record] = {}
        self.add(own)

    @property
    def records(self) -> list[Record]:
        return [self._facts[position] for position in sorted(self._facts)]

    def add(self, records: Iterable[Record]) -> None:
        """Take these up, with what caused them: the fact each answers to, and of a story all that came before."""
        waiting = [record for record in records if record.position not in self._facts]
        while waiting and len(self._facts) < self._most:
            record = waiting.pop()
            if record.position in self._facts:
                continue
            self._facts[record.position] = record
            self._load(record.correlation_id)
            if record.causation_id in self._known:
                waiting.append(self._known[record.causation_id])
            if record.topic.startswith(STORIES):
                waiting += self._reader.of_streams([record.stream], until=record.position - 1)

    def add_effects(self) -> None:
        """Take up what these facts led to: facts that answer to them, and all that their processes did."""
        size = 0
        while size < len(self._facts) < self._most:
            size = len(self._facts)
            processes = {record.stream for record in self._facts.values() if record.topic.startswith(PROCESS)}
            self.add(self._reader.of_streams(processes) if processes else ())
            causes = {record.event_id for record in self._facts.values()}
            self.add([record for record in self._known.values() if record.causation_id in causes])

    def _load(self, correlation_id: UUID) -> None:
        if correlation_id not in self._correlations:
            self._correlations.add(correlation_id)
            correlated = self._reader.correlated(correlation_id, MAX_CORRELATED)
            self._known.update((record.event_id, record) for record in correlated)


class _Prover:
    """Inclusion proofs under the newest checkpoint."""

    def __init__(self, connection: psycopg.Connection[Any], trusted: list[Verifier]) -> None:
        self._sealed = SealedLog(connection)
        newest = self._sealed.newest_checkpoint()
        self._note = "" if newest is None else newest[1]
        signed = None if newest is None else verify(newest[1], trusted)
        self._size, self._root = (0, b"") if signed is None else (signed.size, signed.root)

    def __call__(self, record: Record) -> Proof | None:
        leaf = record.position - 1
        if leaf >= self._size:
            return None
        digest = record_hash(record)
        try:
            path = inclusion_proof(leaf, self._size, self._sealed.node)
            verify_inclusion(leaf, self._size, digest, path, self._root)
        except (NotSealed, ProofInvalid) as error:
            raise SealBroken(f"fact {record.position}: {error}") from error
        return Proof(leaf, _text(digest), self._size, list(map(_text, path)), self._note)


def _link(record: Record, proof: Proof | None) -> Link:
    return Link(
        record.position, record.topic, record.stream, record.version, record.event_id, record.causation_id,
        record.actor, record.recorded_at.isoformat(), msgspec.json.decode(record.state), proof,
    )  # fmt: skip


def _text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
