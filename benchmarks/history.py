"""A long history for benchmarks: real events of real contexts, put into the log by COPY."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid5

import psutil
import psycopg

import domain.topics  # noqa: F401  (every stored topic must resolve)
from domain.kernel import new_scope, within
from domain.kernel.mapper import codec_of
from domain.tokenomics.wallet import Wallet
from infrastructure.database import Database, migrate
from infrastructure.embedded.postgres import EmbeddedPostgres

COPY = (
    "COPY log.events (position, stream, version, topic, state, event_id, command_id, correlation_id, actor,"
    " recorded_at) FROM STDIN (FORMAT BINARY)"
)
TYPES = ["int8", "uuid", "int8", "text", "bytea", "uuid", "uuid", "uuid", "text", "timestamptz"]
NAMESPACE = UUID(int=42)
_START = datetime(2026, 1, 1, tzinfo=UTC)
_ACTOR = "operator:benchmark"


@dataclass(frozen=True)
class Cost:
    """Seconds of a piece of work: CPU of this process, CPU of the server, and what passed meanwhile."""

    own: float
    server: float
    elapsed: float


class History:
    """A server of the benchmark's own, durable as in production, with databases made on demand."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="village-bench-", ignore_cleanup_errors=True)
        Path(self._folder.name).chmod(0o711)
        self.server = EmbeddedPostgres(Path(self._folder.name) / "server")
        self._numbers = itertools.count(1)

    def __enter__(self) -> "History":
        self.server.__enter__()
        return self

    def __exit__(self, *why: Any) -> None:
        self.server.__exit__(*why)
        self._folder.cleanup()

    def cpu_s(self) -> float:
        """CPU time that the server's processes have used, of those that still run."""
        assert self.server.pid is not None
        used = 0.0
        for child in psutil.Process(self.server.pid).children():
            with suppress(psutil.NoSuchProcess):
                used += sum(child.cpu_times()[:2])
        return used

    def cost(self, work: Callable[[], Any]) -> Cost:
        """What a piece of work takes; the server's part is of the processes that outlive it."""
        server, own, elapsed = self.cpu_s(), time.process_time(), time.perf_counter()
        work()
        return Cost(time.process_time() - own, self.cpu_s() - server, time.perf_counter() - elapsed)

    def database(self) -> Database:
        """A fresh, migrated database."""
        name = f"bench_{next(self._numbers)}"
        with psycopg.connect(self.server.url, autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name}".encode())
        url = self.server.url.replace("/village?", f"/{name}?")
        migrate(url)
        return Database(url, pool_size=4, application="benchmark")


def opened_wallets(count: int) -> Iterator[tuple[Any, ...]]:
    """One event of one new stream a row."""
    for number in range(count):
        wallet_id = uuid5(NAMESPACE, f"wallet {number}")
        event = Wallet.fact(Wallet.Opened, wallet_id, wallet_id=wallet_id, owner_id=uuid5(NAMESPACE, str(number)))
        yield row(number + 1, event, 1)


def write(database: Database, rows: Iterator[tuple[Any, ...]]) -> None:
    """Put rows into the log at the speed of COPY, and let Postgres learn of them."""
    with psycopg.connect(database.url) as connection:
        with connection.cursor().copy(COPY) as copy:
            copy.set_types(TYPES)
            for record in rows:
                copy.write_row(record)
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE log.events")


def row(position: int, event: Any, version: int) -> tuple[Any, ...]:
    """A row of the log as `write` takes it: an event recorded by a command of its own."""
    with within(new_scope(_ACTOR, now=_START)):
        codec = codec_of(type(event).TOPIC)
    event_id = UUID(int=position)
    return (
        position, event.originator_id, version, codec.topic, codec.encode(vars(event)), event_id, event_id, event_id,
        _ACTOR, _START + timedelta(milliseconds=position),
    )  # fmt: skip
