"""Single statements read on the event loop: no thread waits for the database, and each takes one round trip."""

from typing import Any

import msgspec
from psycopg import AsyncConnection, OperationalError, sql
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool

from . import database as databases
from .database import Database, Role

Query = str | sql.Composable
Pool = AsyncConnectionPool[AsyncConnection[DictRow]]


class Reads:
    """Connections with the reader's rights, all of one event loop, opened when first asked for.

    Args:
        timeout_ms: after this the server stops a statement (`QueryCanceled`).
    """

    def __init__(self, database: Database, *, most: int, timeout_ms: int) -> None:
        self._url = database.conninfo(Role.READER, statement_timeout_ms=timeout_ms)
        self._most = most
        self._name = f"{database.application}-reads"
        self._pool: Pool | None = None

    async def rows(self, query: Query, parameters: dict[str, Any] | None = None) -> list[DictRow]:
        """The rows of one statement, its own transaction; asked once more when its connection had been lost.

        Raises psycopg errors; `PoolTimeout` after 10 s without a connection.
        """
        pool = await self._opened()
        for last in (False, True):
            async with pool.connection() as connection, connection.cursor(binary=True) as cursor:
                try:
                    await cursor.execute(query, parameters)  # type: ignore[arg-type]
                    return await cursor.fetchall()
                except OperationalError:
                    if last or not connection.closed:
                        raise
            await pool.check()  # the server may be a new one, and every connection lost
        raise AssertionError("a read is answered or raises")

    async def _opened(self) -> Pool:
        if self._pool is None:
            self._pool = AsyncConnectionPool(
                self._url,
                kwargs={"autocommit": True, "row_factory": dict_row},
                configure=_configured,
                min_size=1,
                max_size=self._most,
                timeout=databases.POOL_TIMEOUT_S,
                max_waiting=1_000,
                name=self._name,
                open=False,
            )
        if self._pool.closed:
            await self._pool.open()
        return self._pool

    async def close(self) -> None:
        """Close what was opened; asked again, it opens anew."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()


async def _configured(connection: AsyncConnection[DictRow]) -> None:
    set_json_loads(msgspec.json.decode, connection)
