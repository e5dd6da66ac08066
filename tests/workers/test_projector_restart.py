"""Postgres is restarted and killed under a projector: it goes on by itself, misses nothing and doubles nothing."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest

from domain.kernel import EventLog, new_scope, within
from domain.kernel.errors import LogOverloaded, LogUnavailable
from domain.monitoring import MonitoringService
from infrastructure.database import Database, Role, migrate
from infrastructure.embedded.postgres import EmbeddedPostgres
from infrastructure.event_store import open_event_log
from projections.monitoring import Controls
from projections.replay import compare
from projections.rows import ReadModel
from tests.balances import Balances, create_tables
from tests.ledger import Ledger
from tests.running import assert_sound, deposit, in_background, keyed, opened, records
from tests.servers import wait_until_ended
from workers.projector import Projector

ACCOUNTS, BETWEEN = 5, 40
PATIENCE_S = 120.0
MODELS: list[ReadModel[Any]] = [Controls(), Balances()]


@pytest.fixture
def server(short_home: Path) -> Iterator[EmbeddedPostgres]:
    """A server of the test's own, that syncs to disk."""
    home = short_home / f"restart-{uuid4().hex[:8]}"
    with EmbeddedPostgres(home) as server:
        migrate(server.url)
        yield server
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def log(server: EmbeddedPostgres) -> Iterator[EventLog]:
    log = open_event_log(server.url)
    yield log
    log.close()


@pytest.fixture
def projecting(server: EmbeddedPostgres, log: EventLog) -> Iterator[Database]:
    """A projector in small batches, so that a restart meets it in the middle of its work."""
    with Database(server.url) as database:
        create_tables(database)
        with in_background(Projector(database, MODELS, batch_size=3).run):
            yield database


class Depositor(threading.Thread):
    """Deposits one grain after the other until told to stop; each again with its key until it is acknowledged."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(name="depositor")
        self.ledger = Ledger(log)
        self.accounts = [opened(self.ledger) for _ in range(ACCOUNTS)]
        self.acknowledged = 0
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.is_set():
            account = self.accounts[self.acknowledged % ACCOUNTS]
            try:
                with keyed(f"deposit {self.acknowledged}"):
                    self.ledger.deposit_to_open(account_id=account, grains=1)
                self.acknowledged += 1
            except (LogUnavailable, LogOverloaded):
                time.sleep(0.05)

    def go_on(self) -> None:
        """Until some more deposits are acknowledged."""
        wanted = self.acknowledged + BETWEEN
        until(lambda: self.acknowledged >= wanted or not self.is_alive())
        assert self.is_alive(), "a deposit was refused"


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def restarted(server: EmbeddedPostgres) -> None:
    server.stop()
    server.start()


def killed(server: EmbeddedPostgres) -> None:
    assert server.pid is not None
    leader = psutil.Process(server.pid)
    for process in [leader, *leader.children(recursive=True)]:
        os.kill(process.pid, signal.SIGKILL)
    wait_until_ended(server)
    server.start()


@pytest.mark.parametrize("end", [restarted, killed])
def test_a_projector_outlives_its_postgres_in_the_middle_of_a_rebuild_and_of_new_facts(
    server: EmbeddedPostgres, log: EventLog, projecting: Database, end: Callable[[EmbeddedPostgres], None]
) -> None:
    depositor = Depositor(log)
    depositor.start()
    try:
        for _ in range(2):
            depositor.go_on()
            with within(new_scope("operator:test")):
                MonitoringService(log, ["balances"]).rebuild_projection(name="balances", reason="the test asks")
            end(server)
            depositor.go_on()
    finally:
        depositor.stopping.set()
        depositor.join(PATIENCE_S)

    head = log.head()
    with projecting.connect(Role.READER) as reader:

        def told(query: str) -> Any:
            return reader.execute(query.encode()).fetchall()

        until(lambda: told("SELECT min(position), count(*) FROM engine.cursors") == [(head, len(MODELS))])
        assert told("SELECT sum(grains), count(*) FROM read.balances") == [(depositor.acknowledged, ACCOUNTS)]
        assert told("SELECT 1 FROM engine.dead_letters") == []
        assert compare(reader, MODELS).differences == []
    found = records(server.url)
    assert_sound(found)
    assert sum(record.topic.endswith(".Deposited") for record in found) == depositor.acknowledged


def test_a_projector_starts_before_its_postgres_is_there(server: EmbeddedPostgres, log: EventLog) -> None:
    account: UUID = opened(Ledger(log))
    deposit(Ledger(log), account, 7)
    head, url = log.head(), server.url
    with Database(url) as database:
        create_tables(database)
        server.stop()
        with in_background(Projector(database, MODELS).run):
            server.start()
            with database.connect(Role.READER) as reader:
                cursors = "SELECT min(position), count(*) FROM engine.cursors"
                until(lambda: reader.execute(cursors).fetchall() == [(head, len(MODELS))])
                assert reader.execute("SELECT account_id, grains FROM read.balances").fetchall() == [(account, 7)]
