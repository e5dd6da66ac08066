"""A village with one read model that can be broken, and the operator's commands over it, on a real Postgres."""

import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from domain.kernel import EventLog, Fact, new_scope, within
from domain.monitoring import MonitoringService
from infrastructure.database import Database, Role
from infrastructure.event_store import open_event_log
from projections.monitoring import Controls
from projections.replay import Comparison, compare
from projections.rows import ReadModel
from tests.balances import BalanceRow, Balances, create_tables
from tests.ledger import Account, Ledger
from workers.projector import Projector

BROKEN: set[str] = set()
"""Owners whose accounts the broken model cannot fold, until it is mended."""


class Breakable(Balances):
    """Balances that fail while their owner is in BROKEN."""

    def evolve(self, row: BalanceRow | None, fact: Fact, key: Any) -> BalanceRow | None:
        after = super().evolve(row, fact, key)
        if after is not None and after.owner in BROKEN and isinstance(fact.event, Account.Deposited):
            raise ValueError(f"cannot fold {after.owner}")
        return after


class Parted(Balances):
    """Balances in four partitions."""

    partitions = 4


class Village:
    """A log, a ledger, the operator's commands and a projector, all real."""

    def __init__(self, url: str, database: Database) -> None:
        create_tables(database)
        self.url = url
        self.database = database
        self.log: EventLog = open_event_log(url)
        self.ledger = Ledger(self.log)
        self.monitoring = MonitoringService(self.log, ["balances"])
        self.models: list[ReadModel[Any]] = [Controls(), Breakable()]

    def open(self, owner: str, *amounts: int) -> UUID:
        account_id = uuid4()
        with within(new_scope("test")):
            self.ledger.open(account_id=account_id, owner=owner)
        self.deposit(account_id, *amounts)
        return account_id

    def deposit(self, account_id: UUID, *amounts: int) -> None:
        for grains in amounts:
            with within(new_scope("test")):
                self.ledger.deposit_to_open(account_id=account_id, grains=grains)

    def operate(self, command: Callable[..., Any], **arguments: Any) -> None:
        with within(new_scope("operator:test")):
            command(name="balances", reason="the test asks", **arguments)

    def project(self) -> int:
        return Projector(self.database, self.models).run_once()

    def balances(self) -> dict[str, int]:
        return dict(self.query("SELECT owner, grains FROM read.balances"))

    def letters(self) -> list[tuple[str, int, bool]]:
        return self.query("SELECT key, position, poison FROM engine.dead_letters ORDER BY key, position")

    def query(self, text: str) -> list[Any]:
        with self.database.reader.connection() as connection:
            return connection.execute(text.encode()).fetchall()

    def compared(self, until: int | None = None) -> Comparison:
        with self.database.connect(Role.READER) as connection:
            return compare(connection, self.models, until)

    def differences(self) -> list[Any]:
        return self.compared().differences


@pytest.fixture
def village(database_url: str, database: Database) -> Iterator[Village]:
    BROKEN.clear()
    village = Village(database_url, database)
    yield village
    village.log.close()


def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait until it holds, through failures of the database."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if holds():
                return
        except psycopg.OperationalError:
            pass
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)
