"""Ends and bounds: what waits is finished, what comes later is refused by name, and nobody waits for ever."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest

from domain.kernel.errors import LogClosed, LogOverloaded, LogUnavailable
from domain.kernel.write import Written
from infrastructure.database import Database, Role
from infrastructure.event_store import open_event_log, recorder
from infrastructure.event_store.flush import LOG_LOCK
from infrastructure.event_store.recorder import PostgresRecorder
from tests.infrastructure.event_store.test_flush import write
from tests.ledger import Ledger
from tests.running import asked, in_threads, join, records


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """The log's lock is held by somebody else."""
    with database.connect(Role.WRITER) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (LOG_LOCK,))
        yield


class Callers:
    """Threads that each write one command and keep what they were told."""

    def __init__(self, recorder: PostgresRecorder) -> None:
        self.told: list[Any] = []
        self._recorder = recorder
        self._threads: list[threading.Thread] = []

    def call(self, count: int) -> None:
        for _ in range(count):
            thread = threading.Thread(target=self._write)
            thread.start()
            self._threads.append(thread)

    def wait(self) -> None:
        join(self._threads)

    def kinds(self) -> list[str]:
        return sorted(type(one).__name__ for one in self.told)

    def _write(self) -> None:
        try:
            self.told.append(self._recorder.write(write(uuid4())))
        except Exception as error:
            self.told.append(error)


def until(condition: Any, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.005)


def test_closing_finishes_the_commands_that_wait(database: Database, database_url: str) -> None:
    used = PostgresRecorder(database)
    callers = Callers(used)
    with locked(database):
        callers.call(1)
        until(lambda: used._waiting.qsize() == 0)
        time.sleep(0.05)
        callers.call(19)
        until(lambda: used._waiting.qsize() == 19)
        closing = threading.Thread(target=used.close)
        closing.start()
        until(used._closed.is_set)
    callers.wait()
    join([closing])
    assert callers.kinds() == ["Written"] * 20
    assert len(records(database_url)) == 20


def test_a_closed_log_refuses_by_name(database_url: str) -> None:
    log = open_event_log(database_url)
    log.close()
    log.close()
    with asked(), pytest.raises(LogClosed):
        Ledger(log).open(account_id=uuid4())


def test_a_log_that_was_never_used_closes_at_once(database: Database) -> None:
    began = time.monotonic()
    PostgresRecorder(database).close()
    assert time.monotonic() - began < 20


def test_of_commands_that_race_with_the_end_each_is_recorded_or_refused(database: Database, database_url: str) -> None:
    used = PostgresRecorder(database)
    callers = Callers(used)
    callers.call(10)
    closing = threading.Thread(target=used.close)
    closing.start()
    callers.call(30)
    callers.wait()
    join([closing])
    assert set(callers.kinds()) <= {"Written", "LogClosed"}
    assert callers.kinds().count("Written") == len(records(database_url))


def test_more_commands_than_may_wait_are_refused_by_name(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_WAITING", 3)
    used = PostgresRecorder(database)
    callers = Callers(used)
    try:
        with locked(database):
            callers.call(1)
            until(lambda: used._waiting.qsize() == 0)
            time.sleep(0.05)
            callers.call(3)
            until(lambda: used._waiting.qsize() == 3)
            with pytest.raises(LogOverloaded):
                used.write(write(uuid4()))
        callers.wait()
    finally:
        used.close()
    assert callers.kinds() == ["Written"] * 4
    assert len(records(database_url)) == 4


def test_a_command_that_was_not_begun_in_time_never_will_be_and_one_that_was_is_of_unknown_fate(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "ANSWER_TIMEOUT_S", 0.4)
    used = PostgresRecorder(database)
    callers = Callers(used)
    with locked(database):
        callers.call(1)
        until(lambda: used._waiting.qsize() == 0)
        time.sleep(0.05)
        callers.call(2)
        callers.wait()
    monkeypatch.setattr(recorder, "ANSWER_TIMEOUT_S", 30.0)
    used.close()
    assert callers.kinds() == [LogOverloaded.__name__, LogOverloaded.__name__, LogUnavailable.__name__]
    assert len(records(database_url)) == 1


def test_a_writer_goes_on_after_a_caller_gave_up(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "ANSWER_TIMEOUT_S", 0.3)
    used = PostgresRecorder(database)
    with locked(database), pytest.raises(LogUnavailable):
        used.write(write(uuid4()))
    monkeypatch.setattr(recorder, "ANSWER_TIMEOUT_S", 30.0)
    assert isinstance(used.write(write(uuid4())), Written)
    used.close()


def test_many_logs_may_be_open_and_closed_by_one_process(database_url: str) -> None:
    before = threading.active_count()

    def use(_: int) -> None:
        log = open_event_log(database_url)
        with asked():
            Ledger(log).open(account_id=uuid4())
        log.close()

    assert in_threads(4, use) == []
    until(lambda: threading.active_count() <= before)
