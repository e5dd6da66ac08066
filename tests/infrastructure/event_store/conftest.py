"""An event log on a database that is emptied for each test, and a second log as another process would have it."""

from collections.abc import Iterator

import psycopg
import pytest

from domain.kernel import EventLog
from infrastructure.event_store import open_event_log
from tests.databases import Copies
from tests.ledger import Ledger


@pytest.fixture(scope="package")
def shared_database_url(copies: Copies) -> str:
    """One database for all tests of the event store: making one each would take most of their time."""
    return copies.take()


@pytest.fixture
def database_url(shared_database_url: str) -> str:
    """An empty, migrated database."""
    with psycopg.connect(shared_database_url) as connection:
        connection.execute("TRUNCATE log.events, log.commands, engine.cursors, engine.snapshots")
    return shared_database_url


@pytest.fixture
def log(database_url: str) -> Iterator[EventLog]:
    log = open_event_log(database_url)
    yield log
    log.close()


@pytest.fixture
def ledger(log: EventLog) -> Ledger:
    return Ledger(log)


@pytest.fixture
def elsewhere(database_url: str) -> Iterator[Ledger]:
    """The same service over another event log, with a cache and a writer of its own."""
    log = open_event_log(database_url)
    yield Ledger(log)
    log.close()
