"""A read model of the test ledger, its table, and a saga that pays a bonus: for the tests of the engine."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Self
from uuid import UUID

from domain.kernel import Created, Fact, Saga, derive, event
from domain.sagas.deadline import Deadline, Deadlines
from infrastructure.database import Database, Role
from projections.rows import Key, ReadModel, Row

from .ledger import Account, Ledger

TABLE = """
CREATE TABLE read.balances (
    account_id uuid PRIMARY KEY, owner text NOT NULL, grains bigint NOT NULL CHECK (grains < 1000000000),
    facts bigint NOT NULL, tags jsonb NOT NULL, tagged_at timestamptz, score double precision
)
"""


class BalanceRow(Row, frozen=True):
    account_id: UUID
    owner: str
    grains: int
    facts: int
    tags: list[str]
    tagged_at: datetime | None
    score: float | None


class Balances(ReadModel[BalanceRow]):
    name = "balances"
    table = "read.balances"
    row = BalanceRow
    key = ("account_id",)
    listens = (Account.Opened, Account.Deposited, Account.Withdrawn, Account.Tagged)
    begins = (Account.Opened,)
    folds_own_stream = True

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.stream,)

    def evolve(self, row: BalanceRow | None, fact: Fact, key: Key) -> BalanceRow | None:
        match fact.event:
            case Account.Opened(account_id=account_id, owner=owner):
                return BalanceRow(account_id, owner, 0, 1, [], None, None)
            case Account.Deposited(grains=grains):
                return self._moved(row, grains)
            case Account.Withdrawn(grains=grains):
                return self._moved(row, -grains)
            case Account.Tagged(tags=tags, score=score, at=at) if row is not None:
                names = [tag.name for tag in tags]
                return BalanceRow(row.account_id, row.owner, row.grains, row.facts + 1, names, at, score)
        return row

    def _moved(self, row: BalanceRow | None, grains: int) -> BalanceRow | None:
        if row is None:
            return None
        return BalanceRow(
            row.account_id, row.owner, row.grains + grains, row.facts + 1, row.tags, row.tagged_at, row.score
        )


class Poisoned(Balances):
    """Fails on one owner's account, to show that it fails alone."""

    name = "poisoned"
    table = "read.poisoned"

    def evolve(self, row: BalanceRow | None, fact: Fact, key: Key) -> BalanceRow | None:
        if isinstance(fact.event, Account.Opened) and fact.event.owner == "poison":
            raise ValueError("poison")
        return super().evolve(row, fact, key)


def create_tables(database: Database) -> None:
    """The tables the migrations know nothing of."""
    with database.pool(Role.PROJECTOR).connection() as connection:
        connection.execute(TABLE)
        connection.execute(TABLE.replace("balances", "poisoned"))


class Shop:
    """The village of the tests: the services a saga may command."""

    def __init__(self, ledger: Ledger, deadlines: Deadlines) -> None:
        self.ledger = ledger
        self.deadlines = deadlines


class Bonus(Saga):
    """Waits a minute after an account opens, then deposits one grain to it: a saga with a deadline."""

    class Started(Created):
        saga_id: UUID
        account_id: UUID

    class Paid(Saga.Event):
        account_id: UUID

    listens = (Account.Opened, Deadline.Elapsed)

    @event(Started)
    def __init__(self, saga_id: UUID, account_id: UUID) -> None:
        self.account_id = account_id
        self.paid = False

    @staticmethod
    def create_id(saga_id: UUID) -> UUID:
        return saga_id

    @classmethod
    def route(cls, fact: Fact) -> UUID | None:
        match fact.event:
            case Account.Opened():
                return derive("sagas.Bonus", fact.event_id)
            case Deadline.Elapsed(saga_id=saga_id, kind="bonus"):
                return UUID(str(saga_id))
        return None

    @classmethod
    def start(cls, fact: Fact) -> Self | None:
        if isinstance(fact.event, Account.Opened):
            return cls(saga_id=derive("sagas.Bonus", fact.event_id), account_id=fact.stream)
        return None

    def on(self, fact: Fact, village: Shop) -> None:
        if isinstance(fact.event, Account.Opened):
            village.deadlines.set_deadline(
                token=derive("bonus deadline", self.id),
                saga_id=self.id,
                kind="bonus",
                due_at=fact.recorded_at + timedelta(minutes=1),
            )
        elif not self.paid:
            village.ledger.deposit_to_open(account_id=self.account_id, grains=1)
            self._paid(account_id=self.account_id)

    @event(Paid)
    def _paid(self, account_id: UUID) -> None:
        self.paid = True
