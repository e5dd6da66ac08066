"""Facts in, facts out, and a clock that jumps to the next deadline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self, cast
from uuid import UUID

from domain.kernel import Fact, Receipt, new_scope, within
from domain.kernel.errors import LogUnavailable
from domain.kernel.mapper import codec_of
from domain.kernel.unit import Recordable
from domain.sagas.deadline import Deadlines
from infrastructure.event_store import LogReader
from infrastructure.event_store.reader import MAX_POSITION
from projections.rows import ReadModel
from projections.sagas import Deadlines as DeadlineRows
from tests.facts import FactIn
from workers.deadline_clock import DeadlineClock
from workers.projector import Projector
from workers.saga_runner import Handler, SagaRunner

from .worlds import Projects, StoredWorld, World

MAX_TURNS, MAX_JUMPS = 100, 200
_NEXT = "SELECT min(due_at) FROM read.deadlines WHERE NOT elapsed"


@dataclass(frozen=True)
class An:
    """Stands in an expected fact for an id the test cannot know: one name is one id, wherever it occurs."""

    name: str


class Play:
    """Runs sagas and plans on the real runner, deadline clock and Postgres.

    Args:
        village: what the sagas command.
        models: read models that are folded when the sagas have run, besides that of deadlines.
    """

    world: World
    clock: DeadlineClock
    projector: Projects

    def __init__(
        self, world: Any, handlers: Sequence[Handler], village: Any, models: Sequence[ReadModel[Any]] = ()
    ) -> None:
        self.world = world
        self.handlers = handlers
        self.village = village
        self.clock, self.projector = self.machines([DeadlineRows(), *models])
        self._quiet_at = self._since = 0
        self._names: dict[UUID, An] = {}

    def close(self) -> None:
        self.projector.close()
        self.world.log.close()

    def machines(self, models: Sequence[ReadModel[Any]]) -> tuple[DeadlineClock, Projects]:
        """The deadline clock, and what folds these read models."""
        database = self._stored.database
        clock = DeadlineClock(Deadlines(self.world.log), database, clock=lambda: self.world.now)
        return clock, Projector(database, models)

    def runner(self) -> SagaRunner:
        """A saga runner that has just been started."""
        return SagaRunner(self.world.log, self._stored.database, self.handlers, self.village)

    @property
    def _stored(self) -> StoredWorld:
        return cast(StoredWorld, self.world)

    # Given, when, then.

    def given(self, *things: Recordable | Callable[[], object]) -> Self:
        """What has happened: aggregates with their facts, commuting facts, or commands to call."""
        for thing in things:
            if callable(thing):
                self.ask(thing)
            else:
                self.ask(self.world.log.record, thing)
        self.run()
        self._names.clear()
        self._since = self.world.log.head()
        return self

    def when(self, *things: Recordable | Callable[[], object]) -> Self:
        """What happens now; the sagas react to it until nothing moves without time passing."""
        since = self.world.log.head()
        self.given(*things)
        self._since = since
        return self

    def when_time_comes(self) -> Self:
        """The next deadline elapses."""
        self._since = self.world.log.head()
        self.jump()
        self.run()
        return self

    def then(self, *expected: FactIn) -> Self:
        """The sagas decided exactly these facts since, in this order; of each the fields that are named.

        Instants are expected as a timedelta from now, ids nobody knows as `An("hold")`.
        """
        decided = [fact.event for fact in self.facts(self._since) if fact.actor.startswith("saga:")]
        wanted = [fields for _, fields in expected] + [{}] * len(decided)
        assert [self._as_expected(event, fields) for event, fields in zip(decided, wanted, strict=False)] == [*expected]
        return self

    def _as_expected(self, event: Any, fields: dict[str, Any]) -> FactIn:
        assert not fields.keys() - codec_of(type(event).TOPIC).names, f"{type(event).TOPIC} has no such fields"
        return type(event), {name: self._normal(getattr(event, name), wanted) for name, wanted in fields.items()}

    def _normal(self, value: Any, wanted: Any) -> Any:
        if isinstance(wanted, timedelta) and isinstance(value, datetime):
            return value - self.world.now
        if isinstance(wanted, An) and isinstance(value, UUID) and wanted not in self._names.values():
            return self._names.setdefault(value, wanted)
        return self._names.get(value, value) if isinstance(wanted, An) else value

    # What happens besides.

    def ask(self, command: Callable[..., Any], *things: Any, **arguments: Any) -> Receipt:
        """One command of the test, at this instant."""
        with within(new_scope("test", now=self.world.now)):
            return cast(Receipt, command(*things, **arguments))

    def facts(self, after: int = 0) -> list[Fact]:
        """The log after a position."""
        with self._stored.database.reader.connection() as connection:
            batches = LogReader(connection).all(MAX_POSITION, after)
            return [record.fact() for batch in batches for record in batch.records]

    # Time.

    def run(self) -> None:
        """Until nothing moves without time passing."""
        for _ in range(MAX_TURNS):
            runner, reached = self.runner(), 0
            try:
                reached = runner.run_once()
            except LogUnavailable:
                pass  # the pump of the runner goes on as well
            finally:
                runner.close()
            self.projector.run_once()
            if not self.clock.tick() and reached >= self.world.log.head():
                return
        raise AssertionError("the sagas do not come to rest")

    def jump(self) -> bool:
        """Turn the clock to the next deadline; whether there is one."""
        due_at = self.next_due()
        if due_at is not None:
            self.world.now = max(self.world.now, due_at)
        return due_at is not None

    def next_due(self) -> datetime | None:
        """The instant of the next deadline."""
        with self._stored.database.reader.connection() as connection:
            ((due_at,),) = connection.execute(_NEXT).fetchall()
        return cast(datetime | None, due_at)

    def until_quiet(self) -> Self:
        """Let every deadline come, one after the other, until none is left to come."""
        for _ in range(MAX_JUMPS):
            self.run()
            if not self.jump():
                self._quiet_at = self.world.log.head()
                return self
        raise AssertionError("the sagas set one deadline after the other")

    def wait(self, **delta: float) -> None:
        """Let this time pass at once, and then everything come that is due."""
        self.world.now += timedelta(**delta)
        self.run()
