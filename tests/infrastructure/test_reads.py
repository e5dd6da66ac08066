"""Single statements on the event loop."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import pytest
from psycopg.errors import QueryCanceled

from infrastructure.database import Database
from infrastructure.reads import Reads
from tests.cli.villages import eventually

VALUES = "SELECT %(id)s::uuid AS id, %(at)s::timestamptz AS at, '{\"a\": [1, null]}'::jsonb AS told, 2::bigint AS two"


def test_values_are_what_their_columns_are_to_all_who_ask_first_at_once_and_after_a_close(database: Database) -> None:
    asked = {"id": UUID(int=7), "at": datetime(2026, 1, 1, tzinfo=UTC)}

    async def ask() -> None:
        reads = Reads(database, most=2, timeout_ms=10_000)
        for _ in range(2):
            found = await asyncio.gather(*(reads.rows(VALUES, asked) for _ in range(5)))
            assert found == [[{**asked, "told": {"a": [1, None]}, "two": 2}]] * 5
            await reads.close()

    asyncio.run(ask())


def test_a_statement_is_stopped_in_time_and_its_connection_serves_the_next(database: Database) -> None:
    async def ask() -> None:
        reads = Reads(database, most=1, timeout_ms=300)
        with pytest.raises(QueryCanceled):
            await reads.rows("SELECT pg_sleep(60)")
        assert await reads.rows("SELECT 1 AS one") == [{"one": 1}]
        await reads.close()

    asyncio.run(ask())


def test_a_caller_that_stops_waiting_stops_its_statement(database: Database) -> None:
    async def ask() -> None:
        reads = Reads(database, most=1, timeout_ms=60_000)
        waiting = asyncio.create_task(reads.rows("SELECT pg_sleep(60)"))
        assert await asyncio.to_thread(eventually, lambda: _sleeping(database))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await reads.rows("SELECT 1 AS one") == [{"one": 1}]
        await reads.close()

    asyncio.run(asyncio.wait_for(ask(), 50))


def _sleeping(database: Database) -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    with psycopg.connect(database.url) as connection:
        return bool(connection.execute(query).fetchall())
