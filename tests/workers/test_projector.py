"""The projector on a real Postgres: exactly once, each model on its own, through lost connections."""

import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import psycopg
import pytest

from domain.kernel import EventLog, new_scope, within
from infrastructure.database import Database, Role
from infrastructure.event_store import open_event_log
from projections.replay import compare
from tests.balances import BalanceRow, Balances, Poisoned, create_tables
from tests.ledger import Account, Ledger, Overdrawn, Tag
from tests.running import in_background
from workers.projector import Projector


@pytest.fixture
def log(database_url: str, database: Database) -> Iterator[EventLog]:
    create_tables(database)
    log = open_event_log(database_url)
    yield log
    log.close()


@pytest.fixture
def ledger(log: EventLog) -> Ledger:
    return Ledger(log)


class OnlyTags(Balances):
    listens = (Account.Tagged,)  # type: ignore[assignment]


def do(ledger: Ledger, account_id: UUID, *amounts: int) -> None:
    for grains in amounts:
        with within(new_scope("test")):
            if grains >= 0:
                ledger.deposit(account_id=account_id, grains=grains)
            else:
                ledger.withdraw(account_id=account_id, grains=-grains)


def rows(database: Database, table: str = "read.balances") -> dict[UUID, int]:
    with database.reader.connection() as connection:
        return dict(connection.execute(f"SELECT account_id, grains FROM {table}".encode()).fetchall())


def cursor(database: Database, name: str = "balances") -> int:
    with database.reader.connection() as connection:
        found = connection.execute("SELECT position FROM engine.cursors WHERE name = %s", (name,)).fetchone()
    return found[0] if found else 0


def test_facts_become_rows_and_the_cursor_stands_at_the_last_fact(
    ledger: Ledger, log: EventLog, database: Database
) -> None:
    account = uuid4()
    do(ledger, account, 100, -30, 5)

    Projector(database, [Balances()]).run_once()

    assert rows(database) == {account: 75}
    assert cursor(database) == log.head()


def test_every_column_type_comes_back_as_it_was_folded(ledger: Ledger, log: EventLog, database: Database) -> None:
    account_id = uuid4()
    at = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
    account = Account(account_id=account_id, owner="Ada")
    account.tag([Tag("a,b", 1), Tag('"', 2)], {"n": 1}, 0.1, at)
    with within(new_scope("test")):
        log.record(account)

    Projector(database, [Balances()]).run_once()

    model = Balances()
    with database.reader.connection() as connection:
        (record,) = connection.execute(model.select()).fetchall()
    assert model.read(record) == BalanceRow(account_id, "Ada", 0, 2, ["a,b", '"'], at, 0.1)


def test_facts_that_concern_no_model_are_passed_over(log: EventLog, database: Database) -> None:
    with within(new_scope("test")):
        log.record(Account(account_id=uuid4(), owner="x"))

    Projector(database, [OnlyTags()]).run_once()

    assert cursor(database) == log.head()


def test_small_batches_give_the_same_rows_as_large_ones(ledger: Ledger, database: Database) -> None:
    accounts = [uuid4() for _ in range(5)]
    dice = random.Random(7)
    for _ in range(60):
        do(ledger, dice.choice(accounts), dice.randint(1, 9))

    Projector(database, [Balances()], batch_size=3).run_once()

    with database.connect(Role.READER) as connection:
        assert compare(connection, [Balances()]).differences == []


def test_a_poison_fact_holds_back_only_its_own_row(ledger: Ledger, log: EventLog, database: Database) -> None:
    projector = Projector(database, [Balances(), Poisoned()])
    with within(new_scope("test")):
        ledger.open(account_id=uuid4(), owner="poison")
    do(ledger, uuid4(), 5)

    projector.run_once()

    assert cursor(database, "balances") == log.head()
    assert cursor(database, "poisoned") == log.head()
    assert len(rows(database, "read.balances")) == 2
    assert len(rows(database, "read.poisoned")) == 1


def test_a_zombie_whose_lease_went_to_another_writes_nothing(ledger: Ledger, log: EventLog, database: Database) -> None:
    account = uuid4()
    zombie = Projector(database, [Balances()], lease_s=0.2)
    zombie.step()
    do(ledger, account, 100)
    time.sleep(0.3)
    Projector(database, [Balances()]).run_once()
    with database.connect(Role.PROJECTOR) as connection:
        connection.execute("UPDATE read.balances SET grains = grains + 1")

    zombie._refresh_at = float("inf")
    assert zombie.step()

    assert rows(database) == {account: 101}
    zombie.close()


def test_two_projectors_at_once_apply_every_fact_once(ledger: Ledger, log: EventLog, database: Database) -> None:
    accounts = [uuid4() for _ in range(4)]
    projectors = [Projector(database, [Balances()], batch_size=5) for _ in range(2)]
    with in_background(*(projector.run for projector in projectors)):
        for number in range(80):
            do(ledger, accounts[number % 4], 1)
        _until(lambda: cursor(database) == log.head())

    assert rows(database) == dict.fromkeys(accounts, 20)


def test_a_projector_recovers_when_all_its_connections_are_cut(
    ledger: Ledger, log: EventLog, database: Database, database_url: str
) -> None:
    account = uuid4()
    with in_background(Projector(database, [Balances()]).run):
        do(ledger, account, 1)
        _until(lambda: cursor(database) == log.head())
        for _ in range(3):
            with psycopg.connect(database_url, autocommit=True) as admin:
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            do(ledger, account, 1)
        _until(lambda: cursor(database) == log.head())

    assert rows(database) == {account: 4}


def test_a_model_of_a_new_version_is_folded_anew(ledger: Ledger, log: EventLog, database: Database) -> None:
    account = uuid4()
    do(ledger, account, 7)
    Projector(database, [Balances()]).run_once()
    with database.connect(Role.PROJECTOR) as connection:
        connection.execute("UPDATE read.balances SET grains = 0")
        connection.execute("UPDATE engine.cursors SET version = 0")

    Projector(database, [Balances()]).run_once()

    assert rows(database) == {account: 7}
    assert cursor(database) == log.head()


def test_a_comparison_names_the_row_that_was_tampered_with(ledger: Ledger, database: Database) -> None:
    account, other = uuid4(), uuid4()
    do(ledger, account, 7)
    do(ledger, other, 8)
    Projector(database, [Balances()]).run_once()
    with database.connect(Role.PROJECTOR) as connection:
        connection.execute("UPDATE read.balances SET grains = 1000 WHERE account_id = %s", (account,))
        comparison = compare(connection, [Balances()])

    assert [(d.model, d.key) for d in comparison.differences] == [("balances", account)]


def test_a_refused_command_changes_no_row(ledger: Ledger, database: Database) -> None:
    account = uuid4()
    do(ledger, account, 7)
    with pytest.raises(Overdrawn), within(new_scope("test")):
        ledger.withdraw(account_id=account, grains=8)

    Projector(database, [Balances()]).run_once()

    assert rows(database) == {account: 7}


def _until(holds: object, timeout_s: float = 60.0) -> None:
    assert callable(holds)
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)
