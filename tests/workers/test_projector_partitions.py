"""Processes that share the partitions of a read model: one is killed, the other folds its part too."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.kernel import EventLog
from infrastructure.database import Database, Role
from infrastructure.event_store import open_event_log
from projections.monitoring import Controls
from projections.replay import compare
from projections.rows import ReadModel
from tests.balances import Balances, create_tables
from tests.ledger import Ledger
from tests.running import asked, deposit

ACCOUNTS = 24
TAKEN_OVER_S = 10.0
"""How soon after a kill what the dead process held is folded by another."""


class Parted(Balances):
    """Balances in four partitions."""

    partitions = 4


MODELS: list[ReadModel[Any]] = [Controls(), Parted()]
PROCESS = """
import sys, threading
from infrastructure.database import Database
from tests.workers.test_projector_partitions import MODELS
from workers.projector import Projector
Projector(Database(sys.argv[1]), MODELS, batch_size=10).run(threading.Event())
"""


@pytest.fixture
def log(database_url: str, database: Database) -> Iterator[EventLog]:
    create_tables(database)
    log = open_event_log(database_url)
    yield log
    log.close()


@contextmanager
def projector_process(url: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", PROCESS, url]) as process:
        try:
            yield process
        finally:
            process.kill()


def opened_accounts(ledger: Ledger) -> list[UUID]:
    accounts = [uuid4() for _ in range(ACCOUNTS)]
    for account_id in accounts:
        with asked():
            ledger.open(account_id=account_id)
    return accounts


def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def test_the_part_of_a_killed_process_is_folded_by_the_other_within_ten_seconds(
    log: EventLog, database: Database, database_url: str
) -> None:
    def told(query: str) -> Any:
        with database.reader.connection() as connection:
            return connection.execute(query.encode()).fetchall()

    ledger = Ledger(log)
    accounts = opened_accounts(ledger)
    owners = "SELECT DISTINCT owner FROM engine.cursors WHERE name = 'balances' AND leased_until > clock_timestamp()"
    with ExitStack() as processes:
        first = processes.enter_context(projector_process(database_url))
        processes.enter_context(projector_process(database_url))
        until(lambda: len({owner for (owner,) in told(owners)} - {None}) == 2)
        for account_id in accounts:
            deposit(ledger, account_id, 1)
        until(lambda: told("SELECT sum(grains) FROM read.balances") == [(ACCOUNTS,)])
        first.kill()
        for account_id in accounts:
            deposit(ledger, account_id, 1)
        until(lambda: told("SELECT sum(grains) FROM read.balances") == [(2 * ACCOUNTS,)], TAKEN_OVER_S)

    assert told("SELECT count(*), min(grains), max(grains) FROM read.balances") == [(ACCOUNTS, 2, 2)]
    with database.connect(Role.READER) as reader:
        assert compare(reader, MODELS).differences == []
