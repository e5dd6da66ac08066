"""As-of equals what was live then: for any history, any row, any read model and any aggregate."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.kernel import AggregateNotFound, new_scope, within
from domain.kernel.errors import PositionAhead
from infrastructure.database import Database, Role
from infrastructure.event_store import LogReader, open_event_log
from projections.as_of import TooFarToFold, aggregate_at, position_at, row_at, rows_at
from projections.replay import replayed
from tests.balances import Balances, create_tables
from tests.ledger import Account, Ledger, Overdrawn
from workers.projector import Projector

START = datetime(2026, 1, 1, tzinfo=UTC)
CLOCK = [START]
"""The test's clock; it only moves on, as the log's times do."""
NAMESPACE = UUID(int=7)

deeds = st.lists(st.tuples(st.integers(0, 2), st.integers(-5, 9)), min_size=1, max_size=12)


class AnyStream(Balances):
    """The same rows, told without knowing which streams make them."""

    folds_own_stream = False


@pytest.fixture
def tables(database: Database) -> Database:
    create_tables(database)
    return database


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deeds)
def test_as_of_equals_what_was_live_then(database_url: str, tables: Database, history: list[tuple[int, int]]) -> None:
    database = tables
    now = CLOCK
    log = open_event_log(database_url, clock=lambda: now[0])
    ledger = Ledger(log)
    projector = Projector(database, [Balances()])
    seen: list[tuple[int, datetime, dict[Any, Any], dict[UUID, Account]]] = []
    try:
        for who, grains in history:
            account = uuid5(NAMESPACE, str(who))
            now[0] += timedelta(seconds=1)
            with within(new_scope("test", now=now[0])):
                try:
                    if grains >= 0:
                        ledger.deposit(account_id=account, grains=grains)
                    elif log.find(Account, account) is not None:
                        ledger.withdraw(account_id=account, grains=-grains)
                except Overdrawn:
                    continue
            projector.run_once()
            held = log.find(Account, account)
            aggregates = {} if held is None else {account: held}
            seen.append((log.head(), now[0], _live(database), aggregates))
        with database.connect(Role.READER) as connection:
            for position, instant, rows, then in seen:
                assert rows_at(connection, Balances(), position) == rows
                assert position_at(connection, instant) == position
                for key, row in rows.items():
                    assert row_at(connection, Balances(), key, position) == row
                    assert row_at(connection, AnyStream(), key, position) == row
                for stream, aggregate in then.items():
                    assert aggregate_at(connection, Account, stream, position) == aggregate
                (replay,) = replayed(connection, [Balances()], position)
                assert replay[1] == rows
    finally:
        log.close()
        projector.close()


def test_the_future_cannot_be_asked_for(database_url: str, tables: Database) -> None:
    with tables.connect(Role.READER) as connection, pytest.raises(PositionAhead):
        rows_at(connection, Balances(), 1)


def test_an_aggregate_did_not_exist_before_it_was_opened(database_url: str, tables: Database) -> None:
    log = open_event_log(database_url)
    account = uuid5(NAMESPACE, "late")
    with within(new_scope("test")):
        Ledger(log).open(account_id=uuid5(NAMESPACE, "early"))
        Ledger(log).open(account_id=account)
    log.close()
    with tables.connect(Role.READER) as connection:
        assert aggregate_at(connection, Account, account, 2).owner == "somebody"
        with pytest.raises(AggregateNotFound):
            aggregate_at(connection, Account, account, 1)


def test_facts_of_some_topics_come_in_order_whatever_the_size_of_the_batches(
    database_url: str, tables: Database
) -> None:
    log = open_event_log(database_url)
    for number in range(7):
        with within(new_scope("test")):
            Ledger(log).deposit(account_id=uuid5(NAMESPACE, f"topics {number % 2}"), grains=number)
    head, topics = log.head(), {"testing.Account.Deposited"}
    log.close()
    with tables.connect(Role.READER) as connection:
        reader = LogReader(connection)
        every = [record for batch in reader.all(head) for record in batch.records]
        for until in (0, head - 3, head):
            wanted = [one for one in every if one.position <= until and one.topic in topics]
            for limit in range(1, 9):
                batches = list(reader.of_topics(topics, until, limit))
                assert [record for batch in batches for record in batch] == wanted
                assert all(0 < len(batch) <= limit for batch in batches)


def test_a_row_of_too_many_facts_of_all_streams_is_not_folded(database_url: str, tables: Database) -> None:
    log = open_event_log(database_url)
    account = uuid5(NAMESPACE, "long")
    for grains in (1, 2):
        with within(new_scope("test")):
            Ledger(log).deposit(account_id=account, grains=grains)
    log.close()
    with tables.connect(Role.READER) as connection:
        assert row_at(connection, AnyStream(), account, 3, most=3) == row_at(connection, Balances(), account, 3)
        with pytest.raises(TooFarToFold):
            row_at(connection, AnyStream(), account, 3, most=2)


def _live(database: Database) -> dict[Any, Any]:
    model = Balances()
    with database.reader.connection() as connection:
        return {model.key_of(row := model.read(record)): row for record in connection.execute(model.select())}
