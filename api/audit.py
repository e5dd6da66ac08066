"""The audit over GraphQL: checkpoints, proofs, why a thing is as it is, and what it was. For operators."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import psycopg
import strawberry
from strawberry.scalars import JSON

from domain.audit.checkpoint import CheckpointInvalid
from domain.kernel import Aggregate, AggregateNotFound
from domain.kernel.errors import Refusal
from projections.as_of import aggregate_at
from projections.explain import Link, NothingToExplain, Proof, explain, prove, prove_growth

from .edge.graphql import AsOf, Connection, Info, Keyset, Position, Source, page_of, require
from .edge.past import at
from .edge.personal import opened_state, sealed_in

T = TypeVar("T")

_BY_SIZE = Keyset("checkpoints", ("size",), (int,), descending=True)


class CheckpointNotTrusted(Refusal):
    """A proof is given only under a checkpoint that a key of this village has signed."""

    status = 503


@strawberry.type
class Checkpoint:
    """A signed root of the log's Merkle tree (C2SP tlog-checkpoint): the first `size` facts, by `note`."""

    size: Position
    note: str
    sealed_at: datetime

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Checkpoint":
        return cls(size=Position(row["size"]), note=row["note"], sealed_at=row["sealed_at"])


@strawberry.type
class InclusionProof:
    """That a fact is leaf `leaf` of the tree of `size` facts (RFC 6962): hashes in base64, nearest sibling first."""

    leaf: Position
    leaf_hash: str
    size: Position
    path: list[str]
    checkpoint: str

    @classmethod
    def of(cls, proof: Proof) -> "InclusionProof":
        return cls(
            leaf=Position(proof.leaf),
            leaf_hash=proof.leaf_hash,
            size=Position(proof.size),
            path=proof.path,
            checkpoint=proof.checkpoint,
        )


@strawberry.type
class ConsistencyProof:
    """That the tree of `old` facts is a prefix of the one of `new` (RFC 6962): hashes in base64, and the new note."""

    old: Position
    new: Position
    path: list[str]
    checkpoint: str


@strawberry.type
class CausalLink:
    """One fact of a chain of causes, and its proof once it is sealed."""

    position: Position
    topic: str
    stream: UUID
    version: int
    event_id: UUID
    causation_id: UUID | None
    actor: str
    recorded_at: datetime
    stored: strawberry.Private[dict[str, Any]]
    proof: InclusionProof | None

    @strawberry.field
    def state(self, info: Info) -> JSON:
        """What the fact says. A personal field is `{"subject", "text", "erased"}`."""
        sealed = sealed_in(self.topic, self.event_id, self.stored)
        return JSON(opened_state(info.context.personal, self.stored, sealed) if sealed else self.stored)

    @classmethod
    def of(cls, link: Link) -> "CausalLink":
        return cls(
            position=Position(link.position),
            topic=link.topic,
            stream=link.stream,
            version=link.version,
            event_id=link.event_id,
            causation_id=link.causation_id,
            actor=link.actor,
            recorded_at=datetime.fromisoformat(link.recorded_at),
            stored=link.state,
            proof=None if link.proof is None else InclusionProof.of(link.proof),
        )


@strawberry.type
class StreamState:
    """An aggregate rehydrated from its stream: its kind, its version, and what it knew, at a position."""

    stream: UUID
    kind: str
    version: int
    position: Position
    state: JSON

    @classmethod
    def of(cls, aggregate: Aggregate, position: int) -> "StreamState":
        known = {name: value for name, value in aggregate.state().items() if not name.startswith("_")}
        return cls(
            stream=aggregate.id,
            kind=aggregate.topic,
            version=aggregate.version,
            position=Position(position),
            state=JSON(msgspec.to_builtins(known, str_keys=True, order="sorted")),
        )


@strawberry.type
class Query:
    """Queries of the audit."""

    @strawberry.field
    async def checkpoints(self, info: Info, first: int, after: str | None = None) -> Connection[Checkpoint]:
        """Signed checkpoints, the newest first."""
        require(info, "operator")
        source = Source("log.checkpoints", ("size", "note", "sealed_at"))
        return await page_of(info.context.ctx, source, _BY_SIZE, Checkpoint.of, first, after)

    @strawberry.field
    async def inclusion_proof(self, info: Info, position: Position) -> InclusionProof | None:
        """That the fact at a position is sealed, under the newest checkpoint; null while it is not."""
        trusted = info.context.ctx.verifiers
        proof = await _asked(info, lambda connection, _: prove(connection, position, trusted()))
        return None if proof is None else InclusionProof.of(proof)

    @strawberry.field
    async def consistency_proof(self, info: Info, old: Position, new: Position) -> ConsistencyProof | None:
        """That the log only grew from `old` facts to `new`, the size of a checkpoint; null when there is no such one.

        Check it with the roots that the notes of both sizes sign.
        """
        grown = await _asked(info, lambda connection, _: prove_growth(connection, old, new))
        if grown is None:
            return None
        return ConsistencyProof(old=old, new=new, path=grown.path, checkpoint=grown.checkpoint)

    @strawberry.field
    async def explain(self, info: Info, stream: UUID) -> list[CausalLink] | None:
        """How a transfer, a round, a claim or any other stream came to be: its facts and their causes, causes first.

        A contract is explained with all it led to, to the last grain that was paid. Null when no stream has this id.
        """
        trusted = info.context.ctx.verifiers
        try:
            links = await _asked(info, lambda connection, _: explain(connection, stream, trusted()))
        except NothingToExplain:
            return None
        return [CausalLink.of(link) for link in links]

    @strawberry.field
    async def stream(self, info: Info, id: UUID, as_of: AsOf | None = None) -> StreamState | None:
        """What a stream's aggregate knew at a moment (by default: now); null when it did not exist then."""

        def rehydrated(connection: psycopg.Connection[Any], position: int) -> StreamState | None:
            try:
                return StreamState.of(aggregate_at(connection, Aggregate, id, position), position)
            except AggregateNotFound:
                return None

        return await _asked(info, rehydrated, as_of)


async def _asked(info: Info, work: Callable[[psycopg.Connection[Any], int], T], as_of: AsOf | None = None) -> T:
    """An operator's question to the log."""
    require(info, "operator")
    try:
        return await at(info.context.ctx, as_of, work)
    except CheckpointInvalid as error:
        raise CheckpointNotTrusted(str(error)) from error
