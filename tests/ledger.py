"""A small aggregate with one rule and one fact that commutes, for the tests of the engine."""

from datetime import datetime
from uuid import UUID

from domain.kernel import (
    Aggregate,
    Created,
    EventLog,
    Instant,
    Opener,
    Receipt,
    Refusal,
    Snapshot,
    SnapshotPolicy,
    Value,
    command,
    event,
)


class Overdrawn(Refusal):
    """An account pays at most what it has."""


class Tag(Value, frozen=True):
    """A value inside an event."""

    name: str
    weight: int


class AccountSnapshot(Snapshot, frozen=True):
    """An account's attributes."""

    owner: str
    balance: int
    tags: list[Tag]


class Account(Aggregate, context="testing"):
    """Pays at most what it has; deposits commute. Snapshotted often, so that all tests of the engine meet snapshots."""

    snapshots = SnapshotPolicy(AccountSnapshot, every=5)

    class Opened(Created):
        account_id: UUID
        owner: str

    class Deposited(Aggregate.Event):
        commutes = True
        grains: int

    class Withdrawn(Aggregate.Event):
        grains: int

    class Tagged(Aggregate.Event):
        tags: list[Tag]
        notes: dict[str, int]
        score: float | None
        at: Instant

    @event(Opened)
    def __init__(self, account_id: UUID, owner: str) -> None:
        self.owner = owner
        self.balance = 0
        self.tags: list[Tag] = []

    @staticmethod
    def create_id(account_id: UUID) -> UUID:
        return account_id

    def withdraw(self, grains: int) -> None:
        if grains > self.balance:
            raise Overdrawn(f"{grains} asked, {self.balance} there")
        self._withdrawn(grains=grains)

    def deposit(self, grains: int) -> None:
        self._deposited(grains=grains)

    def tag(self, tags: list[Tag], notes: dict[str, int], score: float | None, at: datetime) -> None:
        self._tagged(tags=tags, notes=notes, score=score, at=at)

    @event(Deposited)
    def _deposited(self, grains: int) -> None:
        self.balance += grains

    @event(Withdrawn)
    def _withdrawn(self, grains: int) -> None:
        self.balance -= grains

    @event(Tagged)
    def _tagged(self, tags: list[Tag], notes: dict[str, int], score: float | None, at: datetime) -> None:
        self.tags = tags


class Ledger:
    """The service of the tests."""

    def __init__(self, log: EventLog) -> None:
        self.log = log

    @command
    def open(self, *, account_id: UUID, owner: str = "somebody") -> Receipt:
        return self.log.record(Account(account_id=account_id, owner=owner))

    @command
    def withdraw(self, *, account_id: UUID, grains: int) -> Receipt:
        account = self.log.load(Account, account_id)
        account.withdraw(grains)
        return self.log.record(account, left=account.balance)

    @command
    def deposit(self, *, account_id: UUID, grains: int) -> Receipt:
        return self.log.record(
            Opener(Account.fact(Account.Opened, account_id, account_id=account_id, owner="opened by a deposit")),
            Account.fact(Account.Deposited, account_id, grains=grains),
            id=account_id,
        )

    @command
    def deposit_to_open(self, *, account_id: UUID, grains: int) -> Receipt:
        return self.log.record(Account.fact(Account.Deposited, account_id, grains=grains))
