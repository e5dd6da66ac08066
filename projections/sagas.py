"""Read models of the sagas: the deadlines that are to come."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from domain.kernel.fact import Fact
from domain.sagas.deadline import Deadline

from .rows import Key, ReadModel, Row


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
    listens = (Deadline.Set, Deadline.Elapsed)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.stream,)

    def evolve(self, row: DeadlineRow | None, fact: Fact, key: Key) -> DeadlineRow | None:
        match fact.event:
            case Deadline.Set(token=token, saga_id=saga_id, kind=kind, due_at=due_at):
                return DeadlineRow(token, saga_id, kind, due_at, elapsed=False)
            case Deadline.Elapsed(token=token, saga_id=saga_id, kind=kind) if row is not None:
                return DeadlineRow(token, saga_id, kind, row.due_at, elapsed=True)
        return row


READ_MODELS = (Deadlines(),)
