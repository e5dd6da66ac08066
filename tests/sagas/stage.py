"""A play of sagas through crashes, doubled and late facts, and the decisions of operators."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import count, cycle
from typing import Any, cast
from uuid import UUID

from structlog.testing import capture_logs

from domain.kernel import EventLog, Fact, new_scope, within
from domain.kernel.write import Write, Written
from domain.sagas.deadline import Deadline
from domain.sagas.operations import SagaOperations
from domain.sagas.plan import Plan
from domain.sagas.process import COMPENSATE, PARKED, RETRY, Process
from infrastructure.database import Database, Role
from infrastructure.event_store import open_event_log
from tests.needs import THOROUGH
from workers.saga_runner import Handler, name_of

from .faults import MAX_WRITES, SOME_ORDER, Crash, Fault, Faults, Oracle
from .play import Play
from .worlds import START


class Stage(Play):
    """Runs sagas and plans, as its play does, and breaks them."""

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


class Timeline:
    """A log with a clock that stands until it is told to move."""

    now: datetime
    log: EventLog

    def staged(self, handlers: Sequence[Handler], village: Any) -> Stage:
        """A stage for sagas on it."""
        raise NotImplementedError


class StoredTimeline(Timeline):
    """In a database."""

    def __init__(self, url: str, database: Database) -> None:
        self.now = START
        self.database = database
        self.log = open_event_log(url, clock=lambda: self.now)

    def staged(self, handlers: Sequence[Handler], village: Any) -> Stage:
        return Stage(self, handlers, village)
