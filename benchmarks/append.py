"""Appends of 1000-event batches: from decided events to durable, held against COPY of the same rows."""

import time
from collections.abc import Callable
from functools import partial
from statistics import fmean
from uuid import uuid4

import psycopg

from benchmarks.history import History
from benchmarks.library import Meters as LibraryMeters
from benchmarks.library import advanced, environment
from benchmarks.meter import Meter
from benchmarks.table import Row, middle
from domain.kernel import EventLog, new_scope, within
from infrastructure.event_store import open_event_log

EVENTS, RUNS = 1_000, 41
OUT = "COPY (SELECT * FROM log.events WHERE position > {} ORDER BY position) TO STDOUT (FORMAT BINARY)"
IN = "COPY bench.events FROM STDIN (FORMAT BINARY)"


def run() -> list[Row]:
    ours, limits, peers, python_s, server_s, copy_s = [], [], [], [], [], []
    with History() as history:
        database = history.database()
        log = open_event_log(database.url)
        library = LibraryMeters(environment(history.database().url))
        with psycopg.connect(database.url, autocommit=True) as admin:
            admin.execute("CREATE SCHEMA bench")
            admin.execute("CREATE TABLE bench.events (LIKE log.events INCLUDING ALL)")
            for _ in range(RUNS):
                meter, theirs, base = _decided(), advanced(EVENTS - 1), log.head()
                before = history.cpu_s(), time.process_time()
                ours.append(_rate(partial(_record, log, meter)))
                python_s.append(time.process_time() - before[1])
                server_s.append(history.cpu_s() - before[0])
                with admin.cursor().copy(OUT.format(base).encode()) as out:
                    rows = b"".join(out)
                began = history.cpu_s()
                limits.append(_rate(partial(_copy, admin, rows)))
                copy_s.append(history.cpu_s() - began)
                peers.append(_rate(partial(library.save, theirs)))
            count = admin.execute("SELECT count(*) FROM log.events").fetchone()
            same = admin.execute("SELECT count(*) FROM (TABLE log.events EXCEPT TABLE bench.events) AS x").fetchone()
            assert (count, same) == ((EVENTS * RUNS,), (0,)), f"{count} rows, {same} differ"
        library.close()
        log.close()
        database.close()
    mine, limit = middle(ours), middle(limits)
    return [
        Row(
            f"append, batches of {EVENTS} events", mine, "events/s", ">= 0.6 x COPY of the same rows",
            mine >= 0.6 * limit, limit=limit, peer=middle(peers),
            note=f"CPU an event: {_us(python_s)} us in Python, {_us(server_s)} us in the server, which COPY costs "
            f"{_us(copy_s)} us; one caller at a time; its events are packed in parts, the next while one is inserted",
        )
    ]  # fmt: skip


def _decided() -> Meter:
    with within(new_scope("operator:benchmark")):
        meter = Meter(meter_id=uuid4())
        for _ in range(EVENTS - 1):
            meter.advance(1)
    return meter


def _record(log: EventLog, meter: Meter) -> None:
    with within(new_scope("operator:benchmark")):
        log.record(meter)


def _copy(admin: psycopg.Connection, rows: bytes) -> None:
    with admin.transaction(), admin.cursor().copy(IN) as copy:
        copy.write(rows)


def _rate(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return EVENTS / (time.perf_counter() - began)


def _us(seconds: list[float]) -> float:
    return round(fmean(seconds) / EVENTS * 1e6, 1)
