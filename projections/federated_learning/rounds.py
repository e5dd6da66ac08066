"""The read model of training rounds."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from domain.federated_learning.policy import RoundPolicy
from domain.federated_learning.round import ABANDONED, COMPLETED, OPEN, SEALED, TrainingRound
from domain.kernel.fact import Fact
from projections.rows import Key, ReadModel, Row


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
        if type(fact.event) is TrainingRound.Opened:
            return _opened(fact)
        return None if row is None else _CHANGED[type(fact.event)](row, fact)


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


def _selected(row: RoundRow, fact: Fact) -> RoundRow:
    made: Any = fact.event
    return replace(
        row,
        position=fact.position,
        selected=len(made.device_ids),
        snapshot_position=made.snapshot_position,
        ruleset_hash=made.ruleset_hash,
        refused=made.refused,
    )


def _completed(row: RoundRow, fact: Fact) -> RoundRow:
    made: Any = fact.event
    return replace(
        row,
        position=fact.position,
        state=COMPLETED,
        participants=len(made.participants),
        metrics=made.model_metrics,
        duration_ms=made.duration_ms,
        completed_at=fact.recorded_at,
    )


def _abandoned(row: RoundRow, fact: Fact) -> RoundRow:
    reason = fact.event.reason
    return replace(row, position=fact.position, state=ABANDONED, reason=reason, completed_at=fact.recorded_at)


_CHANGED: Mapping[type[Any], Callable[[RoundRow, Fact], RoundRow]] = {
    TrainingRound.ParticipantsSelected: _selected,
    TrainingRound.UpdateAccepted: lambda row, fact: replace(row, position=fact.position, accepted=row.accepted + 1),
    TrainingRound.UpdateRejected: lambda row, fact: replace(row, position=fact.position, rejected=row.rejected + 1),
    TrainingRound.Sealed: lambda row, fact: replace(
        row, position=fact.position, state=SEALED, dropped=len(fact.event.dropped)
    ),
    TrainingRound.Aggregated: lambda row, fact: replace(
        row, position=fact.position, model_hash=fact.event.model_hash, clipped=fact.event.clipped
    ),
    TrainingRound.Completed: _completed,
    TrainingRound.Abandoned: _abandoned,
}
"""The row after a fact."""
