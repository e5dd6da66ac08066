"""Postgres for one process: a bounded connection pool per role, and migrations to the newest schema."""

import re
from enum import StrEnum
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Final, Self

from psycopg import Connection, connect
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

MIGRATIONS: Final = Path(__file__).resolve().parents[1] / "projections" / "migrations"
CONNECT_TIMEOUT_S: Final = 10
POOL_TIMEOUT_S: Final = 10.0
# Whatever the database's own defaults are: a statement behind the log's lock sees what was written before it.
SESSION: Final = (
    r"-c timezone=UTC -c default_transaction_isolation=read\ committed -c default_transaction_read_only=off"
)
# A writer that stops in the middle of a transaction holds up every reader: the server ends it.
IDLE_IN_TRANSACTION_MS: Final = 15_000

Pool = ConnectionPool[Connection[TupleRow]]


class Role(StrEnum):
    """What a connection may do; the grants are in the migrations. The user of the url itself is the migrator."""

    WRITER = "village_writer"
    READER = "village_reader"
    PROJECTOR = "village_projector"
    ARCHIVER = "village_archiver"


def conninfo_for(url: str, role: Role, *, application: str = "village") -> str:
    """The connection string of `url` that acts as `role` from its first statement, in UTC and READ COMMITTED."""
    given = str(conninfo_to_dict(url).get("options") or "")
    options = (
        f"{given} -c role={role} {SESSION} -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_MS}"
    ).strip()
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", application)[:40]
    return make_conninfo(url, options=options, application_name=name, connect_timeout=CONNECT_TIMEOUT_S)


class Database:
    """Connection pools by role, opened when first asked for; safe to share between threads."""

    def __init__(self, url: str, *, pool_size: int = 8, application: str = "village") -> None:
        self.url = url
        self.pool_size = pool_size
        self.application = application
        self._pools: dict[tuple[Role, bool], Pool] = {}
        self._lock = Lock()

    def conninfo(self, role: Role, *, statement_timeout_ms: int | None = None) -> str:
        """For a connection outside the pools, such as a long LISTEN.

        Args:
            statement_timeout_ms: after this the server stops a statement (`QueryCanceled`).
        """
        return conninfo_for(self._url_with(statement_timeout_ms), role, application=self.application)

    def connect(self, role: Role, *, autocommit: bool = True) -> Connection[TupleRow]:
        """A new connection of the caller's own; raises `psycopg.OperationalError`."""
        return connect(self.conninfo(role), autocommit=autocommit)

    def pool(self, role: Role, *, autocommit: bool = False) -> Pool:
        """The pool of `role`: at most `pool_size` connections, waiting at most 10 s for one (`PoolTimeout`).

        Args:
            autocommit: for single statements, each its own transaction, in a fifth of the round trips. A connection
                is not checked before it is lent: who finds it broken calls the pool's `check` and asks again.
        """
        key = (role, autocommit)
        with self._lock:
            pool = self._pools.get(key)
            if pool is None:
                pool = self._pools[key] = ConnectionPool(
                    self.conninfo(role),
                    kwargs={"autocommit": autocommit},
                    min_size=1,
                    max_size=self.pool_size,
                    timeout=POOL_TIMEOUT_S,
                    max_waiting=1_000,
                    name=f"{self.application}-{role}{'-autocommit' if autocommit else ''}",
                    check=None if autocommit else ConnectionPool.check_connection,
                    open=True,
                )
            return pool

    def _url_with(self, statement_timeout_ms: int | None) -> str:
        if statement_timeout_ms is None:
            return self.url
        given = str(conninfo_to_dict(self.url).get("options") or "")
        return make_conninfo(self.url, options=f"{given} -c statement_timeout={statement_timeout_ms}".strip())

    @property
    def writer(self) -> Pool:
        """May append to the log and change operational tables."""
        return self.pool(Role.WRITER)

    @property
    def reader(self) -> Pool:
        """May only read."""
        return self.pool(Role.READER)

    @property
    def projector(self) -> Pool:
        """May change read models and cursors."""
        return self.pool(Role.PROJECTOR)

    def close(self) -> None:
        """Closes every pool; connections in use close when they are given back."""
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def head() -> str:
    """The newest revision this code knows. Revisions are numbers in the names of their files, one after the other."""
    return max(path.name.split("_", 1)[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def revision(url: str) -> str | None:
    """The revision the database is at; None for an empty one."""
    with connect(url, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        known = connection.execute("SELECT to_regclass('alembic_version')").fetchone()
        if known is None or known[0] is None:
            return None
        row: tuple[Any, ...] | None = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return None if row is None else str(row[0])


def migrate(url: str) -> None:
    """Brings the database to `head`, alone under an advisory lock; does nothing when it is there already.

    The connecting user must be allowed to create roles and schemas, or be a superuser.
    """
    if revision(url) == head():
        return
    # Needed at most once in a process's life, and much to import.
    import alembic.command
    from alembic.config import Config

    config = Config(attributes={"url": url})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    alembic.command.upgrade(config, "head")
