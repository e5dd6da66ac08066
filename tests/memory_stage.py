"""The stage for sagas in memory: the same runner, clock and decisions, without a server."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol, cast
from uuid import UUID

from domain.kernel import EventLog, Fact
from domain.sagas.deadline import Deadlines
from infrastructure.event_store.reader import Batch
from projections.rows import Key, ReadModel
from projections.sagas import DeadlineRow
from projections.sagas import Deadlines as DeadlineRows
from tests.memory import MemoryRecorder, memory_log
from tests.sagas import START, Projects, Stage, Timeline
from workers.deadline_clock import DeadlineClock
from workers.saga_runner import Handler, SagaRunner

NO_DATABASE: Any = None


class MemoryWorld(Protocol):
    """Its log is in memory."""

    now: datetime
    log: EventLog
    recorder: MemoryRecorder


class MemoryBatch(NamedTuple):
    """Facts after a position, as a batch of the log."""

    records: list[Fact]
    end: int

    def facts(self, topics: Collection[str]) -> list[Fact]:
        return [fact for fact in self.records if fact.topic in topics]


class MemoryRunner(SagaRunner):
    """Reads facts and cursors from memory."""

    def __init__(self, world: MemoryWorld, handlers: Sequence[Handler], village: Any) -> None:
        super().__init__(world.log, NO_DATABASE, handlers, village)
        self._recorder = world.recorder

    def _read(self, after: int) -> Batch:
        facts = self._recorder.facts(after)
        return cast(Batch, MemoryBatch(facts, after + len(facts)))

    def _positions(self) -> dict[str, int]:
        return {name: self._recorder.cursors.get((name, 0), 0) for name in self._sagas}


class MemoryProjector:
    """Folds read models by their own `evolve`, up to where it was last run."""

    def __init__(self, recorder: MemoryRecorder, models: Sequence[ReadModel[Any]]) -> None:
        self._recorder = recorder
        self._models = {type(model): model for model in models}
        self._rows: dict[type[Any], dict[Key, Any]] = {kind: {} for kind in self._models}
        self.position = 0

    def run_once(self) -> None:
        for fact in self._recorder.facts(self.position):
            self.position = fact.position
            for kind, model in self._models.items():
                if fact.topic in model.topics:
                    rows = self._rows[kind]
                    rows.update({key: model.evolve(rows.get(key), fact, key) for key in model.keys(fact)})

    def rows(self, kind: type[Any]) -> list[Any]:
        """The rows of a model, in the order in which they began."""
        return [row for row in self._rows[kind].values() if row is not None]

    def close(self) -> None:
        """Nothing is open."""


class MemoryClock(DeadlineClock):
    """Finds what is due among folded rows."""

    def __init__(self, world: MemoryWorld, projector: MemoryProjector) -> None:
        super().__init__(Deadlines(world.log), NO_DATABASE, clock=lambda: world.now)
        self._projector = projector

    def _due(self, now: datetime) -> list[UUID]:
        due = [row for row in to_come(self._projector) if row.due_at <= now]
        return [row.token for row in sorted(due, key=lambda row: (row.due_at, row.token))]


class MemoryStage(Stage):
    """Runs sagas and plans on the real runner and deadline clock, over a log in memory."""

    projector: MemoryProjector

    def machines(self, models: Sequence[ReadModel[Any]]) -> tuple[DeadlineClock, Projects]:
        projector = MemoryProjector(self._memory.recorder, models)
        return MemoryClock(self._memory, projector), projector

    def runner(self) -> SagaRunner:
        return MemoryRunner(self._memory, self.handlers, self.village)

    def next_due(self) -> datetime | None:
        return min((row.due_at for row in to_come(self.projector)), default=None)

    def begin_again(self) -> None:
        self._memory.recorder.cursors.clear()

    def facts(self, after: int = 0) -> list[Fact]:
        return self._memory.recorder.facts(after)

    @property
    def _memory(self) -> MemoryWorld:
        return cast(MemoryWorld, self.world)


def to_come(projector: MemoryProjector) -> list[DeadlineRow]:
    """The deadlines that have not elapsed."""
    return [row for row in projector.rows(DeadlineRows) if not row.elapsed]


class MemoryTimeline(Timeline):
    """In memory."""

    def __init__(self) -> None:
        self.now = START
        self.recorder = MemoryRecorder(lambda: self.now)
        self.log = memory_log(self.recorder)

    def staged(self, handlers: Sequence[Handler], village: Any) -> Stage:
        return MemoryStage(self, handlers, village)
