"""An event log on the test's own database, and a second one as another process would have it."""

from collections.abc import Iterator

import pytest

from domain.kernel import EventLog
from infrastructure.event_store import open_event_log
from tests.ledger import Ledger


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
