"""The listener wakes its consumers soon, whatever happens to its connection, and they miss nothing without it."""

import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from infrastructure.database import Database, Role
from infrastructure.event_store import Listener, LogReader
from infrastructure.event_store.listener import Pacer
from tests.infrastructure.event_store.test_closing import until
from tests.ledger import Ledger
from tests.running import deposit, in_background, opened


@pytest.fixture
def listener(database: Database) -> Iterator[Listener]:
    listener = Listener(lambda: database.connect(Role.READER)).start()
    yield listener
    listener.stop()


def cut_listeners(database_url: str) -> int:
    """End every session that LISTENs on this database; answers how many."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        ).fetchall()
    return len(rows)


def wakes(listener: Listener) -> tuple[threading.Event, Callable[[], None]]:
    woken = threading.Event()
    return woken, listener.subscribe(woken.set)


def test_a_recorded_command_wakes_every_consumer(listener: Listener, ledger: Ledger) -> None:
    first, _ = wakes(listener)
    second, _ = wakes(listener)
    assert listener.wait_until_listening()
    opened(ledger)
    until(first.is_set)
    first.clear()
    second.clear()
    opened(ledger)
    assert first.wait(30)
    assert second.wait(30)


def test_a_consumer_that_unsubscribed_is_left_alone(listener: Listener, ledger: Ledger) -> None:
    gone, unsubscribe = wakes(listener)
    stays, _ = wakes(listener)
    assert listener.wait_until_listening()
    opened(ledger)
    until(stays.is_set)
    unsubscribe()
    unsubscribe()
    gone.clear()
    stays.clear()
    opened(ledger)
    assert stays.wait(30)
    assert not gone.is_set()


def test_a_lost_connection_is_made_again_and_wakes_every_consumer(
    listener: Listener, ledger: Ledger, database_url: str
) -> None:
    woken, _ = wakes(listener)
    for _ in range(3):
        assert listener.wait_until_listening()
        opened(ledger)
        until(woken.is_set)
        woken.clear()
        until(lambda: cut_listeners(database_url) == 1)
        assert woken.wait(10), "a new connection wakes, for hints may have been lost"
        woken.clear()
        opened(ledger)
        assert woken.wait(30)


def test_a_consumer_that_fails_when_woken_stops_neither_the_others_nor_the_listener(
    listener: Listener, ledger: Ledger
) -> None:
    def fail() -> None:
        raise RuntimeError("the loop is closed")

    listener.subscribe(fail)
    woken, _ = wakes(listener)
    assert listener.wait_until_listening()
    for _ in range(2):
        woken.clear()
        opened(ledger)
        assert woken.wait(30)


def test_a_listener_that_never_gets_a_connection_says_so_and_stops(database: Database) -> None:
    def refuse() -> psycopg.Connection[object]:
        raise psycopg.OperationalError("no server")

    listener = Listener(refuse).start()
    assert not listener.wait_until_listening(0.3)
    began = time.monotonic()
    listener.stop()
    assert time.monotonic() - began < 10


def test_a_pacer_waits_no_longer_than_its_interval(listener: Listener) -> None:
    assert listener.wait_until_listening()
    pacer = Pacer(listener, poll_s=0.1)
    pacer.wait(5.0) if pacer._hint.is_set() else None
    began = time.monotonic()
    pacer.wait()
    assert 0.05 < time.monotonic() - began < 10
    pacer.close()


@pytest.mark.parametrize("hinted", [True, False], ids=["with hints and cuts", "by polling alone"])
def test_a_consumer_that_polls_misses_nothing_while_its_listener_is_cut(
    database: Database, database_url: str, ledger: Ledger, hinted: bool
) -> None:
    listener = Listener(lambda: database.connect(Role.READER)).start() if hinted else None
    pacer = Pacer(listener, poll_s=0.05)
    seen: list[int] = []

    def consume(stopping: threading.Event) -> None:
        with database.connect(Role.READER) as connection:
            reader, position = LogReader(connection), 0
            while not stopping.is_set():
                batch = reader.after(position, limit=7)
                seen.extend(record.position for record in batch.records)
                position = batch.end
                if not batch.records:
                    pacer.wait()

    try:
        with in_background(consume):
            stream = opened(ledger)
            for number in range(60):
                deposit(ledger, stream, 1)
                if hinted and number % 20 == 10:
                    cut_listeners(database_url)
            until(lambda: len(seen) >= 61)
    finally:
        if listener is not None:
            listener.stop()
    assert seen == list(range(1, 62))


def test_hints_of_a_rest_are_one_and_the_last_of_them_is_told(database: Database, ledger: Ledger) -> None:
    listener = Listener(lambda: database.connect(Role.READER), rest_s=0.2).start()
    woken_at: list[int] = []
    try:
        assert listener.wait_until_listening()
        listener.subscribe(lambda: woken_at.append(head(database)))
        for _ in range(30):
            opened(ledger)
        until(lambda: bool(woken_at) and woken_at[-1] == head(database))
        assert len(woken_at) < 30
    finally:
        listener.stop()


def head(database: Database) -> int:
    with database.connect(Role.READER) as connection:
        return LogReader(connection).head()
