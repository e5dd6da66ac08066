"""The read model of training sessions."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from domain.federated_learning.manifest import ModelManifest
from domain.federated_learning.policy import ParticipantCriteria, RoundPolicy, TrainingConfig
from domain.federated_learning.round import ABANDONED, COMPLETED
from domain.federated_learning.session import CREATED, PAUSED, RUNNING, TrainingSession
from domain.kernel.fact import Fact
from projections.rows import Key, ReadModel, Row


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
