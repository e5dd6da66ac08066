"""The server is killed in the middle of much writing: what was acknowledged is there once, and writers go on."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import pytest

from domain.kernel import Conflict, Opener
from domain.kernel.errors import LogOverloaded, LogUnavailable
from infrastructure.database import migrate
from infrastructure.embedded.postgres import EmbeddedPostgres
from infrastructure.event_store import open_event_log
from tests.ledger import Account, Ledger
from tests.running import asked, assert_sound, deposit, opened, records
from tests.servers import wait_until_ended

THREADS, KILLS = 8, 2


@pytest.fixture
def server(short_home: Path) -> Iterator[EmbeddedPostgres]:
    """A server of the test's own, that syncs to disk."""
    with EmbeddedPostgres(short_home / "crash") as server:
        migrate(server.url)
        yield server


def kill(server: EmbeddedPostgres) -> None:
    """SIGKILL to the postmaster and to all it has started, at once."""
    assert server.pid is not None
    leader = psutil.Process(server.pid)
    for process in [leader, *leader.children(recursive=True)]:
        os.kill(process.pid, signal.SIGKILL)
    wait_until_ended(server)


class Writers:
    """Threads that write commands of one, two and three facts until told to stop, and keep what became of each."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.hot = opened(ledger, balance=100_000)
        self.stands: dict[UUID, int] = {}
        self.unknown: dict[UUID, int] = {}
        self.broken: list[BaseException] = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._work, args=(index,)) for index in range(THREADS)]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()

    def _work(self, index: int) -> None:
        number = index
        while not self.stopping.is_set():
            number += 1
            with asked() as scope:
                try:
                    self._command(number % 3)
                    self.stands[scope.command_id] = 1 + number % 3
                except (LogUnavailable, LogOverloaded):
                    self.unknown[scope.command_id] = 1 + number % 3
                    time.sleep(0.05)
                except Conflict:
                    pass
                except BaseException as error:
                    self.broken.append(error)
                    return

    def _command(self, kind: int) -> None:
        if kind == 0:
            self.ledger.withdraw(account_id=self.hot, grains=1)
            return
        new = uuid4()
        facts = [Account.fact(Account.Deposited, self.hot, grains=1)] * kind
        self.ledger.log.record(Opener(Account.fact(Account.Opened, new, account_id=new, owner="x")), *facts)


def test_after_kill_9_every_acknowledged_command_is_there_once_and_writers_recover_by_themselves(
    server: EmbeddedPostgres,
) -> None:
    log = open_event_log(server.url)
    writers = Writers(Ledger(log))
    for _ in range(KILLS):
        time.sleep(0.5)
        kill(server)
        server.stop()
        time.sleep(0.2)
        server.start()
        before = len(writers.stands)
        end = time.monotonic() + 30
        while len(writers.stands) < before + 100:
            assert time.monotonic() < end, "the writers do not recover"
            assert not writers.broken, writers.broken
            time.sleep(0.02)
    writers.stop()
    assert writers.broken == []
    found = records(server.url)
    assert_sound(found)
    events = Counter(record.command_id for record in found)
    assert {command: events[command] for command in writers.stands} == writers.stands
    assert all(events[command] in (0, count) for command, count in writers.unknown.items())
    deposit(Ledger(log), writers.hot, 1)
    log.close()
