"""Federated learning over GraphQL: sessions and rounds, and the progress of rounds as it happens."""

from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import datetime
from functools import partial
from uuid import UUID

import strawberry

from api.edge.context import ApiContext
from api.edge.graphql import AsOf, Connection, Info, Listing, Milliseconds, Position, equals
from api.edge.past import NotOfThePast
from domain.federated_learning.session import TrainingSessionUnknown
from infrastructure.event_store.reader import LogReader, Record
from projections.federated_learning import (
    ParticipantRow,
    RoundParticipants,
    RoundRow,
    SessionRow,
    TrainingRounds,
    TrainingSessions,
)

MAX_TRACKED_ROUNDS = 1_000


@strawberry.type
class RoundUpdate:
    """What a device did in a round. `trainMs` is the CPU time it says it took."""

    device_id: UUID
    state: str
    examples: int | None
    train_ms: Milliseconds | None
    norm: float | None
    reason: str | None

    @classmethod
    def of(cls, row: ParticipantRow) -> "RoundUpdate":
        return cls(
            device_id=row.device_id,
            state=row.state,
            examples=row.examples,
            train_ms=None if row.train_ms is None else Milliseconds(row.train_ms),
            norm=row.norm,
            reason=row.reason,
        )


UPDATES = Listing(RoundParticipants(), RoundUpdate.of, order=("device_id",), shared=True)


@strawberry.type
class Round:
    """A training round: open, sealed, completed or abandoned. Accuracy and loss are those of its new model."""

    round_id: UUID
    session_id: UUID
    number: int
    state: str
    participants: int
    selected: int
    accepted: int
    rejected: int
    dropped: int
    opened_at: datetime
    deadline_at: datetime
    completed_at: datetime | None
    duration_ms: Milliseconds | None
    accuracy: float | None
    loss: float | None
    base_model_hash: str
    model_hash: str | None
    reason: str | None
    position: Position
    past: strawberry.Private[bool] = False

    @strawberry.field
    async def updates(self, info: Info) -> list[RoundUpdate]:
        """The devices asked, and what came of it; at most 100."""
        if self.past:
            raise NotOfThePast("updates")
        return await UPDATES.all(info, *equals("round_id", self.round_id))

    @classmethod
    def of(cls, row: RoundRow, past: bool = False) -> "Round":
        return cls(
            past=past,
            round_id=row.round_id,
            session_id=row.session_id,
            number=row.number,
            state=row.state,
            participants=row.participants,
            selected=row.selected,
            accepted=row.accepted,
            rejected=row.rejected,
            dropped=row.dropped,
            opened_at=row.opened_at,
            deadline_at=row.deadline_at,
            completed_at=row.completed_at,
            duration_ms=None if row.duration_ms is None else Milliseconds(row.duration_ms),
            accuracy=row.metrics.get("accuracy"),
            loss=row.metrics.get("loss"),
            base_model_hash=row.base_model_hash,
            model_hash=row.model_hash,
            reason=row.reason,
            position=Position(row.position),
        )


ROUNDS = Listing(TrainingRounds(), Round.of, order=("number",), owner="owner_id")
PAST_ROUNDS = replace(ROUNDS, node=partial(Round.of, past=True))
NEWEST_ROUNDS = Listing(TrainingRounds(), Round.of, order=("number",), descending=True, owner="owner_id")


@strawberry.type
class TrainingSession:
    """A training session: running, paused, completed or abandoned. `modelHash` is its newest model."""

    session_id: UUID
    owner_id: UUID
    name: str
    state: str
    strategy: str
    rounds: int
    current_round: int
    completed_rounds: int
    model_hash: str
    evaluation_hash: str | None
    architecture: str
    parameters: int
    reason: str | None
    created_at: datetime
    ended_at: datetime | None
    position: Position
    past: strawberry.Private[bool] = False

    @strawberry.field
    async def round_history(self, info: Info) -> list[Round]:
        """The newest 100 rounds, oldest first."""
        if self.past:
            raise NotOfThePast("roundHistory: ask rounds(sessionId, asOf)")
        return (await NEWEST_ROUNDS.all(info, *equals("session_id", self.session_id)))[::-1]

    @classmethod
    def of(cls, row: SessionRow, past: bool = False) -> "TrainingSession":
        return cls(
            past=past,
            session_id=row.session_id,
            owner_id=row.owner_id,
            name=row.name,
            state=row.state,
            strategy=row.strategy,
            rounds=row.rounds,
            current_round=row.current_round,
            completed_rounds=row.completed_rounds,
            model_hash=row.model_hash,
            evaluation_hash=row.evaluation_hash,
            architecture=row.manifest.architecture,
            parameters=row.manifest.bytes // 4,
            reason=row.reason,
            created_at=row.created_at,
            ended_at=row.ended_at,
            position=Position(row.position),
        )


SESSIONS = Listing(
    TrainingSessions(), TrainingSession.of, order=("created_position",), descending=True, owner="owner_id"
)
PAST_SESSIONS = replace(SESSIONS, node=partial(TrainingSession.of, past=True))


@strawberry.type
class Query:
    """Queries of federated learning."""

    @strawberry.field
    async def training_sessions(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[TrainingSession]:
        """Training sessions, newest first, as they are or as they were."""
        listing = SESSIONS if as_of is None else PAST_SESSIONS
        return await listing.page(info, first, after, at_least, as_of=as_of)

    @strawberry.field
    async def training_session(
        self, info: Info, session_id: UUID, at_least: Position | None = None, as_of: AsOf | None = None
    ) -> TrainingSession | None:
        """One training session, as it is or as it was."""
        if as_of is not None:
            return await PAST_SESSIONS.one_at(info, session_id, as_of)
        return await SESSIONS.one(info, *equals("session_id", session_id), at_least=at_least)

    @strawberry.field
    async def rounds(
        self,
        info: Info,
        session_id: UUID,
        first: int,
        after: str | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[Round]:
        """The rounds of a session, oldest first, as they are or as they were."""
        listing = ROUNDS if as_of is None else PAST_ROUNDS
        return await listing.page(info, first, after, at_least, *equals("session_id", session_id), as_of=as_of)


@strawberry.type
class RoundProgress:
    """A round after one more event of it, at that event's position."""

    position: Position
    round_id: UUID
    number: int
    state: str
    selected: int
    accepted: int
    rejected: int
    dropped: int
    accuracy: float | None
    loss: float | None
    participants: int

    @classmethod
    def of(cls, row: RoundRow) -> "RoundProgress":
        return cls(
            position=Position(row.position),
            round_id=row.round_id,
            number=row.number,
            state=row.state,
            selected=row.selected,
            accepted=row.accepted,
            rejected=row.rejected,
            dropped=row.dropped,
            accuracy=row.metrics.get("accuracy"),
            loss=row.metrics.get("loss"),
            participants=row.participants,
        )


class Rounds:
    """Rounds folded as their events pass by; one that began before is folded from the log first."""

    def __init__(self, ctx: ApiContext) -> None:
        self._ctx, self._model = ctx, TrainingRounds()
        self._rows: OrderedDict[UUID, RoundRow | None] = OrderedDict()

    async def after(self, record: Record) -> RoundRow | None:
        """The round of this event, as it is after it."""
        if record.stream in self._rows:
            row = self._model.evolve(self._rows[record.stream], record.fact(), record.stream)
        else:
            row = await self._ctx.in_query_thread(lambda: self._fold(record))
        self._rows[record.stream] = row
        self._rows.move_to_end(record.stream)
        while len(self._rows) > MAX_TRACKED_ROUNDS:
            self._rows.popitem(last=False)
        return row

    def _fold(self, record: Record) -> RoundRow | None:
        with self._ctx.database.reader.connection() as connection:
            records = LogReader(connection).of_streams([record.stream], until=record.position)
        row: RoundRow | None = None
        for past in records:
            if past.topic in self._model.topics:
                row = self._model.evolve(row, past.fact(), record.stream)
        return row


@strawberry.type
class Subscription:
    """Subscriptions of federated learning."""

    @strawberry.subscription
    async def round_progress(
        self, info: Info, session_id: UUID, after: Position | None = None
    ) -> AsyncGenerator[RoundProgress, None]:
        """A session's rounds after each of their events, resuming after a position (by default: from now on)."""
        if await SESSIONS.one(info, *equals("session_id", session_id), at_least=after) is None:
            raise TrainingSessionUnknown(f"no session {session_id}")
        context = info.context
        rounds, topics = Rounds(context.ctx), TrainingRounds().topics
        async for record in context.feed.follow(after, topics=topics, until=context.principal.expires_at):
            row = await rounds.after(record)
            if row is not None and row.session_id == session_id:
                yield RoundProgress.of(row)
