"""Durable single-event commands, the full path: load, decide, record. Held against bare INSERTs of the same rows."""

import functools
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any
from uuid import UUID, uuid4

import psycopg

from benchmarks.bare import SECONDS, THREADS, Bare, rate_of
from benchmarks.history import History
from benchmarks.library import Meters as LibraryMeters
from benchmarks.library import environment
from benchmarks.meter import Meters
from benchmarks.table import Row, middle
from domain.kernel import new_scope, within
from infrastructure.event_store import open_event_log

CALLERS, RUNS = 32, 5


def run() -> list[Row]:
    one, two, raw, locked, theirs, cpu = [], [], [], [], [], []
    with History() as history:
        database = history.database()
        bare = Bare(database)
        library = LibraryMeters(environment(history.database().url))
        works = [functools.partial(library.advance, library.install()) for _ in range(CALLERS)]
        alone, left, right = (_Process(database.url, callers) for callers in (CALLERS, CALLERS // 2, CALLERS // 2))
        for _ in range(RUNS):
            server_s = history.cpu_s()
            one.append(_rate([alone]))
            cpu.append((history.cpu_s() - server_s) / one[-1] / SECONDS * 1e6)
            raw.append(bare.rate(bare.autocommit))
            two.append(_rate([left, right]))
            locked.append(bare.rate(bare.under_the_lock))
            theirs.append(rate_of(works))
        asked, python_s = zip(*(process.close() for process in (alone, left, right)), strict=True)
        with psycopg.connect(database.url) as connection:
            stands = connection.execute("SELECT count(*) FROM log.events WHERE version > 1").fetchone()
        assert stands == (sum(asked),), f"{sum(asked)} commands were acknowledged, {stands} stand"
        library.close()
        database.close()
    limit, under_lock = middle(raw), middle(locked)
    note = (
        f"under the log's lock the same INSERTs reach {under_lock:g}/s; CPU a command in one process: "
        f"{python_s[0] / asked[0] * 1e6:.0f} us in Python, {middle(cpu):.0f} us in the server; "
        "the peer is the plain library with the same callers"
    )
    return [
        Row(
            f"commands, {CALLERS} callers, {processes}", ours, "commands/s",
            f">= 0.5 x raw INSERTs of {THREADS} threads, >= 2 x the same under the log's lock",
            ours >= 0.5 * limit and ours >= 2 * under_lock, limit=limit, peer=middle(theirs), note=note,
        )
        for processes, ours in (("1 process", middle(one)), ("2 processes", middle(two)))
    ]  # fmt: skip


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

    def close(self) -> tuple[int, float]:
        """How many commands were acknowledged in all, and how many seconds of CPU they took here."""
        self.send("close")
        total: tuple[int, float] = self.receive()
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
    began = time.process_time()
    pipe.send("ready")
    while pipe.recv() != "close":
        pipe.send(rate_of(works, counts))
    log.close()
    pipe.send((sum(counts), time.process_time() - began))


def _rate(processes: list[_Process]) -> float:
    for process in processes:
        process.send("run")
    return float(sum(process.receive() for process in processes))
