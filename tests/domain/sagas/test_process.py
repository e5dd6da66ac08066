"""A process of several steps under crashes, refusals, late and doubled facts, and a clock one can turn."""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel import Created, EventLog, Fact, Refusal, derive, event
from domain.kernel.aggregate import Aggregate
from domain.sagas.deadline import Deadline, Deadlines
from domain.sagas.plan import Plan, Step, pause_ms
from domain.sagas.process import (
    ABANDON,
    COMPENSATE,
    COMPENSATED,
    COMPLETED,
    PARKED,
    RETRY,
    ActionUnknown,
    PivotPassed,
    Process,
    ProcessNotParked,
)
from infrastructure.database import Database
from tests.ledger import Account, Ledger
from tests.memory_stage import MemoryTimeline
from tests.sagas import An, Faults, Oracle, StoredTimeline, Timeline, deliveries, faults, stormy


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


class Shopping(Timeline):
    """A shop, and a plan on a stage."""

    plan: Plan

    def __init__(self, *where: Any) -> None:
        super().__init__(*where)
        self.shop = Shop(self.log)
        self.plan = Sale(Deadlines(self.log))
        self.stage = self.staged([self.plan], self.shop)

    def process(self, process_id: UUID) -> Process:
        return self.log.load(Process, process_id)

    def steps(self, process_id: UUID) -> list[str]:
        return [fact.topic.rpartition(".")[2] for fact in self.stage.facts() if fact.stream == process_id]

    def resolve(self, process_id: UUID, action: str) -> None:
        process = self.process(process_id)
        process.resolve(action, "the test asks", pivot_passed=self.plan.pivot_passed(process))
        self.stage.when(process)


class Fair(Shopping):
    """Buyers begin with 100 grains, sellers with none."""

    def order(self) -> UUID:
        """Place an order of 30 grains; answers the id of its process."""
        order_id, self.buyer, self.seller = uuid4(), uuid4(), uuid4()
        self.stage.ask(self.shop.ledger.deposit, account_id=self.buyer, grains=100)
        self.stage.ask(self.shop.ledger.open, account_id=self.seller)
        self.stage.ask(self.log.record, Order(order_id=order_id, buyer=self.buyer, seller=self.seller, grains=30))
        (placed,) = [fact for fact in self.stage.facts() if fact.stream == order_id]
        return derive("sagas.Process", "sale", placed.event_id)

    def balances(self) -> tuple[int, int]:
        return self.log.load(Account, self.buyer).balance, self.log.load(Account, self.seller).balance

    def ends_well(self, process_id: UUID) -> None:
        """A process that has ended or is parked has moved the money once, or not at all."""
        process = self.process(process_id)
        if process.status == COMPLETED:
            assert self.balances() == (70, 30)
        elif process.status == COMPENSATED:
            assert self.balances() == (100, 0)
        else:
            assert process.status == PARKED
            assert self.balances() in {(70, 30), (70, 0)}  # after the pivot, or with an undo that is refused


class StoredFair(Fair, StoredTimeline):
    """In a database."""


class MemoryFair(Fair, MemoryTimeline):
    """In memory."""


@pytest.fixture
def fair() -> Iterator[Fair]:
    fair = MemoryFair()
    yield fair
    fair.stage.close()


@pytest.fixture
def stored_fair(database_url: str, database: Database) -> Iterator[Fair]:
    fair = StoredFair(database_url, database)
    yield fair
    fair.stage.close()


def test_a_process_goes_through_its_steps_and_completes(fair: Fair) -> None:
    process_id = fair.order()
    fair.stage.run()
    assert fair.steps(process_id) == ["Began", *["StepDone"] * 4, "Completed"]
    assert fair.balances() == (70, 30)


def test_an_order_begins_a_process_whose_first_step_takes_the_money(fair: Fair) -> None:
    fair.shop.refusing["book"] = [GateClosed()]
    buyer, seller, ledger = uuid4(), uuid4(), fair.shop.ledger
    fair.stage.given(
        partial(ledger.deposit, account_id=buyer, grains=100), partial(ledger.open, account_id=seller)
    ).when(Order(order_id=uuid4(), buyer=buyer, seller=seller, grains=30)).then(
        (Deadline.Set, {"token": An("timeout"), "due_at": timedelta(hours=1)}),
        (Process.Began, {"process_id": An("process"), "plan": "sale", "due_at": timedelta(hours=1)}),
        (Account.Withdrawn, {"grains": 30}),
        (Process.StepDone, {"step": 0, "name": "take"}),
        (Deadline.Set, {"token": An("retry"), "saga_id": An("process")}),
        (Process.StepRetried, {"name": "book", "attempt": 1, "code": "gate_closed", "token": An("retry")}),
    )


def test_a_refused_step_undoes_what_was_done_in_reverse(fair: Fair) -> None:
    fair.shop.refusing["pay"] = [SeatTaken()]
    process_id = fair.order()
    fair.stage.run()
    assert fair.shop.undone == ["book", "take"]
    assert fair.process(process_id).status == COMPENSATED
    assert fair.process(process_id).reason == "seat_taken"
    assert fair.balances() == (100, 0)


def test_what_a_refused_step_had_decided_before_is_not_recorded(fair: Fair) -> None:
    fair.shop.refusing["take"] = [SeatTaken()]
    process_id = fair.order()
    fair.stage.run()
    assert fair.steps(process_id) == ["Began", "Compensated"]
    assert fair.balances() == (100, 0)


def test_a_transient_refusal_is_tried_again_after_a_pause_and_then_goes_on(fair: Fair) -> None:
    fair.shop.refusing["book"] = [GateClosed(), GateClosed(), GateClosed()]
    process_id = fair.order()
    fair.stage.run()
    assert fair.steps(process_id) == ["Began", "StepDone", "StepRetried"]
    fair.shop.refusing["book"] = []
    fair.stage.until_quiet()
    assert fair.process(process_id).status == COMPLETED


def test_retries_are_bounded_and_then_the_process_compensates(fair: Fair) -> None:
    fair.shop.refusing["book"] = [GateClosed()]
    process_id = fair.order()
    fair.stage.until_quiet()
    assert fair.steps(process_id).count("StepRetried") == 3
    assert fair.process(process_id).status == COMPENSATED
    assert fair.balances() == (100, 0)


def test_after_the_pivot_a_refusal_parks_the_process_and_undoes_nothing(fair: Fair) -> None:
    fair.shop.refusing["thank"] = [SeatTaken()]
    process_id = fair.order()
    fair.stage.run()
    assert (fair.process(process_id).status, fair.process(process_id).reason) == (PARKED, "seat_taken")
    assert fair.balances() == (70, 30)


def test_an_operator_lets_a_parked_process_try_again(fair: Fair) -> None:
    fair.shop.refusing["thank"] = [SeatTaken()]
    process_id = fair.order()
    fair.stage.run()
    fair.shop.refusing = {}
    fair.resolve(process_id, RETRY)
    assert fair.process(process_id).status == COMPLETED


def test_an_operator_abandons_a_parked_process(fair: Fair) -> None:
    fair.shop.refusing["thank"] = [SeatTaken()]
    process_id = fair.order()
    fair.stage.run()
    fair.resolve(process_id, ABANDON)
    assert fair.process(process_id).status == COMPENSATED


def test_an_undo_that_keeps_being_refused_parks_until_an_operator_lets_it_try_again(fair: Fair) -> None:
    fair.shop.refusing = {"pay": [SeatTaken()], "give back": [SeatTaken()]}
    process_id = fair.order()
    fair.stage.until_quiet()
    assert fair.process(process_id).status == PARKED
    fair.shop.refusing = {}
    fair.resolve(process_id, RETRY)
    assert fair.process(process_id).status == COMPENSATED
    assert fair.balances() == (100, 0)


def test_an_operator_s_decision_must_make_sense(fair: Fair) -> None:
    fair.shop.refusing["thank"] = [SeatTaken()]
    process_id = fair.order()
    fair.stage.run()
    with pytest.raises(PivotPassed):
        fair.resolve(process_id, COMPENSATE)
    with pytest.raises(ActionUnknown):
        fair.resolve(process_id, "pray")
    fair.resolve(process_id, ABANDON)
    with pytest.raises(ProcessNotParked):
        fair.resolve(process_id, RETRY)


def test_a_process_that_takes_too_long_compensates(fair: Fair) -> None:
    class Slow(Sale):
        timeout_ms = 2_000

    fair.stage.handlers = [Slow(Deadlines(fair.log))]
    fair.shop.refusing["book"] = [GateClosed()]
    process_id = fair.order()
    fair.stage.until_quiet()
    assert fair.process(process_id).status == COMPENSATED
    assert fair.balances() == (100, 0)


def test_facts_delivered_again_change_nothing(fair: Fair) -> None:
    process_id = fair.order()
    fair.stage.run()
    fair.stage.adds_nothing()
    assert fair.process(process_id).status == COMPLETED


def test_pauses_double_are_bounded_and_come_out_the_same_in_a_replay() -> None:
    process_id = UUID(int=1)
    pauses = [pause_ms(process_id, attempt, 1_000, 8_000) for attempt in range(1, 8)]
    assert pauses == [pause_ms(process_id, attempt, 1_000, 8_000) for attempt in range(1, 8)]
    assert all(
        whole // 2 <= pause <= whole
        for pause, whole in zip(pauses, [1_000, 2_000, 4_000, 8_000, 8_000, 8_000, 8_000], strict=True)
    )


@pytest.mark.parametrize("refused", ["nothing", "pay", "thank"])
def test_a_crash_at_any_write_neither_loses_nor_repeats_a_step(stored_fair: Fair, refused: str) -> None:
    stored_fair.shop.refusing = {refused: [SeatTaken()]}
    ends = {"nothing": COMPLETED, "pay": COMPENSATED, "thank": PARKED}

    def a_sale() -> Oracle:
        process_id = stored_fair.order()

        def oracle() -> None:
            assert stored_fair.process(process_id).status == ends[refused]
            stored_fair.ends_well(process_id)

        return oracle

    assert stored_fair.stage.crash_points(a_sale) >= 5


refusals = st.dictionaries(
    st.sampled_from(["take", "book", "pay", "thank", "give back"]), st.sampled_from([SeatTaken, GateClosed])
)


@stormy
@given(refusals, faults)
def test_a_process_ends_or_parks_and_pays_at_most_once_whatever_is_refused_and_crashes(
    fair: Fair, refusing: dict[str, type[Refusal]], faults: Faults
) -> None:
    fair.shop.refusing = {name: [kind()] for name, kind in refusing.items()}
    process_id = fair.order()
    fair.stage.survive(faults)
    fair.ends_well(process_id)


@stormy
@given(refusals, deliveries)
def test_facts_that_come_doubled_late_and_out_of_order_pay_at_most_once(
    fair: Fair, refusing: dict[str, type[Refusal]], facts: list[int]
) -> None:
    fair.shop.refusing = {name: [kind()] for name, kind in refusing.items()}
    process_id = fair.order()
    fair.stage.deliver_anyhow(facts)
    fair.ends_well(process_id)
