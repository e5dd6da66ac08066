"""Rebuild of all read models beside the live ones, against a raw keyset read that only decodes."""

import os
import time
from typing import Any

import psycopg

from benchmarks.history import History, write
from benchmarks.mixture import mixture
from benchmarks.table import Row, middle
from domain.kernel import new_scope, within
from domain.monitoring import MonitoringService
from infrastructure.database import Database, Role
from infrastructure.event_store import LogReader, open_event_log
from projections.catalogue import READ_MODELS
from workers.projector import Projector

FACTS = int(os.environ.get("BENCH_FACTS", "1000000"))
RUNS = int(os.environ.get("BENCH_RUNS", "3"))
TARGET = 60_000


def run() -> list[Row]:
    ours, limits = [], []
    with History() as history:
        database = history.database()
        write(database, mixture(FACTS))
        projector = Projector(database, READ_MODELS, batch_size=5_000)
        projector.run_once()
        for _ in range(RUNS):
            _ask(database)
            began = time.process_time(), time.perf_counter()
            projector.run_once()
            ours.append(FACTS / (time.perf_counter() - began[1]))
            limits.append(FACTS / _read(database))
        assert _rebuilds(database) == 0
        projector.close()
        database.close()
    mine, limit = middle(ours), middle(limits)
    return [
        Row("rebuild of all read models", mine, "events/s", f">= {TARGET} on one core", mine >= TARGET, limit=limit)
    ]


def _ask(database: Database) -> None:
    log = open_event_log(database.url)
    monitoring = MonitoringService(log, [model.name for model in READ_MODELS])
    for model in READ_MODELS:
        with within(new_scope("operator:benchmark")):
            monitoring.rebuild_projection(name=model.name, reason="a benchmark")
    log.close()


def _read(database: Database) -> float:
    wanted = frozenset[str]().union(*(model.topics for model in READ_MODELS))
    with database.connect(Role.READER) as connection:
        began = time.perf_counter()
        for batch in LogReader(connection).all(FACTS, limit=5_000):
            batch.facts(wanted)
        return time.perf_counter() - began


def _rebuilds(database: Database) -> Any:
    with psycopg.connect(database.url) as connection:
        row = connection.execute("SELECT count(*) FROM engine.cursors WHERE name LIKE 'rebuild:%'").fetchone()
    assert row is not None
    return row[0]
