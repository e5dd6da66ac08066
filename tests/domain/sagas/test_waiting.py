"""A step of a process that waits for facts from outside, and one that only an operator gives up."""

import dataclasses
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel import Fact, Refusal, derive, scope
from domain.sagas.deadline import Deadlines
from domain.sagas.plan import Plan, Step
from domain.sagas.process import COMPENSATE, COMPENSATED, COMPLETED, PARKED, RETRY, RUNNING, Process
from tests.ledger import Account
from tests.memory_stage import MemoryTimeline
from tests.sagas import START, stormy

from .test_process import Shopping

PATIENCE = timedelta(hours=1)


class NobodyPaid(Refusal):
    """A sale is closed once it is paid in full."""


def _until_paid(process: Process, shop: Any) -> datetime | None:
    """Ten grains, or an hour."""
    due_at = datetime.fromisoformat(process.subject["opened_at"]) + PATIENCE
    paid = shop.log.load(Account, UUID(process.subject["account"])).balance >= 10
    return None if paid or scope().now >= due_at else due_at


def _close(process: Process, shop: Any) -> None:
    if shop.log.load(Account, UUID(process.subject["account"])).balance < 10:
        raise NobodyPaid()


class Collection(Plan):
    """An account that is to be filled."""

    name = "collection"
    timeout_ms = 7_200_000
    begins_on = (Account.Opened,)
    wakes_on = (Account.Deposited,)
    steps = (
        Step("open", lambda process, shop: None, lambda process, shop: shop.undone.append("open")),
        Step("collect", _close, awaits=_until_paid, parks=True),
        Step("thank", lambda process, shop: None, pivot=True),
    )

    def subject_of(self, fact: Fact) -> dict[str, str] | None:
        return {"account": str(fact.stream), "opened_at": fact.recorded_at.isoformat()}

    def process_of(self, fact: Fact) -> UUID:
        return derive("sagas.Process", self.name, fact.stream)


class Collecting(Shopping):
    """Accounts are opened and filled."""

    def __init__(self, *where: Any) -> None:
        super().__init__(*where)
        self.plan = Collection(Deadlines(self.log))
        self.stage.handlers = [self.plan]

    def opened(self) -> UUID:
        account_id = uuid4()
        self.stage.ask(self.shop.ledger.open, account_id=account_id)
        return account_id

    def pay(self, account_id: UUID, grains: int) -> None:
        self.stage.ask(self.shop.ledger.deposit_to_open, account_id=account_id, grains=grains)

    def collecting(self, account_id: UUID) -> Process:
        return self.process(derive("sagas.Process", "collection", account_id))

    def names(self, account_id: UUID) -> list[str]:
        return self.steps(derive("sagas.Process", "collection", account_id))


class MemoryCollecting(Collecting, MemoryTimeline):
    """In memory."""


@pytest.fixture
def world() -> Iterator[Collecting]:
    world = MemoryCollecting()
    yield world
    world.stage.close()


def test_a_step_waits_for_outside_facts_and_then_goes_on(world: Collecting) -> None:
    account_id = world.opened()
    world.stage.run()
    world.pay(account_id, 4)
    world.stage.run()
    assert world.collecting(account_id).status == RUNNING
    world.pay(account_id, 6)
    world.stage.run()
    assert world.names(account_id) == ["Began", "StepDone", "StepAwaited", "StepDone", "StepDone", "Completed"]


def test_what_came_before_the_step_is_not_waited_for(world: Collecting) -> None:
    account_id = world.opened()
    world.pay(account_id, 10)
    world.stage.run()
    assert world.names(account_id) == ["Began", *["StepDone"] * 3, "Completed"]


def test_a_step_waits_until_its_instant_and_then_tries(world: Collecting) -> None:
    account_id = world.opened()
    world.stage.run()
    world.stage.wait(hours=0.9)
    assert world.collecting(account_id).status == RUNNING
    world.stage.wait(hours=0.2)
    process = world.collecting(account_id)
    assert (process.status, process.reason, world.shop.undone) == (PARKED, "nobody_paid", [])


def test_an_operator_decides_over_a_step_that_parks(world: Collecting) -> None:
    first, second = world.opened(), world.opened()
    world.stage.run()
    world.stage.wait(hours=1.1)
    world.pay(first, 10)
    world.resolve(world.collecting(first).id, RETRY)
    assert world.collecting(first).status == COMPLETED
    world.resolve(world.collecting(second).id, COMPENSATE)
    assert (world.collecting(second).status, world.shop.undone) == (COMPENSATED, ["open"])


def test_an_instant_that_is_past_is_not_waited_for(world: Collecting, monkeypatch: pytest.MonkeyPatch) -> None:
    account_id = world.opened()
    always = dataclasses.replace(world.plan.steps[1], awaits=lambda process, shop: START + PATIENCE)
    monkeypatch.setattr(world.plan, "steps", (world.plan.steps[0], always, world.plan.steps[2]))
    world.stage.until_quiet()
    assert (world.collecting(account_id).status, world.collecting(account_id).reason) == (PARKED, "nobody_paid")
    world.resolve(world.collecting(account_id).id, RETRY)
    world.stage.until_quiet()
    assert world.collecting(account_id).status == PARKED


@stormy
@given(st.lists(st.one_of(st.integers(1, 8), st.just("run"), st.just("again")), max_size=8))
def test_a_waiting_process_ends_the_same_however_its_facts_come(world: Collecting, moves: list[Any]) -> None:
    account_id, paid = world.opened(), 0
    for move in moves:
        if move == "again":
            world.stage.begin_again()
        elif move == "run":
            world.stage.run()
        else:
            world.pay(account_id, move)
            paid += move
    world.stage.run()
    if paid < 10:
        assert world.collecting(account_id).status == RUNNING
        world.pay(account_id, 10)
        world.stage.run()
    steps = [name for name in world.names(account_id) if name != "StepAwaited"]
    assert steps == ["Began", *["StepDone"] * 3, "Completed"]
