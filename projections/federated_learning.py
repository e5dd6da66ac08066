"""Read models of federated learning: sessions, rounds, and what each device did in a round."""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from domain.federated_learning.manifest import ModelManifest
from domain.federated_learning.policy import ParticipantCriteria, RoundPolicy, TrainingConfig
from domain.federated_learning.round import ABANDONED, COMPLETED, OPEN, SEALED, TrainingRound
from domain.federated_learning.session import CREATED, PAUSED, RUNNING, TrainingSession
from domain.kernel.fact import Fact
from infrastructure.database import Database

from .rows import Key, ReadModel, Row

SELECTED, ACCEPTED, REJECTED, DROPPED, AGGREGATED = "selected", "accepted", "rejected", "dropped", "aggregated"
LEFT = "left"


class SessionRow(Row, frozen=True):
    """A training session. `current_round` is the number of the newest round, 0 before the first."""

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
    manifest: ModelManifest
    round_policy: RoundPolicy
    training: TrainingConfig
    criteria: ParticipantCriteria
    reason: str | None
    created_at: datetime
    ended_at: datetime | None
    created_position: int
    position: int


class TrainingSessions(ReadModel[SessionRow]):
    """Sessions by id."""

    name = "training_sessions"
    table = "read.training_sessions"
    row = SessionRow
    key = ("session_id",)
    folds_own_stream = True
    listens = (
        TrainingSession.Created,
        TrainingSession.Started,
        TrainingSession.RoundBegun,
        TrainingSession.ModelAdvanced,
        TrainingSession.Paused,
        TrainingSession.Resumed,
        TrainingSession.Completed,
        TrainingSession.Abandoned,
    )
    begins = (TrainingSession.Created,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.stream,)

    def evolve(self, row: SessionRow | None, fact: Fact, key: Key) -> SessionRow | None:
        if isinstance(fact.event, TrainingSession.Created):
            return _created(fact)
        return None if row is None else replace(row, position=fact.position, **_session_changes(row, fact))


def _created(fact: Fact) -> SessionRow:
    made: Any = fact.event
    return SessionRow(
        session_id=fact.stream,
        owner_id=made.owner_id,
        name=made.name,
        state=CREATED,
        strategy=made.strategy,
        rounds=made.rounds,
        current_round=0,
        completed_rounds=0,
        model_hash=made.base_model_hash,
        evaluation_hash=made.evaluation_hash,
        manifest=made.manifest,
        round_policy=made.round_policy,
        training=made.training,
        criteria=made.criteria,
        reason=None,
        created_at=fact.recorded_at,
        ended_at=None,
        created_position=fact.position,
        position=fact.position,
    )


def _session_changes(row: SessionRow, fact: Fact) -> dict[str, Any]:
    match fact.event:
        case TrainingSession.Started() | TrainingSession.Resumed():
            return {"state": RUNNING}
        case TrainingSession.Paused():
            return {"state": PAUSED}
        case TrainingSession.RoundBegun(number=number):
            return {"current_round": number}
        case TrainingSession.ModelAdvanced(model_hash=model_hash):
            return {"model_hash": model_hash, "completed_rounds": row.completed_rounds + 1}
        case TrainingSession.Completed():
            return {"state": COMPLETED, "ended_at": fact.recorded_at}
        case TrainingSession.Abandoned(reason=reason):
            return {"state": ABANDONED, "ended_at": fact.recorded_at, "reason": reason}
    return {}


class RoundRow(Row, frozen=True):
    """A round. Counts are of devices; `base_model_hash` is what they start from, `model_hash` what came of it."""

    round_id: UUID
    session_id: UUID
    owner_id: UUID
    number: int
    state: str
    base_model_hash: str
    model_hash: str | None
    policy: RoundPolicy
    selected: int
    accepted: int
    rejected: int
    dropped: int
    participants: int
    snapshot_position: int
    ruleset_hash: str
    refused: dict[str, int]
    metrics: dict[str, float]
    clipped: int | None
    reason: str | None
    opened_at: datetime
    deadline_at: datetime
    completed_at: datetime | None
    duration_ms: int | None
    position: int


class TrainingRounds(ReadModel[RoundRow]):
    """Rounds by id."""

    name = "training_rounds"
    table = "read.training_rounds"
    row = RoundRow
    key = ("round_id",)
    folds_own_stream = True
    listens = (
        TrainingRound.Opened,
        TrainingRound.ParticipantsSelected,
        TrainingRound.UpdateAccepted,
        TrainingRound.UpdateRejected,
        TrainingRound.Sealed,
        TrainingRound.Aggregated,
        TrainingRound.Completed,
        TrainingRound.Abandoned,
    )
    begins = (TrainingRound.Opened,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.stream,)

    def evolve(self, row: RoundRow | None, fact: Fact, key: Key) -> RoundRow | None:
        if isinstance(fact.event, TrainingRound.Opened):
            return _opened(fact)
        return None if row is None else replace(row, position=fact.position, **_round_changes(row, fact))


def _opened(fact: Fact) -> RoundRow:
    made: Any = fact.event
    return RoundRow(
        round_id=fact.stream,
        session_id=made.session_id,
        owner_id=made.owner_id,
        number=made.number,
        state=OPEN,
        base_model_hash=made.model_hash,
        model_hash=None,
        policy=made.policy,
        selected=0,
        accepted=0,
        rejected=0,
        dropped=0,
        participants=0,
        snapshot_position=0,
        ruleset_hash="",
        refused={},
        metrics={},
        clipped=None,
        reason=None,
        opened_at=made.opened_at,
        deadline_at=made.deadline_at,
        completed_at=None,
        duration_ms=None,
        position=fact.position,
    )


def _round_changes(row: RoundRow, fact: Fact) -> dict[str, Any]:
    made: Any = fact.event
    match made:
        case TrainingRound.ParticipantsSelected():
            return {
                "selected": len(made.device_ids),
                "snapshot_position": made.snapshot_position,
                "ruleset_hash": made.ruleset_hash,
                "refused": made.refused,
            }
        case TrainingRound.UpdateAccepted():
            return {"accepted": row.accepted + 1}
        case TrainingRound.UpdateRejected():
            return {"rejected": row.rejected + 1}
        case TrainingRound.Sealed():
            return {"state": SEALED, "dropped": len(made.dropped)}
        case TrainingRound.Aggregated():
            return {"model_hash": made.model_hash, "clipped": made.clipped}
        case TrainingRound.Completed():
            return {
                "state": COMPLETED,
                "participants": len(made.participants),
                "metrics": made.model_metrics,
                "duration_ms": made.duration_ms,
                "completed_at": fact.recorded_at,
            }
        case TrainingRound.Abandoned():
            return {"state": ABANDONED, "reason": made.reason, "completed_at": fact.recorded_at}
    return {}


class ParticipantRow(Row, frozen=True):
    """A device in a round: selected -> accepted -> aggregated, or rejected, left or dropped. `train_ms` is CPU time."""

    round_id: UUID
    device_id: UUID
    state: str
    examples: int | None
    train_ms: int | None
    norm: float | None
    blob_hash: str | None
    reason: str | None
    position: int


class RoundParticipants(ReadModel[ParticipantRow]):
    """Participants by round and device."""

    name = "round_participants"
    table = "read.round_participants"
    row = ParticipantRow
    key = ("round_id", "device_id")
    listens = (
        TrainingRound.ParticipantsSelected,
        TrainingRound.UpdateAccepted,
        TrainingRound.UpdateRejected,
        TrainingRound.ParticipantLeft,
        TrainingRound.Sealed,
        TrainingRound.Completed,
    )
    begins = (TrainingRound.ParticipantsSelected,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return [(fact.stream, device_id) for device_id in _devices_of(fact.event)]

    def evolve(self, row: ParticipantRow | None, fact: Fact, key: Key) -> ParticipantRow | None:
        if isinstance(fact.event, TrainingRound.ParticipantsSelected):
            return ParticipantRow(key[0], key[1], SELECTED, None, None, None, None, None, fact.position)
        if row is None or (row.state in (REJECTED, LEFT) and isinstance(fact.event, TrainingRound.Sealed)):
            return row
        return replace(row, position=fact.position, **_participant_changes(fact.event))


def _devices_of(event: Any) -> Iterable[UUID]:
    match event:
        case TrainingRound.ParticipantsSelected(device_ids=device_ids):
            return device_ids
        case TrainingRound.Sealed(dropped=dropped):
            return dropped
        case TrainingRound.Completed(participants=participants):
            return participants
    return (event.device_id,)


def _participant_changes(event: Any) -> dict[str, Any]:
    match event:
        case TrainingRound.UpdateAccepted():
            figures = {name: getattr(event, name) for name in ("examples", "train_ms", "norm", "blob_hash")}
            return {"state": ACCEPTED, **figures}
        case TrainingRound.UpdateRejected(reason=reason):
            return {"state": REJECTED, "reason": reason}
        case TrainingRound.ParticipantLeft(reason=reason):
            return {"state": LEFT, "reason": reason}
        case TrainingRound.Completed():
            return {"state": AGGREGATED}
        case TrainingRound.Sealed():
            return {"state": DROPPED}
    return {}


READ_MODELS = (TrainingSessions(), TrainingRounds(), RoundParticipants())


class Participations:
    """How often devices have been participants: what selection is fair by."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def counts(self, device_ids: Collection[UUID]) -> dict[UUID, int]:
        """Rounds with an update in the model, by device; devices without any are left out."""
        query = (
            "SELECT device_id, count(*) FROM read.round_participants"
            " WHERE device_id = ANY(%s) AND state = %s GROUP BY device_id"
        )
        with self._database.reader.connection() as connection:
            found = connection.execute(query, (list(device_ids), AGGREGATED)).fetchall()
        return {device_id: int(count) for device_id, count in found}
