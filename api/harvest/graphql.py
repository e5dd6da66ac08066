"""Harvest over GraphQL: sessions of one's own devices, why they pause, and what was measured."""

from collections.abc import AsyncGenerator
from datetime import datetime
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import msgspec
import strawberry

from api.edge.graphql import AsOf, Connection, Grains, Info, Listing, Milliseconds, Position, equals
from domain.harvest.contribution import HarvestSessionUnknown
from domain.kernel import Refusal
from infrastructure.event_store import LogReader
from projections.harvest import HarvestSessionRow, HarvestSessions, Reason
from projections.harvest_samples import LATEST, VALUES, points


class SpanInvalid(Refusal):
    """Samples are asked for from an instant to a later one."""


@strawberry.enum
class SampleResolution(Enum):
    """As measured (kept for a day), or means of a minute (30 days) or an hour (366 days)."""

    RAW = "RAW"
    MINUTE = "MINUTE"
    HOUR = "HOUR"


@strawberry.type
class TemperatureBand:
    """Degrees Celsius: at full duty up to `full`, paused from `pause` on."""

    sensor: str
    full: float
    pause: float


@strawberry.type
class ScheduleWindow:
    """Minutes of the UTC day."""

    from_minute: int
    to_minute: int


@strawberry.type
class HarvestPolicy:
    """The limits a session runs under."""

    min_battery_percent: int
    resume_battery_percent: int
    max_cpu_temp: float
    thermal_throttle_temp: float
    require_charging: bool
    max_cpu_percent: float
    idle_seconds: int
    schedule: list[ScheduleWindow]
    metered_network: bool
    unknown_sensor: str
    unknown_allowed: list[str]
    bands: list[TemperatureBand]

    @classmethod
    def of(cls, policy: dict[str, Any]) -> "HarvestPolicy":
        return cls(
            **policy
            | {
                "schedule": [ScheduleWindow(**window) for window in policy["schedule"]],
                "bands": [TemperatureBand(sensor=kind, **band) for kind, band in policy["bands"].items()],
            }
        )


@strawberry.type
class HarvestReason:
    """Why a session is as it is. `text` says it in words."""

    kind: str
    sensor: str
    observed: float | None
    limit: float | None
    text: str

    @classmethod
    def of(cls, reason: Reason) -> "HarvestReason":
        return cls(**msgspec.structs.asdict(reason), text=_in_words(reason))


@strawberry.type
class SamplePoint:
    """One point of a chart: percents and degrees Celsius; null is what was not measured."""

    at: datetime
    samples: int
    battery_percent: float | None
    battery_temp: float | None
    skin_temp: float | None
    cpu_temp: float | None
    cpu_percent: float | None
    memory_percent: float | None


@strawberry.type
class HarvestSession:
    """A session: admitted, running, throttled, paused, stopping, closed, rewarded or rejected.

    `verifiedMs` is what is paid: time by duty. `earnedGrains` is what was claimed for it.
    """

    session_id: UUID
    device_id: UUID
    owner_id: UUID
    number: int
    state: str
    reason: HarvestReason
    policy: HarvestPolicy
    sensors: list[str]
    run_ms: Milliseconds
    verified_ms: Milliseconds
    sample_count: int
    trips: int
    quality_bp: int
    audit: str
    claim_id: UUID | None
    earned_grains: Grains
    requested_at: datetime
    changed_at: datetime
    closed_at: datetime | None
    position: Position

    @classmethod
    def of(cls, row: HarvestSessionRow) -> "HarvestSession":
        known = msgspec.structs.asdict(row)
        return cls(
            sample_count=known.pop("samples"),
            **known | {"reason": HarvestReason.of(row.reason), "policy": HarvestPolicy.of(row.policy)},
        )

    @strawberry.field
    async def samples(
        self,
        info: Info,
        from_: Annotated[datetime, strawberry.argument(name="from")],
        to: datetime,
        resolution: SampleResolution = SampleResolution.MINUTE,
    ) -> list[SamplePoint]:
        """What was measured in a span of time, at most 2,000 points from its start."""
        if from_.tzinfo is None or to.tzinfo is None or from_ >= to:
            raise SpanInvalid(f"from {from_.isoformat()} to {to.isoformat()}")
        query, asked = points(self.session_id, from_, to, resolution.value)
        return [_point(row) for row in await info.context.ctx.rows(query, asked)]

    @strawberry.field
    async def latest(self, info: Info) -> SamplePoint | None:
        """The newest of what was measured, as it is now, also where the session is asked as it was."""
        rows = await info.context.ctx.rows(LATEST, {"session_id": self.session_id})
        return _point(rows[0]) if rows else None


def _point(row: dict[str, Any]) -> SamplePoint:
    return SamplePoint(at=row["at"], samples=row["samples"], **{name: row[name] for name in VALUES})


SESSIONS = Listing(
    HarvestSessions(), HarvestSession.of, order=("position",), descending=True, owner="owner_id", device="device_id"
)


@strawberry.type
class Query:
    """Queries of harvest."""

    @strawberry.field
    async def harvest_sessions(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        device_id: UUID | None = None,
        owner_id: UUID | None = None,
        state: str | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[HarvestSession]:
        """Sessions from the newest back, of a device or an owner, in a state."""
        conditions = [*equals("device_id", device_id), *equals("owner_id", owner_id), *equals("state", state)]
        return await SESSIONS.page(info, first, after, at_least, *conditions, as_of=as_of)

    @strawberry.field
    async def harvest_session(
        self, info: Info, session_id: UUID, at_least: Position | None = None, as_of: AsOf | None = None
    ) -> HarvestSession | None:
        """A session, as it is or as it was."""
        if as_of is not None:
            return await SESSIONS.one_at(info, session_id, as_of)
        return await SESSIONS.one(info, *equals("session_id", session_id), at_least=at_least)


@strawberry.type
class Subscription:
    """Subscriptions of harvest."""

    @strawberry.subscription
    async def harvest_session(
        self, info: Info, session_id: UUID, after: Position | None = None
    ) -> AsyncGenerator[HarvestSession, None]:
        """A session after each of its facts, resuming after a position (by default: from now on)."""
        if await SESSIONS.one(info, *equals("session_id", session_id), at_least=after) is None:
            raise HarvestSessionUnknown(f"session {session_id}")
        context, model = info.context, HarvestSessions()

        def folded(until: int) -> HarvestSessionRow | None:
            with context.ctx.database.reader.connection() as connection:
                records = LogReader(connection).of_streams([session_id], until=until)
            row: HarvestSessionRow | None = None
            for record in records:
                if record.topic in model.topics:
                    row = model.evolve(row, record.fact(), session_id)
            return row

        row: HarvestSessionRow | None = None
        feed = context.feed.follow(after, topics=model.topics, streams=[session_id], until=context.principal.expires_at)
        async for record in feed:
            if row is None:
                position = record.position
                row = await context.ctx.in_query_thread(lambda: folded(position))  # noqa: B023
            else:
                row = model.evolve(row, record.fact(), session_id)
            if row is not None:
                yield HarvestSession.of(row)


def _in_words(reason: Reason) -> str:
    """For people: `battery observed 57.0, the limit is 55.0 (too hot)`."""
    kind = reason.kind.replace("_", " ")
    if reason.observed is None or reason.limit is None:
        return f"{kind} ({reason.sensor})" if reason.sensor else kind
    return f"{reason.sensor} observed {reason.observed:g}, the limit is {reason.limit:g} ({kind})"
