"""Incidents over GraphQL: what is wrong by which rule, who took note, and how it ended. For operators."""

from collections.abc import AsyncGenerator
from datetime import datetime
from uuid import UUID

import msgspec
import strawberry

from api.edge.graphql import AsOf, Connection, Info, Listing, Position, equals, require
from domain.kernel.fact import Fact
from projections.monitoring import IncidentRow, Incidents


@strawberry.type
class Incident:
    """One breach of a rule by a subject, its `number`th: opened, acknowledged or resolved.

    `value` was measured when it opened, above `limitValue`. Whoever resolved it may be the watch itself.
    """

    incident_id: UUID
    rule: str
    subject: str
    number: int
    severity: str
    state: str
    summary: str
    value: float
    limit_value: float
    opened_at: datetime
    acknowledged_at: datetime | None
    acknowledged_by: str
    note: str
    resolved_at: datetime | None
    resolved_by: str
    reason: str
    position: Position

    @classmethod
    def of(cls, row: IncidentRow) -> "Incident":
        return cls(**msgspec.structs.asdict(row))


@strawberry.type
class IncidentUpdate:
    """What happened to an incident (Opened, Acknowledged, Resolved), by whom, and what they said."""

    position: Position
    incident_id: UUID
    what: str
    rule: str
    subject: str
    actor: str
    text: str
    at: datetime

    @classmethod
    def of(cls, fact: Fact) -> "IncidentUpdate":
        told = fact.event
        text = next(getattr(told, name) for name in ("summary", "note", "reason") if hasattr(told, name))
        return cls(
            position=Position(fact.position),
            incident_id=told.incident_id,
            what=fact.topic.rpartition(".")[2],
            rule=told.rule,
            subject=told.subject,
            actor=fact.actor,
            text=text,
            at=fact.recorded_at,
        )


INCIDENTS = Listing(Incidents(), Incident.of, order=("position",), descending=True)


@strawberry.type
class IncidentQuery:
    """Queries of incidents."""

    @strawberry.field
    async def incidents(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        state: str | None = None,
        rule: str | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[Incident]:
        """Incidents from the newest back; in one state or by one rule, as they are or as they were."""
        require(info, "operator")
        chosen = (*equals("state", state), *equals("rule", rule))
        return await INCIDENTS.page(info, first, after, at_least, *chosen, as_of=as_of)

    @strawberry.field
    async def incident(
        self, info: Info, incident_id: UUID, at_least: Position | None = None, as_of: AsOf | None = None
    ) -> Incident | None:
        """One incident, as it is or as it was."""
        require(info, "operator")
        if as_of is not None:
            return await INCIDENTS.one_at(info, incident_id, as_of)
        return await INCIDENTS.one(info, *equals("incident_id", incident_id), at_least=at_least)


@strawberry.type
class Subscription:
    """Subscriptions of monitoring."""

    @strawberry.subscription
    async def incidents(self, info: Info, after: Position | None = None) -> AsyncGenerator[IncidentUpdate, None]:
        """What happens to incidents, resuming after a position (by default: from now on)."""
        principal = require(info, "operator")
        feed, topics = info.context.feed, Incidents().topics
        async for record in feed.follow(after, topics=topics, until=principal.expires_at):
            yield IncidentUpdate.of(record.fact())
