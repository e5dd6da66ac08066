"""A process of several steps under crashes, refusals, late and doubled facts, and a clock one can turn."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.kernel import Created, EventLog, Fact, Refusal, derive, event, new_scope, within
from domain.kernel.aggregate import Aggregate
from domain.kernel.errors import LogUnavailable
from domain.kernel.write import Write, Written
from domain.sagas.deadline import Deadlines
from domain.sagas.plan import Plan, Step, pause_ms
from domain.sagas.process import (
    ABANDON,
    COMPENSATE,
    COMPENSATED,
    COMPLETED,
    ENDED,
    PARKED,
    RETRY,
    ActionUnknown,
    PivotPassed,
    Process,
    ProcessNotParked,
)
from infrastructure.database import Database, Role
from infrastructure.event_store import LogReader, open_event_log
from projections.sagas import Deadlines as DeadlineRows
from tests.ledger import Account, Ledger
from workers.deadline_clock import DeadlineClock
from workers.projector import Projector
from workers.saga_runner import SagaRunner

START = datetime(2026, 1, 1, tzinfo=UTC)


class SeatTaken(Refusal):
    """A seat is booked once."""


class GateClosed(Refusal):
    """The gate opens again."""

    status = 503


class Order(Aggregate, context="testing"):
    """What begins a process in these tests."""

    class Placed(Created):
        order_id: UUID
        buyer: UUID
        seller: UUID
        grains: int

    @event(Placed)
    def __init__(self, order_id: UUID, buyer: UUID, seller: UUID, grains: int) -> None:
        self.buyer = buyer

    @staticmethod
    def create_id(order_id: UUID) -> UUID:
        return order_id


class Shop:
    """The services of these tests. `refusing` names steps that are refused, and by what."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.ledger = Ledger(log)
        self.refusing: dict[str, list[Refusal]] = {}
        self.undone: list[str] = []

    def refuse(self, name: str) -> None:
        waiting = self.refusing.get(name, [])
        if waiting:
            raise waiting[0] if len(waiting) == 1 else waiting.pop(0)


def _take(process: Process, shop: Shop) -> None:
    grains = int(process.subject["grains"])
    shop.ledger.withdraw(account_id=UUID(process.subject["buyer"]), grains=grains)
    shop.refuse("take")


def _give_back(process: Process, shop: Shop) -> None:
    shop.refuse("give back")
    shop.undone.append("take")
    shop.ledger.deposit_to_open(account_id=UUID(process.subject["buyer"]), grains=int(process.subject["grains"]))


def _book(process: Process, shop: Shop) -> None:
    shop.ledger.open(account_id=process.step_id("book"), owner="a seat")
    shop.refuse("book")


def _unbook(process: Process, shop: Shop) -> None:
    shop.undone.append("book")


def _pay(process: Process, shop: Shop) -> None:
    shop.refuse("pay")
    shop.ledger.deposit_to_open(account_id=UUID(process.subject["seller"]), grains=int(process.subject["grains"]))


def _thank(process: Process, shop: Shop) -> None:
    shop.refuse("thank")


class Sale(Plan):
    """Take the money, book the seat, pay the seller (no way back from there), thank the buyer."""

    name = "sale"
    timeout_ms = 3_600_000
    begins_on = (Order.Placed,)
    steps = (
        Step("take", _take, _give_back),
        Step("book", _book, _unbook),
        Step("pay", _pay, pivot=True),
        Step("thank", _thank),
    )

    def subject_of(self, fact: Fact) -> dict[str, str] | None:
        placed = fact.event
        return {"buyer": str(placed.buyer), "seller": str(placed.seller), "grains": str(placed.grains)}


class World:
    """A log, a shop, a plan and a clock one can turn. Buyers begin with 100 grains, sellers with none."""

    def __init__(self, url: str, database: Database) -> None:
        self.now = START
        self.database = database
        self.log = open_event_log(url, clock=lambda: self.now)
        self.shop = Shop(self.log)
        deadlines = Deadlines(self.log)
        self.plan = Sale(deadlines)
        self.clock = DeadlineClock(deadlines, database, clock=lambda: self.now)
        self.projector = Projector(database, [DeadlineRows()])

    def close(self) -> None:
        self.log.close()
        self.projector.close()

    def order(self, grains: int = 30) -> UUID:
        """Place an order; answers the id of its process."""
        order_id, self.buyer, self.seller = uuid4(), uuid4(), uuid4()
        self.ask(self.shop.ledger.deposit, account_id=self.buyer, grains=100)
        self.ask(self.shop.ledger.open, account_id=self.seller)
        placed = Order(order_id=order_id, buyer=self.buyer, seller=self.seller, grains=grains)
        with within(new_scope("test", now=self.now)):
            self.log.record(placed)
        return self.process_id(order_id)

    def process_id(self, order_id: UUID) -> UUID:
        (fact,) = [fact for fact in self.facts() if fact.stream == order_id]
        return derive("sagas.Process", "sale", fact.event_id)

    def ask(self, command: Callable[..., Any], **arguments: Any) -> None:
        with within(new_scope("test", now=self.now)):
            command(**arguments)

    def runner(self) -> SagaRunner:
        return SagaRunner(self.log, self.database, [self.plan], self.shop)

    def run(self) -> None:
        """Until nothing moves without time passing."""
        while True:
            runner = self.runner()
            runner.run_once()
            runner.close()
            self.projector.run_once()
            if not self.clock.tick():
                return

    def wait(self, hours: float = 2.0, step: timedelta = timedelta(minutes=5)) -> None:
        until = self.now + timedelta(hours=hours)
        while self.now < until:
            self.now += step
            self.run()

    def process(self, process_id: UUID) -> Process:
        return self.log.load(Process, process_id)

    def balances(self) -> tuple[int, int]:
        return self.log.load(Account, self.buyer).balance, self.log.load(Account, self.seller).balance

    def steps(self, process_id: UUID) -> list[str]:
        return [fact.topic.rpartition(".")[2] for fact in self.facts() if fact.stream == process_id]

    def facts(self) -> list[Fact]:
        with self.database.connect(Role.READER) as connection:
            return [record.fact() for record in LogReader(connection).after(0).records]

    def resolve(self, process_id: UUID, action: str) -> None:
        with within(new_scope("operator:test", now=self.now)):
            process = self.process(process_id)
            process.resolve(action, "the test asks", pivot_passed=self.plan.pivot_passed(process))
            self.log.record(process)
        self.run()


@pytest.fixture
def world(database_url: str, database: Database) -> Iterator[World]:
    world = World(database_url, database)
    yield world
    world.close()


def test_a_process_goes_through_its_steps_and_completes(world: World) -> None:
    process_id = world.order()
    world.run()
    assert world.steps(process_id) == ["Began", *["StepDone"] * 4, "Completed"]
    assert world.balances() == (70, 30)


def test_a_refused_step_undoes_what_was_done_in_reverse(world: World) -> None:
    world.shop.refusing["pay"] = [SeatTaken()]
    process_id = world.order()
    world.run()
    assert world.shop.undone == ["book", "take"]
    assert world.process(process_id).status == COMPENSATED
    assert world.process(process_id).reason == "seat_taken"
    assert world.balances() == (100, 0)


def test_what_a_refused_step_had_decided_before_is_not_recorded(world: World) -> None:
    world.shop.refusing["take"] = [SeatTaken()]
    process_id = world.order()
    world.run()
    assert world.steps(process_id) == ["Began", "Compensated"]
    assert world.balances() == (100, 0)


def test_a_transient_refusal_is_tried_again_after_a_pause_and_then_goes_on(world: World) -> None:
    world.shop.refusing["book"] = [GateClosed(), GateClosed(), GateClosed()]
    process_id = world.order()
    world.run()
    assert world.steps(process_id) == ["Began", "StepDone", "StepRetried"]
    world.shop.refusing["book"] = []
    world.wait(0.1)
    assert world.process(process_id).status == COMPLETED


def test_retries_are_bounded_and_then_the_process_compensates(world: World) -> None:
    world.shop.refusing["book"] = [GateClosed()]
    process_id = world.order()
    world.wait(0.9)
    assert world.steps(process_id).count("StepRetried") == 3
    assert world.process(process_id).status == COMPENSATED
    assert world.balances() == (100, 0)


def test_after_the_pivot_a_refusal_parks_the_process_and_undoes_nothing(world: World) -> None:
    world.shop.refusing["thank"] = [SeatTaken()]
    process_id = world.order()
    world.run()
    assert (world.process(process_id).status, world.process(process_id).reason) == (PARKED, "seat_taken")
    assert world.balances() == (70, 30)


def test_an_operator_lets_a_parked_process_try_again(world: World) -> None:
    world.shop.refusing["thank"] = [SeatTaken()]
    process_id = world.order()
    world.run()
    world.shop.refusing = {}
    world.resolve(process_id, RETRY)
    assert world.process(process_id).status == COMPLETED


def test_an_operator_abandons_a_parked_process(world: World) -> None:
    world.shop.refusing["thank"] = [SeatTaken()]
    process_id = world.order()
    world.run()
    world.resolve(process_id, ABANDON)
    assert world.process(process_id).status == COMPENSATED


def test_an_undo_that_keeps_being_refused_parks_until_an_operator_lets_it_try_again(world: World) -> None:
    world.shop.refusing = {"pay": [SeatTaken()], "give back": [SeatTaken()]}
    process_id = world.order()
    world.wait(0.5)
    assert world.process(process_id).status == PARKED
    world.shop.refusing = {}
    world.resolve(process_id, RETRY)
    assert world.process(process_id).status == COMPENSATED
    assert world.balances() == (100, 0)


def test_an_operator_s_decision_must_make_sense(world: World) -> None:
    world.shop.refusing["thank"] = [SeatTaken()]
    process_id = world.order()
    world.run()
    with pytest.raises(PivotPassed):
        world.resolve(process_id, COMPENSATE)
    with pytest.raises(ActionUnknown):
        world.resolve(process_id, "pray")
    world.resolve(process_id, ABANDON)
    with pytest.raises(ProcessNotParked):
        world.resolve(process_id, RETRY)


def test_a_process_that_takes_too_long_compensates(world: World) -> None:
    class Slow(Sale):
        timeout_ms = 2_000

    world.plan = Slow(Deadlines(world.log))
    world.shop.refusing["book"] = [GateClosed()]
    process_id = world.order()
    world.run()
    world.now += timedelta(seconds=2)
    world.run()
    world.wait(0.1)
    assert world.process(process_id).status == COMPENSATED
    assert world.balances() == (100, 0)


def test_facts_delivered_again_change_nothing(world: World) -> None:
    process_id = world.order()
    world.run()
    before = world.log.head()
    with world.database.connect(Role.PROJECTOR) as connection:
        connection.execute("UPDATE engine.cursors SET position = 0 WHERE name = 'saga:sale'")
    world.run()
    assert world.log.head() == before
    assert world.process(process_id).status == COMPLETED


def test_pauses_double_are_bounded_and_come_out_the_same_in_a_replay() -> None:
    process_id = UUID(int=1)
    pauses = [pause_ms(process_id, attempt, 1_000, 8_000) for attempt in range(1, 8)]
    assert pauses == [pause_ms(process_id, attempt, 1_000, 8_000) for attempt in range(1, 8)]
    assert all(
        whole // 2 <= pause <= whole
        for pause, whole in zip(pauses, [1_000, 2_000, 4_000, 8_000, 8_000, 8_000, 8_000], strict=True)
    )


refusals = st.dictionaries(
    st.sampled_from(["take", "book", "pay", "thank", "give back"]), st.sampled_from([SeatTaken, GateClosed])
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(refusals, st.lists(st.integers(0, 12), max_size=4))
def test_a_process_ends_or_parks_by_its_deadline_and_pays_at_most_once_whatever_crashes(
    world: World, refusing: dict[str, type[Refusal]], crashes: list[int]
) -> None:
    world.shop.refusing = {name: [kind()] for name, kind in refusing.items()}
    process_id = world.order()
    with _crashing(world, crashes):
        for _ in range(len(crashes) + 1):
            with suppress(LogUnavailable):
                world.run()
    world.wait(1.2, timedelta(minutes=10))

    process = world.process(process_id)
    assert process.status in {*ENDED, PARKED}
    paid = world.balances()
    if process.status == COMPLETED:
        assert paid == (70, 30)
    elif process.status == COMPENSATED:
        assert paid == (100, 0)
    else:
        assert paid in {(70, 30), (70, 0)}  # after the pivot, or with an undo that is refused


class _crashing:
    """The recorder fails at these writes, every other time after it has written: the world's edge, not ours."""

    def __init__(self, world: World, at: list[int]) -> None:
        self._recorder = cast(Any, world.log.recorder)
        self._at = set(at)
        self._count = 0

    def __enter__(self) -> None:
        self._write: Callable[[Write], Written] = self._recorder.write
        self._recorder.write = self._crash_or_write

    def __exit__(self, *why: Any) -> None:
        del self._recorder.write

    def _crash_or_write(self, write: Write) -> Written:
        self._count += 1
        if self._count not in self._at:
            return self._write(write)
        if self._count % 2:
            self._write(write)
        raise LogUnavailable("a crash")
