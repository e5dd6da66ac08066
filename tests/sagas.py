"""A stage for sagas: facts in, facts out, a clock that jumps to the next deadline, crashes, doubled and late facts."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import count, cycle
from typing import Any, Protocol, Self, cast
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from domain.kernel import EventLog, Fact, Receipt, new_scope, within
from domain.kernel.errors import LogUnavailable
from domain.kernel.mapper import codec_of
from domain.kernel.unit import Recordable
from domain.kernel.write import Write, Written
from domain.sagas.deadline import Deadline, Deadlines
from domain.sagas.operations import SagaOperations
from domain.sagas.plan import Plan
from domain.sagas.process import COMPENSATE, PARKED, RETRY, Process
from infrastructure.database import Database, Role
from infrastructure.event_store import LogReader, open_event_log
from infrastructure.event_store.reader import MAX_POSITION
from projections.rows import ReadModel
from projections.sagas import Deadlines as DeadlineRows
from tests.facts import FactIn
from tests.needs import THOROUGH
from workers.deadline_clock import DeadlineClock
from workers.projector import Projector
from workers.saga_runner import Handler, SagaRunner, name_of

START = datetime(2026, 1, 1, tzinfo=UTC)
MAX_TURNS, MAX_JUMPS, MAX_WRITES = 100, 200, 60
_NEXT = "SELECT min(due_at) FROM read.deadlines WHERE NOT elapsed"

Oracle = Callable[[], None]
"""Asserts what must hold at an end state."""


class World(Protocol):
    """What a stage stands on: a log, and the instant its clock shows."""

    now: datetime
    log: EventLog


class StoredWorld(World, Protocol):
    """Its log is in a database."""

    database: Database


class Projects(Protocol):
    """What folds read models."""

    def run_once(self) -> object: ...

    def close(self) -> None: ...


class Timeline:
    """A log with a clock that stands until it is told to move."""

    now: datetime
    log: EventLog

    def staged(self, handlers: Sequence[Handler], village: Any) -> "Stage":
        """A stage for sagas on it."""
        raise NotImplementedError


class StoredTimeline(Timeline):
    """In a database."""

    def __init__(self, url: str, database: Database) -> None:
        self.now = START
        self.database = database
        self.log = open_event_log(url, clock=lambda: self.now)

    def staged(self, handlers: Sequence[Handler], village: Any) -> "Stage":
        return Stage(self, handlers, village)


class Crash(BaseException):
    """The process ends here; nothing catches it but the stage, which starts another process."""


class Fault(Enum):
    """What happens at a write to the log: the process dies, or only the answer of the database is lost."""

    DIES_BEFORE = (Crash, False)
    DIES_AFTER = (Crash, True)
    LOST_BEFORE = (LogUnavailable, False)
    LOST_AFTER = (LogUnavailable, True)


DEATHS = (Fault.DIES_BEFORE, Fault.DIES_AFTER)
Faults = Mapping[int, Fault]
"""The number of a write, from 1, to what happens there."""
faults: st.SearchStrategy[Faults] = st.dictionaries(st.integers(1, 12), st.sampled_from(Fault), max_size=4)

SOME_ORDER = (3, 1, 0, 7, 2, 0, 5, 1, 11, 0, 13, 4)
deliveries: st.SearchStrategy[list[int]] = st.lists(st.integers(0, 99), max_size=12)
"""Which of the facts known by then comes next, or that time passes."""


stormy = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""For properties over faults and deliveries, in one village."""


@dataclass(frozen=True)
class An:
    """Stands in an expected fact for an id the test cannot know: one name is one id, wherever it occurs."""

    name: str


class Stage:
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

    # Crashes.

    def crash_points(self, scenario: Callable[[], Oracle], kinds: Iterable[Fault] = Fault) -> int:
        """Play a scenario once for every kind of fault at every write of the log; answers how many writes there are.

        A scenario begins something, and answers what must hold when nothing moves any more. To have died after a write
        leaves the log that dying before the next one leaves: only the thorough form plays both.
        """
        kinds = list(kinds)
        for number in count(1):
            for fault in kinds:
                if fault is Fault.DIES_BEFORE and Fault.DIES_AFTER in kinds and number > 1 and not THOROUGH:
                    continue
                oracle = scenario()
                struck = self.survive({number: fault})
                oracle()
                if not struck:
                    return number - 1
            assert number < MAX_WRITES, "a scenario is bounded"
        raise AssertionError("count() has no end")

    def survive(self, faults: Faults) -> bool:
        """Until nothing moves, through these faults; whether all of them have struck."""
        with capture_logs(), self._broken(faults) as to_come:
            while True:
                try:
                    self.until_quiet()
                    return not to_come
                except Crash:
                    self.forget()

    def forget(self) -> None:
        """What a new process knows of the log: nothing."""
        self.world.log.cache = type(self.world.log.cache)(4_096)

    @contextmanager
    def _broken(self, faults: Faults) -> Iterator[dict[int, Fault]]:
        """The recorder breaks at these writes: the edge of the world. Gives those that have not struck yet."""
        recorder, numbers, to_come = cast(Any, self.world.log.recorder), count(1), dict(faults)
        write: Callable[[Write], Written] = recorder.write

        def broken(asked: Write) -> Written:
            fault = to_come.pop(next(numbers), None)
            if fault is None:
                return write(asked)
            error, after = fault.value
            if after:
                write(asked)
            raise error(fault.name)

        recorder.write = broken
        try:
            yield to_come
        finally:
            del recorder.write

    # Deliveries.

    def deliver(self, fact: Fact) -> None:
        """Hand one fact to the sagas as the runner does, whatever its cursor says."""
        for handler in self.handlers:
            if fact.topic in {event.TOPIC for event in handler.listens} and handler.concerns(fact):
                scope = new_scope(
                    f"saga:{name_of(handler)}", now=fact.recorded_at,
                    correlation_id=fact.correlation_id, causation_id=fact.event_id,
                )  # fmt: skip
                with within(scope):
                    self.world.log.transact(lambda: handler.handle(fact, self.world.log, self.village))  # noqa: B023

    def deliver_anyhow(self, deliveries: Sequence[int]) -> None:
        """Facts since all was quiet come in any order and number, and time passes; at last all is quiet again.

        The runner delivers every fact in order, too, so that each comes at least once.
        """
        after = self._quiet_at
        for number in deliveries:
            choices = [None, *self.heard(after)]
            if (fact := choices[number % len(choices)]) is None:
                self.projector.run_once()
                self.jump()
                self.clock.tick()
            else:
                self.deliver(fact)
        self.until_quiet()

    def heard(self, after: int = 0) -> list[Fact]:
        """The facts after a position that the sagas listen to."""
        topics = {event.TOPIC for handler in self.handlers for event in handler.listens}
        return [fact for fact in self.facts(after) if fact.topic in topics]

    def begin_again(self) -> None:
        """The runner loses its place, so that all of history is delivered to it again."""
        with self._stored.database.connect(Role.PROJECTOR) as connection:
            connection.execute("UPDATE engine.cursors SET position = 0 WHERE name LIKE 'saga:%%'")

    # The same for every saga.

    def storm(self, scenario: Callable[[], Oracle], deliveries: Sequence[int]) -> None:
        """What must hold of a scenario holds whatever order and number its facts come in, and after all of history."""
        self.until_quiet()
        oracle = scenario()
        self.deliver_anyhow(deliveries)
        oracle()
        self.begin_again()
        self.until_quiet()
        oracle()

    def strike(self, scenario: Callable[[], Oracle], faults: Faults) -> None:
        """What must hold of a scenario holds whatever fails."""
        oracle = scenario()
        self.survive(faults)
        oracle()

    def stumble(self, scenario: Callable[[], Oracle]) -> None:
        """What must hold of a scenario holds where each of its writes fails, before it is made and after, and where its
        facts come twice and late. On a real log one such walk stands for the search that is made in memory.
        """
        self.strike(scenario, dict(zip(range(1, 4 * MAX_WRITES), cycle(Fault), strict=False)))
        self.storm(scenario, SOME_ORDER)

    def adds_nothing(self) -> None:
        """A whole history that is delivered again records nothing new."""
        head = self.world.log.head()
        self.begin_again()
        self.run()
        assert self.world.log.head() == head

    def resolve(self, process_id: UUID, action: str) -> None:
        """An operator decides over a parked process, and the sagas go on."""
        operations: SagaOperations = self.village.sagas
        self.ask(operations.resolve_process, process_id=process_id, action=action, reason="the test asks")
        self.run()

    def stand_still(self, process_id: UUID) -> None:
        """The village does nothing for longer than a process has, and hears first that its time is over."""
        runner = self.runner()
        runner.step()
        runner.close()
        self.time_out(process_id)

    def time_out(self, process_id: UUID) -> None:
        """The village does nothing more until the time of a process is over, and hears that first."""
        self.projector.run_once()
        self.world.now = self.world.log.load(Process, process_id).due_at
        self.clock.tick()
        over = Plan.timeout_token(process_id)
        for fact in self.facts():
            if isinstance(fact.event, Deadline.Elapsed) and fact.event.token == over:
                self.deliver(fact)
        self.run()

    def settle_parked(self, *process_ids: UUID) -> None:
        """What is parked is tried again, and taken back where it is too late for that; by default all that was."""
        found = {fact.stream for fact in self.facts() if isinstance(fact.event, Process.Parked)}
        for process_id in process_ids or sorted(found):
            for action in (RETRY, COMPENSATE):
                if self.world.log.load(Process, process_id).status == PARKED:
                    self.resolve(process_id, action)
                    self.until_quiet()

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
