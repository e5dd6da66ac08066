"""Projection, one row an event, exactly once: ours, the library's runner, and the limit of COPY out and in."""

import os
from typing import Any
from uuid import UUID, uuid4

import psycopg
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner

from benchmarks.history import Cost, History, opened_wallets, write
from benchmarks.library import environment
from benchmarks.table import Row, middle
from infrastructure.database import Database
from projections.tokenomics.money import Wallets
from workers.projector import Projector

FACTS = int(os.environ.get("BENCH_FACTS", "100000"))
PEER_FACTS = 2_000
RUNS = 5


def run() -> list[Row]:
    ours, limits, peers = list[Cost](), list[Cost](), list[float]()
    with History() as history:
        database = history.database()
        write(database, opened_wallets(FACTS))
        peer = _Peer(history.database().url)
        for _ in range(RUNS):
            ours.append(history.cost(lambda: _project(database)))
            limits.append(history.cost(lambda: _copy(database)))
            peers.append(PEER_FACTS / history.cost(peer.project).elapsed)
        database.close()
    mine, limit = (middle([FACTS / cost.elapsed for cost in costs]) for costs in (ours, limits))
    best = middle(peers)
    own_us, copy_us = (middle([1e6 * cost.own / FACTS for cost in costs]) for costs in (ours, limits))
    note = (
        f"This process takes {own_us:.1f} us of CPU an event against {copy_us:.1f} us for moving its bytes. The"
        " next batch is read and decoded by a thread of its own while the server stores one; both share one"
        " interpreter."
    )
    return [
        Row(
            "projection, one row an event", mine, "events/s", ">= 50 x the library's runner, >= 0.5 x COPY out and in",
            mine >= 50 * best and mine >= 0.5 * limit, limit=limit, peer=best, note=note,
        )
    ]  # fmt: skip


def _project(database: Database) -> None:
    with psycopg.connect(database.url, autocommit=True) as admin:
        admin.execute("TRUNCATE read.wallets")
        admin.execute("DELETE FROM engine.cursors")
    projector = Projector(database, [Wallets()])
    assert projector.run_once() == FACTS
    projector.close()


def _copy(database: Database) -> None:
    """The same rows out of the log and into a table like the read model's, without knowing what they mean."""
    with psycopg.connect(database.url) as source, psycopg.connect(database.url) as target:
        target.execute("DROP TABLE IF EXISTS scratch.copied")
        target.execute("CREATE TABLE scratch.copied (LIKE read.wallets INCLUDING ALL)")
        out = "COPY (SELECT stream, stream, 0::bigint, 0::bigint, 0::bigint, recorded_at, position FROM log.events)"
        with (
            source.cursor().copy(f"{out} TO STDOUT (FORMAT BINARY)".encode()) as reading,
            target.cursor().copy("COPY scratch.copied FROM STDIN (FORMAT BINARY)") as writing,
        ):
            for chunk in reading:
                writing.write(chunk)
        target.commit()


class Counter(Aggregate):
    """The library's own way: an aggregate with one event."""

    @event("Opened")
    def __init__(self, owner_id: UUID) -> None:
        self.owner_id = owner_id


class _View(PostgresTrackingRecorder):
    """One row an event, in the transaction of its tracking."""

    def opened(self, wallet: UUID, owner: UUID, tracking: Any) -> None:
        with self.datastore.get_connection() as connection, connection.transaction(), connection.cursor() as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(
                "INSERT INTO read.wallets VALUES (%s, %s, 0, 0, 0, now(), %s)",
                (wallet, owner, tracking.notification_id),
            )


class _Opened(Projection[_View]):
    name = "benchmark"
    topics = ()

    def process_event(self, domain_event: Any, tracking: Any) -> None:
        self.view.opened(domain_event.originator_id, domain_event.owner_id, tracking)


class _Peer:
    """The library's application and its ProjectionRunner, on the same server."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._env = environment(url)
        with Application[UUID](self._env) as application:
            for start in range(0, PEER_FACTS, 500):
                application.save(*(Counter(uuid4()) for _ in range(start, start + 500)))

    def project(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as admin:
            admin.execute("TRUNCATE read.wallets")
            admin.execute("DROP TABLE IF EXISTS benchmark_tracking")
        with ProjectionRunner(
            application_class=Application[UUID], projection_class=_Opened, view_class=_View, env=self._env
        ) as runner:
            runner.wait(PEER_FACTS, timeout=120)
