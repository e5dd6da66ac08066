"""The event log over GraphQL: browse it, see how far its consumers are, and follow it as it grows. For operators."""

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import strawberry
from strawberry.scalars import JSON

from domain.kernel.errors import Refusal
from infrastructure.event_store.reader import LogReader, Record

from .consumers import Consumer, projections
from .edge.context import ApiContext
from .edge.graphql import Condition, Connection, Info, Keyset, Position, Source, equals, page_of, require
from .edge.personal import opened_state, sealed_in

_COLUMNS = (
    "position", "topic", "stream", "version", "event_id", "command_id", "correlation_id", "causation_id", "actor",
    "recorded_at", "state",
)  # fmt: skip
_BY_POSITION = Keyset("events", ("position",), (int,))
MAX_CHOSEN = 100


class FilterTooLong(Refusal):
    """At most 100 topics or streams choose what to see."""


@strawberry.type
class Event:
    """One recorded event with its envelope."""

    position: Position
    topic: str
    stream: UUID
    version: int
    event_id: UUID
    command_id: UUID
    correlation_id: UUID
    causation_id: UUID | None
    actor: str
    recorded_at: datetime
    stored: strawberry.Private[bytes | None]

    @strawberry.field
    def state(self, info: Info) -> JSON | None:
        """What the event says.

        A personal field is `{"subject", "text", "erased"}`.
        """
        if self.stored is None:
            return None
        state = msgspec.json.decode(self.stored)
        sealed = sealed_in(self.topic, self.event_id, state)
        return JSON(opened_state(info.context.personal, state, sealed) if sealed else state)

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Event":
        state = row["state"]
        return cls(**{name: row[name] for name in _COLUMNS[:-1]}, stored=None if state is None else bytes(state))

    @classmethod
    def of_record(cls, record: Record) -> "Event":
        return cls.of({name: getattr(record, name) for name in _COLUMNS})


@strawberry.type
class Query:
    """Queries of the log."""

    @strawberry.field
    async def events(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        topics: list[str] | None = None,
        stream: UUID | None = None,
        correlation_id: UUID | None = None,
    ) -> Connection[Event]:
        """The log in order of position, by topic, stream or correlation."""
        require(info, "operator")
        _bounded(topics)
        conditions = [*equals("stream", stream), *equals("correlation_id", correlation_id)]
        if topics is not None:
            conditions.append(Condition("topic = ANY(%(topics)s)", {"topics": topics}))
        return await events_of(info, first, after, *conditions)

    @strawberry.field
    async def projections(self, info: Info) -> list[Consumer]:
        """Every consumer of the log: how far it is, who folds it, and what is wrong with it."""
        require(info, "operator")
        return await projections(info.context.ctx)


@strawberry.type
class Subscription:
    """Subscriptions to the log."""

    @strawberry.subscription
    async def events(
        self,
        info: Info,
        after: Position | None = None,
        topics: list[str] | None = None,
        streams: list[UUID] | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Every event after a position (by default: from now on), in order, each once."""
        principal = require(info, "operator")
        _bounded(topics)
        _bounded(streams)
        chosen = None if topics is None else frozenset(topics)
        of_streams = None if streams is None else frozenset(streams)
        feed = info.context.feed
        async for record in feed.follow(after, topics=chosen, streams=of_streams, until=principal.expires_at):
            yield Event.of_record(record)


async def events_of(info: Info, first: int, after: str | None, *conditions: Condition) -> Connection[Event]:
    """A page of the facts that fit all conditions, in order of position. The caller has checked who asks."""
    ctx = info.context.ctx
    page = await page_of(ctx, Source("log.events", _COLUMNS, conditions), _BY_POSITION, Event.of, first, after)
    if archived := {int(edge.node.position): edge.node for edge in page.edges if edge.node.stored is None}:
        for position, state in (await ctx.in_query_thread(lambda: _archived(ctx, sorted(archived)))).items():
            archived[position].stored = state
    return page


def _archived(ctx: ApiContext, positions: list[int]) -> dict[int, bytes]:
    with ctx.database.reader.connection() as connection:
        return {record.position: record.state for record in LogReader(connection).at(positions)}


def _bounded(chosen: list[Any] | None) -> None:
    if chosen is not None and len(chosen) > MAX_CHOSEN:
        raise FilterTooLong(f"{len(chosen)} given")
