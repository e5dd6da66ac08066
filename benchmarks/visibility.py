"""From a command to its row in a read model, at 500 commands/s: the log, NOTIFY and a projector process of its own."""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing.connection import Connection
from statistics import quantiles
from typing import Any
from uuid import UUID, uuid4

import psycopg
from eventsourcing.application import Application
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner

from benchmarks.history import History
from benchmarks.library import Meter, environment
from benchmarks.table import Row, middle
from domain.kernel import new_scope, within
from domain.tokenomics.accounts import wallet_id_of
from domain.tokenomics.service import TokenomicsService
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from projections.catalogue import READ_MODELS
from workers.projector import Projector

RATE, SECONDS, RUNS, CALLERS, ROUND_TRIPS = 500, 2, 5, 8, 200
P50_MS, P99_MS = 10, 50


def run() -> list[Row]:
    ours, theirs, notified = [], [], []
    with History() as history:
        database, url = history.database(), history.database().url
        log, library = open_event_log(database.url), Application[UUID](environment(url))
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute("CREATE TABLE bench_meters (id uuid PRIMARY KEY)")
        tokens = TokenomicsService(log)

        def open_wallet(owner_id: UUID) -> None:
            with within(new_scope("operator:benchmark")):
                tokens.open_wallet(owner_id=owner_id)

        def install(meter: Meter) -> None:
            library.save(meter)

        with (
            _beside(_project, database.url),
            _beside(_project_theirs, url),
            _Watch(database.url, "SELECT wallet_id FROM read.wallets WHERE wallet_id = ANY(%b)") as watch,
            _Watch(url, "SELECT id FROM bench_meters WHERE id = ANY(%b)") as their_watch,
        ):
            for number in range(RUNS + 1):
                mine = _paced(watch, uuid4, wallet_id_of, open_wallet)
                peer = _paced(their_watch, Meter, lambda meter: meter.id, install)
                trip = _notify(database.url)
                if number:  # the first run warms up
                    ours.append(mine)
                    theirs.append(peer)
                    notified.append(trip)
        library.close()
        log.close()
        database.close()
    limit = middle(notified)
    return [
        Row(
            f"command to read model at {RATE}/s, {name}", middle([run[percent - 1] for run in ours]), "ms",
            f"<= {most} ms", middle([run[percent - 1] for run in ours]) <= most,
            limit=limit, peer=middle([run[percent - 1] for run in theirs]),
            note="the limit is one NOTIFY from commit to listener, the peer the library's ProjectionRunner",
        )
        for name, percent, most in (("p50", 50, P50_MS), ("p99", 99, P99_MS))
    ]  # fmt: skip


def _paced(watch: "_Watch", make: Callable[[], Any], key: Callable[[Any], UUID], ask: Callable[[Any], None]) -> Any:
    """The percentiles, in ms, from the instant each command was due to the instant its row was seen."""
    began = time.perf_counter() + 0.05
    with ThreadPoolExecutor(CALLERS) as pool:

        def call(number: int) -> None:
            thing, due = make(), began + number / RATE
            time.sleep(max(0.0, due - time.perf_counter()))
            watch.expect(key(thing), due)
            ask(thing)

        for done in wait([pool.submit(call, number) for number in range(RATE * SECONDS)]).done:
            done.result()
    took = time.perf_counter() - began
    assert took < SECONDS * 1.2, f"{RATE * SECONDS} commands took {took:.1f} s: this is not {RATE}/s"
    return quantiles(watch.seen(RATE * SECONDS), n=100)


class _Watch:
    """Asks every millisecond for the rows that are expected, by their keys."""

    def __init__(self, url: str, select: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._select = select.encode()
        self._due: dict[UUID, float] = {}
        self._latencies: list[float] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *why: Any) -> None:
        self._stopping.set()
        self._thread.join()
        self._connection.close()

    def expect(self, key: UUID, due: float) -> None:
        self._due[key] = due

    def seen(self, count: int) -> list[float]:
        """The latencies in ms, once so many rows were seen."""
        until = time.monotonic() + 30
        while len(self._latencies) < count:
            assert time.monotonic() < until, f"only {len(self._latencies)} of {count} rows were seen"
            time.sleep(0.01)
        found, self._latencies = self._latencies, []
        return found

    def _look(self) -> None:
        while not self._stopping.wait(0.001):
            if keys := list(self._due):
                rows = self._connection.execute(self._select, (keys,), prepare=True).fetchall()
                now = time.perf_counter()
                self._latencies += [(now - self._due.pop(key)) * 1e3 for (key,) in rows]


def _notify(url: str) -> float:
    """The median time, in ms, from a NOTIFY to a listener that has it."""
    trips = []
    with psycopg.connect(url, autocommit=True) as talking, psycopg.connect(url, autocommit=True) as listening:
        listening.execute("LISTEN bench")
        for _ in range(ROUND_TRIPS):
            began = time.perf_counter()
            talking.execute("NOTIFY bench")
            assert list(listening.notifies(timeout=10, stop_after=1))
            trips.append((time.perf_counter() - began) * 1e3)
    return middle(trips)


@contextmanager
def _beside(work: Callable[[str, Connection], None], url: str) -> Iterator[None]:
    """Run this in a process of its own, until the block ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(url, theirs), daemon=True)
    process.start()
    try:
        assert ours.recv() == "ready"
        yield
    finally:
        ours.send("stop")
        process.join(30)


def _project(url: str, pipe: Connection) -> None:
    database, stopping = Database(url), threading.Event()
    thread = threading.Thread(target=Projector(database, READ_MODELS).run, args=(stopping,))
    thread.start()
    pipe.send("ready")
    pipe.recv()
    stopping.set()
    thread.join()
    database.close()


class _View(PostgresTrackingRecorder):
    """One row an event, in the transaction of its tracking."""

    def installed(self, meter: UUID, tracking: Any) -> None:
        with self.datastore.get_connection() as connection, connection.transaction(), connection.cursor() as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute("INSERT INTO bench_meters VALUES (%s)", (meter,))


class _Installed(Projection[_View]):
    name = "benchmark"
    topics = ()

    def process_event(self, domain_event: Any, tracking: Any) -> None:
        self.view.installed(domain_event.originator_id, tracking)


def _project_theirs(url: str, pipe: Connection) -> None:
    with ProjectionRunner(
        application_class=Application[UUID], projection_class=_Installed, view_class=_View, env=environment(url)
    ):
        pipe.send("ready")
        pipe.recv()
