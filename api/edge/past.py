"""The past over GraphQL: which position `asOf` means, and read models folded up to it."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import psycopg
import strawberry

from domain.kernel.errors import Refusal
from infrastructure.event_store.reader import LogReader
from projections.as_of import PositionAhead, position_at, row_at, rows_at
from projections.rows import Key, ReadModel, Row

from .context import ApiContext
from .scalars import Position

R = TypeVar("R", bound=Row)
T = TypeVar("T")

MAX_FOLDED = 200_000
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

    def run() -> T:
        with ctx.database.reader.connection() as connection:
            position = LogReader(connection).head() if as_of is None else as_of.of(connection)
            connection.rollback()  # so that the work may choose its own isolation
            return work(connection, position)

    return await ctx.in_fold_thread(run)


async def rows_of(ctx: ApiContext, model: ReadModel[R], as_of: AsOf) -> list[R]:
    """All rows of a read model as they were. Raises AsOfInvalid, PositionAhead, TooFarToFold."""
    return await at(ctx, as_of, lambda connection, to: list(rows_at(connection, model, to, most=MAX_FOLDED).values()))


async def row_of(ctx: ApiContext, model: ReadModel[R], key: Key, as_of: AsOf) -> R | None:
    """One row as it was. Raises AsOfInvalid, PositionAhead, TooFarToFold."""
    return await at(ctx, as_of, lambda connection, to: row_at(connection, model, key, to, most=MAX_FOLDED))
