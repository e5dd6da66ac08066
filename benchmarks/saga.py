"""A payment of five durable steps from the request to the end, held against DBOS on the same server; and kill -9.

Ours is a plan over the services of tokenomics and the marketplace (benchmarks/payments/village.py), the peer a DBOS
workflow with the same effects (benchmarks/payments/peer.py, with its settings). Each is one worker process; a client
of 8 threads asks for all payments at once, and the clock runs from the first request to the last end. In the second
row the worker is killed when a seeded number of steps has been done, and started again, five times; then balances
are counted. The limit is five one-row INSERTs a payment, autocommit, by 8 threads.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from uuid import UUID

import psycopg

from benchmarks.history import History
from benchmarks.payments import FUNDS, PRICE, Payment, customers, payments, providers
from benchmarks.payments.peer import DbosPayments
from benchmarks.payments.village import VillagePayments
from benchmarks.table import Row, middle

RUNS, PAYMENTS, KILLS = 3, 200, 5
THREADS, STEPS = 8, 5
POLL_S, PATIENCE_S = 0.02, 90.0
ROOT = Path(__file__).resolve().parents[1]
TARGET = 2


class Side(Protocol):
    """One way to pay, from the client's side."""

    name: str
    module: str
    urls: tuple[str, ...]

    def prepare(self) -> None: ...
    def submit(self, payment: Payment) -> None: ...
    def steps(self) -> int: ...
    def ended(self) -> int: ...
    def balances(self) -> dict[UUID, int]: ...
    def close(self) -> None: ...


def run() -> list[Row]:
    with History() as history:
        app, system = _made(history, "app"), _made(history, "system")
        sides: tuple[Side, Side] = (VillagePayments(history.database()), DbosPayments(app, system))
        rates: dict[str, list[float]] = {side.name: [] for side in sides}
        limits: list[float] = []
        for side in sides:
            side.prepare()
        for number in range(RUNS):
            limits.append(_limit(history, number))
            for side in sides:
                rates[side.name].append(_rate(side, number))
        doubled = {side.name: _killed(side, RUNS) for side in sides}
        for side in sides:
            side.close()
    ours, peer = (middle(rates[side.name]) for side in sides)
    wrong, theirs = (doubled[side.name] for side in sides)
    return [
        Row(
            f"payment saga of {STEPS} steps, {PAYMENTS} at once", ours, "payments/s", f">= {TARGET} x DBOS",
            ours >= TARGET * peer, limit=middle(limits), peer=peer,
            note="both workers are bound by their own CPU: facts that come together share one transaction of ours,"
            " DBOS takes two for every step",
        ),
        Row(
            f"double pays of {PAYMENTS} under kill -9", wrong, "payments", "0, and every payment ends",
            wrong == 0, peer=theirs, note=f"the worker is killed {KILLS} times in the middle of work",
        ),
    ]  # fmt: skip


def _rate(side: Side, seed: int) -> float:
    """Payments a second, from the first request until all have ended."""
    before = side.ended()
    with _worker(side):
        began = time.perf_counter()
        _submit(side, seed)
        _wait(side.ended, before + PAYMENTS)
        return PAYMENTS / (time.perf_counter() - began)


def _killed(side: Side, seed: int) -> float:
    """How many payments too many workers made that were killed after seeded numbers of steps. All payments end."""
    ended, steps = side.ended(), side.steps()
    moments = sorted(random.Random(seed).sample(range(STEPS * PAYMENTS * 9 // 10), KILLS))
    for moment in moments:
        with _worker(side):
            if moment is moments[0]:
                _submit(side, seed)
            _wait(side.steps, steps + moment)
            assert side.ended() < ended + PAYMENTS, f"{side.name} was done before it was killed"
    with _worker(side):
        _wait(side.ended, ended + PAYMENTS)
    return _doubled(side, seed + 1)


def _doubled(side: Side, runs: int) -> float:
    """How many payments too many the balances show after these runs."""
    expected = dict.fromkeys(customers(), FUNDS) | dict.fromkeys(providers(), 0)
    for payment in itertools.chain(*(payments(PAYMENTS, seed) for seed in range(runs))):
        expected[payment.customer_id] -= PRICE
        expected[payment.provider_id] += PRICE
    balances = side.balances()
    charged = [expected[owner_id] - balances[owner_id] for owner_id in customers()]
    credited = [balances[owner_id] - expected[owner_id] for owner_id in providers()]
    assert min(*charged, *credited) >= 0, f"{side.name} has lost a payment"
    return max(sum(charged), sum(credited)) / PRICE


def _submit(side: Side, seed: int) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(side.submit, payments(PAYMENTS, seed)))


def _wait(count: Callable[[], int], wanted: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while (found := count()) < wanted:
        assert time.monotonic() < until, f"{count}: {found} of {wanted}"
        time.sleep(POLL_S)


@contextmanager
def _worker(side: Side) -> Iterator[None]:
    """A worker process, killed at the end of the block."""
    command = [sys.executable, "-m", side.module, *side.urls]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", f"{side.name} does not start"
        try:
            yield
        finally:
            os.kill(process.pid, signal.SIGKILL)


def _limit(history: History, number: int) -> float:
    """Payments a second if each were five INSERTs."""
    url = _made(history, f"limit_{number}")
    connections = [psycopg.connect(url, autocommit=True) for _ in range(THREADS)]
    connections[0].execute(
        "CREATE TABLE steps (payment_id uuid, step int, effect bytea, PRIMARY KEY (payment_id, step))"
    )
    todo = list(payments(PAYMENTS, 0))

    def insert(index: int) -> None:
        for payment in todo[index::THREADS]:
            for step in range(STEPS):
                values = (payment.payment_id, step, b"0" * 200)
                connections[index].execute("INSERT INTO steps VALUES (%b, %b, %b)", values, prepare=True)

    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(insert, range(THREADS)))
    took = time.perf_counter() - began
    for connection in connections:
        connection.close()
    return PAYMENTS / took


def _made(history: History, name: str) -> str:
    """The URL of a new, empty database."""
    with psycopg.connect(history.server.url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
    return history.server.url.replace("/village?", f"/{name}?")
