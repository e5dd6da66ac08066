"""Durable single-event commands, the full path: load, decide, record. Held against bare INSERTs of the same rows."""

import functools
import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any
from uuid import UUID, uuid4

import psycopg

from benchmarks.history import History
from benchmarks.meter import Meters
from benchmarks.table import Row, middle
from domain.kernel import new_scope, within
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from infrastructure.event_store.flush import LOG_LOCK

RUNS, SECONDS = 5, 1.5
CALLERS, RAW_THREADS = 32, 8
COLUMNS = (
    "stream, version, topic, state, event_id, command_id, correlation_id, causation_id, actor, recorded_at, position"
)
VALUES = "%b, %b, 'benchmarks.Meter.Advanced', '{\"by\":1}', %b, %b, %b, NULL, 'operator:benchmark', now()"
AUTOCOMMIT = f"INSERT INTO bench.raw ({COLUMNS}) VALUES ({VALUES}, nextval('bench.positions'))"
LOCKED = (
    f"INSERT INTO bench.locked ({COLUMNS}) VALUES ({VALUES}, (SELECT coalesce(max(position), 0) + 1 FROM bench.locked))"
)


def run() -> list[Row]:
    one, two, raw, locked = [], [], [], []
    with History() as history:
        database = history.database()
        with _admin(database) as admin:
            admin.execute("CREATE SCHEMA bench")
            for table in ("raw", "locked"):
                admin.execute(f"CREATE TABLE bench.{table} (LIKE log.events INCLUDING ALL)".encode())
            admin.execute("CREATE SEQUENCE bench.positions")
        alone, left, right = (_Process(database.url, callers) for callers in (CALLERS, CALLERS // 2, CALLERS // 2))
        bare = _Bare(database)
        for _ in range(RUNS):
            one.append(_rate([alone]))
            raw.append(bare.rate(bare.autocommit))
            two.append(_rate([left, right]))
            locked.append(bare.rate(bare.under_the_lock))
        told = sum(process.close() for process in (alone, left, right))
        with _admin(database) as admin:
            stands = admin.execute("SELECT count(*) FROM log.events WHERE version > 1").fetchone()
        assert stands == (told,), f"{told} commands were acknowledged, {stands} stand"
        database.close()
    limit, peer = middle(raw), middle(locked)
    return [
        _row("1 process", middle(one), limit, peer),
        _row("2 processes", middle(two), limit, peer),
    ]


def _row(processes: str, ours: float, limit: float, peer: float) -> Row:
    return Row(
        f"commands, {CALLERS} callers, {processes}", ours, "commands/s",
        f">= 0.5 x raw INSERTs of {RAW_THREADS} threads, >= 2 x the same under the log's lock",
        ours >= 0.5 * limit and ours >= 2 * peer, limit=limit, peer=peer,
    )  # fmt: skip


class _Bare:
    """One-row INSERTs of the same row with the same indexes, prepared, by threads with a connection each."""

    def __init__(self, database: Database) -> None:
        self._connections = [_admin(database) for _ in range(RAW_THREADS)]

    def rate(self, insert: Callable[[Any], None]) -> float:
        return _rate_of([functools.partial(insert, connection) for connection in self._connections])

    def autocommit(self, connection: Any) -> None:
        connection.execute(AUTOCOMMIT, (uuid4(), 2, uuid4(), uuid4(), uuid4()), prepare=True)

    def under_the_lock(self, connection: Any) -> None:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%b)", (LOG_LOCK,), prepare=True)
            connection.execute(LOCKED, (uuid4(), 2, uuid4(), uuid4(), uuid4()), prepare=True)


class _Process:
    """Callers in a process of its own, each with a meter of its own."""

    def __init__(self, url: str, callers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(url, callers, theirs), daemon=True)
        self._process.start()
        self.receive()

    def send(self, what: str) -> None:
        self._pipe.send(what)

    def receive(self) -> Any:
        return self._pipe.recv()

    def close(self) -> int:
        """How many commands were acknowledged in all."""
        self.send("close")
        total = int(self.receive())
        self._process.join(30)
        return total


def _serve(url: str, callers: int, pipe: Connection) -> None:
    log = open_event_log(url)
    meters = Meters(log)
    ids = [uuid4() for _ in range(callers)]
    for meter_id in ids:
        with within(new_scope("operator:benchmark")):
            meters.install(meter_id=meter_id)

    def advance(meter_id: UUID) -> None:
        with within(new_scope("operator:benchmark")):
            meters.advance(meter_id=meter_id)

    works = [functools.partial(advance, meter_id) for meter_id in ids]
    counts: list[int] = []
    pipe.send("ready")
    while pipe.recv() != "close":
        pipe.send(_rate_of(works, counts))
    log.close()
    pipe.send(sum(counts))


def _rate(processes: list[_Process]) -> float:
    for process in processes:
        process.send("run")
    return float(sum(process.receive() for process in processes))


def _rate_of(works: Sequence[Callable[[], object]], counts: list[int] | None = None) -> float:
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


def _admin(database: Database) -> psycopg.Connection[Any]:
    return psycopg.connect(database.url, autocommit=True)
