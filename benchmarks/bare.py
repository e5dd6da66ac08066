"""What Postgres alone does: one-row INSERTs of the log's rows by threads, and how often anything is done a second."""

import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import psycopg

from infrastructure.database import Database
from infrastructure.event_store.flush import LOG_LOCK

SECONDS = 1.5
THREADS = 8
COLUMNS = (
    "stream, version, topic, state, event_id, command_id, correlation_id, causation_id, actor, recorded_at, position"
)
VALUES = "%b, %b, 'benchmarks.Meter.Advanced', '{\"by\":1}', %b, %b, %b, NULL, 'operator:benchmark', now()"
AUTOCOMMIT = f"INSERT INTO bench.raw ({COLUMNS}) VALUES ({VALUES}, nextval('bench.positions'))"
LOCKED = (
    f"INSERT INTO bench.locked ({COLUMNS}) VALUES ({VALUES}, (SELECT coalesce(max(position), 0) + 1 FROM bench.locked))"
)


class Bare:
    """One-row INSERTs of the same row with the same indexes, prepared, by threads with a connection each."""

    def __init__(self, database: Database) -> None:
        self._connections = [psycopg.connect(database.url, autocommit=True) for _ in range(THREADS)]
        self._connections[0].execute("CREATE SCHEMA bench")
        for table in ("raw", "locked"):
            self._connections[0].execute(f"CREATE TABLE bench.{table} (LIKE log.events INCLUDING ALL)".encode())
        self._connections[0].execute("CREATE SEQUENCE bench.positions")

    def rate(self, insert: Callable[[Any], None]) -> float:
        return rate_of([functools.partial(insert, connection) for connection in self._connections])

    def autocommit(self, connection: Any) -> None:
        connection.execute(AUTOCOMMIT, (uuid4(), 2, uuid4(), uuid4(), uuid4()), prepare=True)

    def under_the_lock(self, connection: Any) -> None:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%b)", (LOG_LOCK,), prepare=True)
            connection.execute(LOCKED, (uuid4(), 2, uuid4(), uuid4(), uuid4()), prepare=True)


def rate_of(works: Sequence[Callable[[], object]], counts: list[int] | None = None) -> float:
    """How often all of these together are done in a second, each in a thread of its own."""
    stopping = threading.Event()
    done: list[int] = []

    def repeat(work: Callable[[], object]) -> None:
        count = 0
        while not stopping.is_set():
            work()
            count += 1
        done.append(count)

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(SECONDS)
    stopping.set()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    assert len(done) == len(works), "a caller failed"
    if counts is not None:
        counts.append(sum(done))
    return sum(done) / took
