"""Read models of the sagas: how each of them stands, and the deadlines that are to come."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from msgspec.structs import replace

from domain.kernel.aggregate import event_classes
from domain.kernel.fact import Fact
from domain.kernel.saga import saga_name
from domain.sagas.coordinate_training import CoordinateTraining
from domain.sagas.deadline import Deadline
from domain.sagas.process import Process
from domain.sagas.reward_training import RewardTraining

from .rows import Key, ReadModel, Row

RUNNING, COMPENSATING, COMPLETED, COMPENSATED, PARKED = "running", "compensating", "completed", "compensated", "parked"
STATE_AFTER = {
    "Completed": COMPLETED,
    "Ended": COMPLETED,
    "Compensated": COMPENSATED,
    "CompensationBegan": COMPENSATING,
    "StepUndone": COMPENSATING,
    "Parked": PARKED,
}
"""By the last part of a fact's topic; any other fact leaves a saga running (or compensating). One that was parked while
it compensated and is retried is known to compensate by the next step that it undoes."""


class SagaRow(Row, frozen=True):
    """A saga: its kind (class, or plan of a process), where it stands, and its newest step."""

    saga_id: UUID
    kind: str
    state: str
    step: str
    reason: str
    steps: int
    correlation_id: UUID
    started_at: datetime
    updated_at: datetime
    position: int


class Sagas(ReadModel[SagaRow]):
    """Every saga by id. Its timeline is its stream in the log."""

    name = "sagas"
    table = "read.sagas"
    version = 3
    row = SagaRow
    key = ("saga_id",)
    folds_own_stream = True
    listens = (*event_classes(CoordinateTraining), *event_classes(RewardTraining), *event_classes(Process))
    begins = (CoordinateTraining.Started, RewardTraining.Started, Process.Began)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.stream,)

    def evolve(self, row: SagaRow | None, fact: Fact, key: Key) -> SagaRow | None:
        step = fact.topic.rpartition(".")[2]
        if row is None:
            kind = getattr(fact.event, "plan", None) or saga_name(fact.topic.split(".")[1])
            at = fact.recorded_at
            return SagaRow(key, kind, RUNNING, step, "", 1, fact.correlation_id, at, at, fact.position)
        state = STATE_AFTER.get(step, row.state)
        if step == "Resolved":
            state = {"retry": RUNNING, "abandon": COMPENSATED}.get(fact.event.action, COMPENSATING)
        return replace(
            row,
            state=state,
            step=step,
            reason=getattr(fact.event, "reason", row.reason),
            steps=row.steps + 1,
            updated_at=fact.recorded_at,
            position=fact.position,
        )


class DeadlineRow(Row, frozen=True):
    """A deadline and whether it has come."""

    token: UUID
    saga_id: UUID
    kind: str
    due_at: datetime
    elapsed: bool


class Deadlines(ReadModel[DeadlineRow]):
    """What the clock worker polls."""

    name = "deadlines"
    table = "read.deadlines"
    row = DeadlineRow
    key = ("token",)
    folds_own_stream = True
    listens = (Deadline.Set, Deadline.Elapsed)
    begins = (Deadline.Set,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.stream,)

    def evolve(self, row: DeadlineRow | None, fact: Fact, key: Key) -> DeadlineRow | None:
        match fact.event:
            case Deadline.Set(token=token, saga_id=saga_id, kind=kind, due_at=due_at):
                return DeadlineRow(token, saga_id, kind, due_at, elapsed=False)
            case Deadline.Elapsed(token=token, saga_id=saga_id, kind=kind) if row is not None:
                return DeadlineRow(token, saga_id, kind, row.due_at, elapsed=True)
        return row


READ_MODELS = (Deadlines(), Sagas())
