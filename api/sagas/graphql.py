"""Sagas over GraphQL: how each stands, its timeline, what it waits for, and their feed. For operators."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import datetime
from functools import partial
from uuid import UUID

import strawberry

from api.edge.graphql import AsOf, Condition, Connection, Info, Listing, Position, equals, require
from api.edge.past import NotOfThePast
from api.log import Event, events_of
from projections.as_of import row_at
from projections.sagas import COMPENSATED, COMPLETED, DeadlineRow, Deadlines, SagaRow, Sagas


@strawberry.type
class SagaDeadline:
    """An instant a saga waits for, and what for."""

    token: UUID
    kind: str
    due_at: datetime

    @classmethod
    def of(cls, row: DeadlineRow) -> "SagaDeadline":
        return cls(token=row.token, kind=row.kind, due_at=row.due_at)


DEADLINES = Listing(Deadlines(), SagaDeadline.of, order=("due_at", "token"))


@strawberry.type
class Saga:
    """A saga: running, compensating, completed, compensated or parked; `step` is its newest."""

    saga_id: UUID
    kind: str
    state: str
    step: str
    reason: str
    steps: int
    correlation_id: UUID
    started_at: datetime
    updated_at: datetime
    position: Position
    past: strawberry.Private[bool] = False

    @strawberry.field
    async def timeline(self, info: Info, first: int = 100, after: str | None = None) -> Connection[Event]:
        """Its facts, oldest first, up to its newest."""
        so_far = Condition("position <= %(so_far)s", {"so_far": self.position})
        return await events_of(info, first, after, *equals("stream", self.saga_id), so_far)

    @strawberry.field
    async def deadlines(self, info: Info) -> list[SagaDeadline]:
        """Its deadlines to come, the next first; at most 100. One that is overtaken by a step changes nothing."""
        if self.past:
            raise NotOfThePast("deadlines")
        if self.state in (COMPLETED, COMPENSATED):
            return []
        to_come = Condition("NOT elapsed")
        return await DEADLINES.all(info, *equals("saga_id", self.saga_id), to_come)

    @classmethod
    def of(cls, row: SagaRow, past: bool = False) -> "Saga":
        return cls(
            past=past,
            saga_id=row.saga_id,
            kind=row.kind,
            state=row.state,
            step=row.step,
            reason=row.reason,
            steps=row.steps,
            correlation_id=row.correlation_id,
            started_at=row.started_at,
            updated_at=row.updated_at,
            position=Position(row.position),
        )


SAGAS = Listing(Sagas(), Saga.of, order=("position",), descending=True)
PAST_SAGAS = replace(SAGAS, node=partial(Saga.of, past=True))


@strawberry.type
class Query:
    """Queries of sagas."""

    @strawberry.field
    async def sagas(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        state: str | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[Saga]:
        """Sagas, those that moved last first; in one state or in any, as they are or as they were."""
        require(info, "operator")
        listing = SAGAS if as_of is None else PAST_SAGAS
        return await listing.page(info, first, after, at_least, *equals("state", state), as_of=as_of)

    @strawberry.field
    async def saga(
        self, info: Info, saga_id: UUID, at_least: Position | None = None, as_of: AsOf | None = None
    ) -> Saga | None:
        """One saga, as it is or as it was."""
        require(info, "operator")
        if as_of is not None:
            return await PAST_SAGAS.one_at(info, saga_id, as_of)
        return await SAGAS.one(info, *equals("saga_id", saga_id), at_least=at_least)


@strawberry.type
class SagaChange:
    """A fact of a saga by its name, its position, and the saga as it stands after it."""

    position: Position
    change: str
    saga: Saga


@strawberry.type
class Subscription:
    """Subscriptions of sagas."""

    @strawberry.subscription
    async def sagas(
        self, info: Info, saga_id: UUID | None = None, after: Position | None = None
    ) -> AsyncGenerator[SagaChange, None]:
        """Every step of all sagas or of one, resuming after a position (by default: from now on)."""
        principal, context, model = require(info, "operator"), info.context, Sagas()
        streams = None if saga_id is None else frozenset({saga_id})

        def after_it(stream: UUID, position: int) -> SagaRow | None:
            with context.ctx.database.reader.connection() as connection:
                return row_at(connection, model, stream, position)

        follow = context.feed.follow(after, topics=model.topics, streams=streams, until=principal.expires_at)
        async for record in follow:
            row = await context.ctx.in_query_thread(partial(after_it, record.stream, record.position))
            if row is not None:
                change = record.topic.rpartition(".")[2]
                yield SagaChange(position=Position(record.position), change=change, saga=Saga.of(row))
