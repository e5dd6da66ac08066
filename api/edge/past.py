"""The past over GraphQL: which position `asOf` means, and read models folded up to it."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import psycopg
import strawberry
from psycopg.errors import QueryCanceled

from domain.kernel.errors import PositionAhead, Refusal
from infrastructure.event_store.reader import LogReader
from projections.as_of import position_at, row_at, rows_at
from projections.rows import Key, ReadModel, Row

from .context import QUERY_TIMEOUT_MS, ApiContext
from .problems import QueryTooSlow
from .scalars import Position

R = TypeVar("R", bound=Row)
T = TypeVar("T")

MAX_FOLDED = 100_000
"""How much history one query may fold (some seconds); `village audit replay` has no such bound."""


class AsOfInvalid(Refusal):
    """`asOf` is a position or a time with its offset, one of both."""


class NotOfThePast(Refusal):
    """Some lists inside a node are only of the present; of the past ask their own query with `asOf`."""


@strawberry.input
class AsOf:
    """A moment of the past: a position of the log, or an instant (what was recorded at it still counts)."""

    position: Position | None = None
    time: datetime | None = None

    def of(self, connection: psycopg.Connection[Any]) -> int:
        """The position that is meant. Raises AsOfInvalid, or PositionAhead for a time that has not come."""
        if (self.position is None) == (self.time is None):
            raise AsOfInvalid("a position or a time, one of both")
        if self.position is not None:
            return self.position
        assert self.time is not None
        if self.time.tzinfo is None:
            raise AsOfInvalid(f"{self.time.isoformat()} has no offset")
        if self.time > datetime.now(UTC):
            raise PositionAhead(f"{self.time.isoformat()} has not come")
        return position_at(connection, self.time)


async def at(ctx: ApiContext, as_of: AsOf | None, work: Callable[[psycopg.Connection[Any], int], T]) -> T:
    """Do something with a connection and the position meant (by default: the newest), off the event loop."""
    return await ctx.in_query_thread(lambda: _at(ctx, as_of, work))


async def rows_of(ctx: ApiContext, model: ReadModel[R], as_of: AsOf, then: Callable[[list[R]], T]) -> T:
    """What becomes of all rows of a read model as they were, off the event loop.

    Raises:
        AsOfInvalid, PositionAhead, TooFarToFold, QueryTooSlow.
    """

    def folded(connection: psycopg.Connection[Any], position: int) -> T:
        return then(list(rows_at(connection, model, position, most=MAX_FOLDED).values()))

    return await _folded(ctx, as_of, folded)


async def row_of(ctx: ApiContext, model: ReadModel[R], key: Key, as_of: AsOf) -> R | None:
    """One row as it was. Raises AsOfInvalid, PositionAhead, TooFarToFold, QueryTooSlow."""
    return await _folded(ctx, as_of, lambda connection, to: row_at(connection, model, key, to, most=MAX_FOLDED))


async def _folded(ctx: ApiContext, as_of: AsOf, fold: Callable[[psycopg.Connection[Any], int], T]) -> T:
    def bounded(connection: psycopg.Connection[Any], position: int) -> T:
        connection.execute(f"SET LOCAL statement_timeout = {QUERY_TIMEOUT_MS}".encode())
        try:
            return fold(connection, position)
        except QueryCanceled as error:
            raise QueryTooSlow(f"stopped after {QUERY_TIMEOUT_MS} ms") from error

    return await ctx.in_fold_thread(lambda: _at(ctx, as_of, bounded))


def _at(ctx: ApiContext, as_of: AsOf | None, work: Callable[[psycopg.Connection[Any], int], T]) -> T:
    with ctx.database.reader.connection() as connection:
        position = LogReader(connection).head() if as_of is None else as_of.of(connection)
        connection.rollback()  # so that the work may choose its own isolation
        return work(connection, position)
