"""Rebuild of all read models over the mixed history of a village, against a raw keyset read that only decodes."""

import os
import resource

import psycopg

from benchmarks.history import Cost, History, write
from benchmarks.mixture import mixture
from benchmarks.table import Row, middle
from domain.kernel import new_scope, within
from domain.kernel.garbage import seldom_collected
from domain.monitoring import MonitoringService
from infrastructure.database import Database, Role
from infrastructure.event_store import LogReader, open_event_log
from projections.catalogue import READ_MODELS
from workers.projector import REBUILD_READ, Projector

FACTS = int(os.environ.get("BENCH_FACTS", "1000000"))
RUNS = int(os.environ.get("BENCH_RUNS", "5"))
TARGET = 60_000
MAX_MB = 300.0


def run() -> list[Row]:
    """Events a second of this process's CPU: each event of the log counts once, however many read models it feeds."""
    ours, limits = list[Cost](), list[Cost]()
    with History() as history:
        database = history.database()
        write(database, mixture(FACTS))
        projector = Projector(database, READ_MODELS)
        projector.run_once()
        for _ in range(RUNS):
            _ask(database)
            ours.append(history.cost(projector.run_once))
            limits.append(history.cost(lambda: _read(database)))
        rows = _written(database)
        projector.close()
        database.close()
    mine = middle([FACTS / cost.own for cost in ours])
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1_000_000
    server_us = middle([1e6 * cost.server / FACTS for cost in ours])
    elapsed = middle([FACTS / cost.elapsed for cost in ours])
    note = (
        f"{FACTS:,} events, each counted once, feed {len(READ_MODELS)} read models of {rows:,} rows in one pass. The"
        f" server takes {server_us:.1f} us of CPU an event beside it; {elapsed:,.0f} events/s as the clock tells."
        " The target is absolute, so the figure follows the machine's speed of the moment; the ratio does less."
    )
    return [
        Row(
            "rebuild of all read models", mine, "events/s/core", f">= {TARGET:,} a second of the projector's CPU",
            mine >= TARGET, limit=middle([FACTS / cost.own for cost in limits]), note=note,
        ),
        Row("memory of a projector at the rebuild", peak_mb, "MB", f"< {MAX_MB:g} MB at its peak", peak_mb < MAX_MB),
    ]  # fmt: skip


def _ask(database: Database) -> None:
    log = open_event_log(database.url)
    monitoring = MonitoringService(log, [model.name for model in READ_MODELS])
    for model in READ_MODELS:
        with within(new_scope("operator:benchmark")):
            monitoring.rebuild_projection(name=model.name, reason="a benchmark")
    log.close()


@seldom_collected()
def _read(database: Database) -> None:
    """As the projector does it: batches of the same size, the same topics, and garbage looked for as seldom."""
    wanted = frozenset[str]().union(*(model.topics for model in READ_MODELS))
    with database.connect(Role.READER) as connection:
        reader, position = LogReader(connection), 0
        while position < FACTS:
            batch = reader.after(position, REBUILD_READ, FACTS)
            batch.facts(wanted)
            position = batch.end


def _written(database: Database) -> int:
    with psycopg.connect(database.url) as connection:
        (left,) = connection.execute("SELECT count(*) FROM engine.cursors WHERE name LIKE 'rebuild:%'").fetchall()
        assert left == (0,), "a rebuild is not done"
        tables = [connection.execute(f"SELECT count(*) FROM {model.table}".encode()) for model in READ_MODELS]
        return sum(count for table in tables for (count,) in table.fetchall())
