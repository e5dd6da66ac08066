"""Sagas over GraphQL: how each stands, its timeline, and what it waits for. For operators."""

from dataclasses import replace
from datetime import datetime
from functools import partial
from uuid import UUID

import strawberry

from api.edge.graphql import AsOf, Condition, Connection, Info, Listing, Position, equals, require
from api.edge.past import NotOfThePast
from api.log import Event, events_of
from projections.sagas import DeadlineRow, Deadlines, SagaRow, Sagas


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
        """What it waits for, the next first; at most 100."""
        if self.past:
            raise NotOfThePast("deadlines")
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
