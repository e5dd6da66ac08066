"""The saga runner on a real Postgres: a step and its cursor are one, whatever is delivered how often."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID, uuid4

import pytest

from domain.kernel import Created, EventLog, Fact, Saga, derive, event, new_scope, within
from domain.sagas.deadline import Deadline, DeadlineNotDue, DeadlineOver, Deadlines
from infrastructure.database import Database, Role
from infrastructure.event_store import LogReader, open_event_log
from projections.sagas import Deadlines as DeadlineRows
from tests.balances import Bonus, Shop
from tests.ledger import Account, Ledger
from workers.deadline_clock import DeadlineClock
from workers.projector import Projector
from workers.saga_runner import SagaRunner


class World:
    """A log, a ledger, the bonus saga and a clock one can turn."""

    def __init__(self, url: str, database: Database) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.database = database
        self.log: EventLog = open_event_log(url, clock=lambda: self.now)
        self.ledger = Ledger(self.log)
        self.shop = Shop(self.ledger, Deadlines(self.log))
        self.clock = DeadlineClock(self.shop.deadlines, database, clock=lambda: self.now)
        self.projector = Projector(database, [DeadlineRows()])

    def runner(self) -> SagaRunner:
        return SagaRunner(self.log, self.database, [Bonus], self.shop)

    def open(self) -> UUID:
        account_id = uuid4()
        with within(new_scope("test", now=self.now)):
            self.ledger.open(account_id=account_id)
        return account_id

    def settle(self) -> None:
        """Sagas, projections and deadlines until nothing moves any more."""
        while True:
            self.runner().run_once()
            self.projector.run_once()
            if not self.clock.tick():
                return

    def balance(self, account_id: UUID) -> int:
        return self.log.load(Account, account_id).balance

    def facts(self) -> list[Any]:
        with self.database.connect(Role.READER) as connection:
            return [record.fact() for record in LogReader(connection).after(0).records]


@pytest.fixture
def world(database_url: str, database: Database) -> Iterator[World]:
    world = World(database_url, database)
    yield world
    world.log.close()


def test_nothing_is_paid_before_the_deadline(world: World) -> None:
    account = world.open()
    world.settle()
    world.now += timedelta(seconds=59)
    world.settle()
    assert world.balance(account) == 0


def test_the_deadline_comes_as_a_fact_and_pays_once(world: World) -> None:
    account = world.open()
    world.settle()
    world.now += timedelta(hours=2)
    world.settle()
    world.settle()
    assert world.balance(account) == 1


def test_a_runner_whose_cursor_was_moved_records_nothing(world: World) -> None:
    world.open()
    late = world.runner()
    batch_seen_by_the_zombie = late._positions()
    world.settle()
    head = world.log.head()

    late._positions = lambda: batch_seen_by_the_zombie  # type: ignore[method-assign]
    late.step()

    assert world.log.head() == head


def test_handling_all_history_again_records_no_fact(world: World) -> None:
    account = world.open()
    world.settle()
    world.now += timedelta(hours=2)
    world.settle()
    before = world.log.head()
    with world.database.connect(Role.PROJECTOR) as connection:
        connection.execute("UPDATE engine.cursors SET position = 0 WHERE name LIKE 'saga:%'")

    world.settle()

    assert world.log.head() == before
    assert world.balance(account) == 1


def test_a_step_carries_the_cause_and_the_correlation_of_its_fact(world: World) -> None:
    world.open()
    world.settle()
    opened, *caused = world.facts()
    assert {(f.correlation_id, f.causation_id, f.actor) for f in caused} == {
        (opened.correlation_id, opened.event_id, "saga:bonus")
    }


def transactions(world: World, actor: str = "saga:bonus") -> int:
    """In how many transactions an actor's facts were recorded."""
    with world.database.connect(Role.READER) as connection:
        query = "SELECT count(DISTINCT xmin::text) FROM log.events WHERE actor = %s"
        ((count,),) = connection.execute(query, (actor,)).fetchall()
    return int(count)


def test_facts_that_come_together_share_a_transaction_and_keep_their_own_causes(world: World) -> None:
    opened = [world.open() for _ in range(20)]
    world.settle()
    causes = {fact.event_id: fact.correlation_id for fact in world.facts() if fact.stream in opened}
    caused = [fact for fact in world.facts() if fact.actor == "saga:bonus"]
    assert transactions(world) == 1
    assert [fact.correlation_id for fact in caused] == [causes[fact.causation_id] for fact in caused]
    assert len({fact.event_id for fact in caused}) == len(caused) == 40
    assert len({fact.command_id for fact in caused}) == 20


class Tips(Saga):
    """Takes a grain of every account that opens and gives it to one account, where a service may interfere."""

    class Given(Created):
        saga_id: UUID

    listens = (Account.Opened,)

    @event(Given)
    def __init__(self, saga_id: UUID) -> None:
        pass

    @staticmethod
    def create_id(saga_id: UUID) -> UUID:
        return saga_id

    @classmethod
    def route(cls, fact: Fact) -> UUID | None:
        return derive("sagas.Tips", fact.event_id)

    @classmethod
    def start(cls, fact: Fact) -> Self | None:
        return cls(saga_id=derive("sagas.Tips", fact.event_id))

    def on(self, fact: Fact, village: Any) -> None:
        village(fact)


def test_a_fact_that_cannot_be_handled_stops_neither_those_before_it_nor_itself_for_ever(world: World) -> None:
    opened = [world.open() for _ in range(9)]
    broken = {opened[5]}

    def tip(fact: Fact) -> None:
        if fact.stream in broken:
            raise ConnectionError("not this one")
        world.ledger.deposit_to_open(account_id=fact.stream, grains=1)

    SagaRunner(world.log, world.database, [Tips], tip).run_once()
    assert [world.balance(account_id) for account_id in opened] == [1, 1, 1, 1, 1, 0, 0, 0, 0]
    broken.clear()
    SagaRunner(world.log, world.database, [Tips], tip).run_once()
    assert [world.balance(account_id) for account_id in opened] == [1] * 9


def test_an_account_that_others_move_meanwhile_is_decided_again_and_the_other_facts_once(
    world: World, database_url: str
) -> None:
    opened = [world.open() for _ in range(9)]
    for account_id in opened:
        with within(new_scope("test", now=world.now)):
            world.ledger.deposit(account_id=account_id, grains=5)
    elsewhere, moved = open_event_log(database_url, clock=lambda: world.now), set[UUID]()

    def withdraw(fact: Fact) -> None:
        world.ledger.withdraw(account_id=fact.stream, grains=1)
        if fact.stream == opened[4] and not moved:
            moved.add(fact.stream)
            with ThreadPoolExecutor(1) as thread:
                thread.submit(withdraw_elsewhere, fact.stream).result()

    def withdraw_elsewhere(account_id: UUID) -> None:
        with within(new_scope("elsewhere", now=world.now)):
            Ledger(elsewhere).withdraw(account_id=account_id, grains=2)

    SagaRunner(world.log, world.database, [Tips], withdraw).run_once()
    elsewhere.close()
    assert [world.balance(account_id) for account_id in opened] == [4, 4, 4, 4, 2, 4, 4, 4, 4]
    assert transactions(world, "saga:Tips") <= 5


def test_a_step_that_fails_leaves_neither_events_nor_cursor(world: World) -> None:
    world.open()
    failing = world.runner()

    def fails(**_: Any) -> None:
        raise ConnectionError("the world ends here")

    kept, world.shop.ledger.deposit_to_open = world.shop.ledger.deposit_to_open, fails  # type: ignore[assignment,method-assign]
    world.settle()
    world.now += timedelta(hours=2)
    world.projector.run_once()
    world.clock.tick()
    head = world.log.head()
    failing.run_once()
    assert world.log.head() == head

    world.shop.ledger.deposit_to_open = kept  # type: ignore[method-assign]
    world.settle()
    assert [f.topic for f in world.facts()[head:]] == ["testing.Account.Deposited", "sagas.Bonus.Paid"]


def test_a_deadline_does_not_elapse_early_nor_twice(world: World) -> None:
    token = derive("test deadline", 1)
    with within(new_scope("test", now=world.now)):
        world.shop.deadlines.set_deadline(
            token=token, saga_id=uuid4(), kind="test", due_at=world.now + timedelta(seconds=1)
        )
        with pytest.raises(DeadlineNotDue):
            world.shop.deadlines.elapse_deadline(token=token, now=world.now)
        later = world.now + timedelta(seconds=1)
        world.shop.deadlines.elapse_deadline(token=token, now=later)
        with pytest.raises(DeadlineOver):
            world.shop.deadlines.elapse_deadline(token=token, now=later)


def test_setting_a_deadline_again_changes_nothing(world: World) -> None:
    token = derive("test deadline", 2)
    for _ in range(2):
        with within(new_scope("test", now=world.now)):
            world.shop.deadlines.set_deadline(token=token, saga_id=uuid4(), kind="test", due_at=world.now)
    assert world.log.load(Deadline, token).version == 1


class Witness(Saga):
    """Reads the balance of an account whenever something is deposited, and writes to it never."""

    class Saw(Created):
        saga_id: UUID
        balance: int

    listens = (Account.Deposited,)

    @event(Saw)
    def __init__(self, saga_id: UUID, balance: int) -> None:
        self.balance = balance

    @staticmethod
    def create_id(saga_id: UUID) -> UUID:
        return saga_id

    @classmethod
    def route(cls, fact: Fact) -> UUID | None:
        return derive("sagas.Witness", fact.event_id)

    @classmethod
    def start(cls, fact: Fact) -> Self | None:
        return cls(saga_id=derive("sagas.Witness", fact.event_id), balance=0)

    def on(self, fact: Fact, village: Shop) -> None:
        SEEN.append(village.ledger.log.load(Account, fact.stream).balance)


SEEN: list[int] = []


def test_a_saga_reads_a_stream_at_least_as_new_as_its_fact(world: World, database_url: str) -> None:
    account = world.open()
    assert world.balance(account) == 0  # from now on a copy of this version is held
    elsewhere = open_event_log(database_url, clock=lambda: world.now)
    for _ in range(2):
        with within(new_scope("test", now=world.now)):
            Ledger(elsewhere).deposit(account_id=account, grains=5)
    elsewhere.close()

    SEEN.clear()
    SagaRunner(world.log, world.database, [Witness], world.shop).run_once()

    assert SEEN == [10, 10]
