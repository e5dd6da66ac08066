"""Keyset connections: pages of a table walked by unique columns, with opaque cursors."""

import base64
import binascii
import typing
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import Any, Generic, TypeVar

import msgspec
import strawberry
from psycopg import sql

from domain.kernel.errors import Refusal

from .context import ApiContext

N = TypeVar("N")
R = TypeVar("R")

MAX_PAGE = 100
_MAX_CURSOR_CHARACTERS = 512
_CACHED_STATEMENTS = 512


class CursorInvalid(Refusal):
    """`after` is an `endCursor` or `cursor` of the same connection, given back unchanged."""


class PageSizeInvalid(Refusal):
    """`first` is between 1 and 100."""


@strawberry.type
class PageInfo:
    """Where a page ends and whether another follows."""

    has_next_page: bool
    end_cursor: str | None


@strawberry.type
class Edge(Generic[N]):
    """A node and the cursor that continues after it."""

    cursor: str
    node: N


@strawberry.type
class Connection(Generic[N]):
    """A page of a keyset connection."""

    edges: list[Edge[N]]
    page_info: PageInfo
    count: strawberry.Private[Callable[[], Awaitable[int]]]

    @strawberry.field
    async def total_count(self) -> int:
        return await self.count()


def _only_in_sql(row: Any) -> bool:
    raise AssertionError("this condition is not for rows of the past")


@dataclass(frozen=True, slots=True)
class Condition:
    """Part of a WHERE: constant SQL with named parameters, `Condition("ram_mb >= %(ram)s", {"ram": 2048})`.

    `holds` says the same of a row in memory; listings that answer `asOf` need it.
    """

    text: typing.LiteralString
    parameters: dict[str, Any] = field(default_factory=dict)
    holds: Callable[[Any], bool] = _only_in_sql


def equals(column: typing.LiteralString, value: object) -> list[Condition]:
    """`column = value`, or nothing when the value is None: `*equals("session_id", session_id)`."""
    if value is None:
        return []
    return [Condition(f"{column} = %({column})s", {column: value}, lambda row: bool(getattr(row, column) == value))]


@dataclass(frozen=True, slots=True)
class Keyset:
    """How a SELECT is walked: by columns that are unique together, all in one direction.

    `types` are the columns' Python types, by which a cursor's values are checked.
    """

    name: str
    order: tuple[str, ...]
    types: tuple[Any, ...]
    descending: bool = False

    @property
    def shape(self) -> Any:
        """The type of a decoded cursor."""
        return tuple.__class_getitem__((str, *self.types))

    def cursor(self, values: Sequence[Any]) -> str:
        """The opaque cursor of a row."""
        return base64.urlsafe_b64encode(msgspec.json.encode([self.name, *values])).decode().rstrip("=")

    def values(self, cursor: str) -> tuple[Any, ...]:
        """The values a cursor holds. Raises CursorInvalid for anything this connection has not given out."""
        if len(cursor) > _MAX_CURSOR_CHARACTERS:
            raise CursorInvalid("the cursor is too long")
        try:
            decoded = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            name, *values = msgspec.json.decode(decoded, type=self.shape)
        except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
            raise CursorInvalid("not a cursor of this connection") from error
        if name != self.name:
            raise CursorInvalid("the cursor belongs to another connection")
        return tuple(values)

    @property
    def bounds(self) -> list[str]:
        """The names of the parameters of `further`."""
        return [f"after_{index}" for index in range(len(self.order))]

    def further(self) -> sql.Composable:
        """The condition that continues after a row."""
        return sql.SQL("({columns}) {comparison} ({values})").format(
            columns=self._columns(),
            comparison=sql.SQL("<" if self.descending else ">"),
            values=sql.SQL(", ").join(map(sql.Placeholder, self.bounds)),
        )

    def order_by(self) -> sql.Composable:
        """The ORDER BY."""
        direction = sql.SQL(" DESC" if self.descending else " ASC")
        return sql.SQL("ORDER BY ") + sql.SQL(", ").join(sql.Identifier(name) + direction for name in self.order)

    def _columns(self) -> sql.Composable:
        return sql.SQL(", ").join(map(sql.Identifier, self.order))


@dataclass(frozen=True, slots=True)
class Source:
    """The rows of a table that fit all conditions."""

    table: str
    columns: Sequence[str]
    conditions: Sequence[Condition] = ()

    def select(self, keyset: Keyset, limit: int, after: str | None = None) -> tuple[str, dict[str, Any]]:
        """The query for rows in the keyset's order, and its parameters. Raises CursorInvalid."""
        parameters = self._parameters()
        if after is not None:
            parameters |= zip(keyset.bounds, keyset.values(after), strict=True)
        texts = tuple(condition.text for condition in self.conditions)
        return _select(self.table, tuple(self.columns), texts, keyset, limit, after is not None), parameters

    def count(self) -> tuple[sql.Composed, dict[str, Any]]:
        """The query for how many rows there are, as `rows`, and its parameters."""
        query = sql.SQL("SELECT count(*) AS rows FROM {table}{where}").format(
            table=sql.Identifier(*self.table.split(".")),
            where=_joined([sql.SQL(condition.text) for condition in self.conditions]),
        )
        return query, self._parameters()

    def _parameters(self) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for condition in self.conditions:
            for name, value in condition.parameters.items():
                assert given.setdefault(name, value) == value, f"two conditions give {name}, and one would be forgotten"
        return given


@lru_cache(_CACHED_STATEMENTS)
def _select(
    table: str,
    columns: tuple[str, ...],
    conditions: tuple[typing.LiteralString, ...],
    keyset: Keyset,
    limit: int,
    continued: bool,
) -> str:
    where: list[sql.Composable] = [sql.SQL(text) for text in conditions]
    query = sql.SQL("SELECT {columns} FROM {table}{where} {order} LIMIT {limit}").format(
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        table=sql.Identifier(*table.split(".")),
        where=_joined([*where, keyset.further()] if continued else where),
        order=keyset.order_by(),
        limit=sql.Literal(limit),
    )
    return query.as_string()


async def page_of(
    ctx: ApiContext,
    source: Source,
    keyset: Keyset,
    node: Callable[[dict[str, Any]], N],
    first: int,
    after: str | None,
) -> Connection[N]:
    """One page of any table. Raises PageSizeInvalid or CursorInvalid."""
    if not 1 <= first <= MAX_PAGE:
        raise PageSizeInvalid(f"{first} asked")
    rows = await ctx.rows(*source.select(keyset, first + 1, after))
    edges = [Edge(cursor=keyset.cursor([row[name] for name in keyset.order]), node=node(row)) for row in rows[:first]]

    async def count() -> int:
        (total,) = await ctx.rows(*source.count())
        return int(total["rows"])

    info = PageInfo(has_next_page=len(rows) > first, end_cursor=edges[-1].cursor if edges else None)
    return Connection(edges=edges, page_info=info, count=count)


def checked_start(keyset: Keyset, first: int, after: str | None) -> tuple[Any, ...] | None:
    """Where a page in memory starts. Raises PageSizeInvalid or CursorInvalid."""
    if not 1 <= first <= MAX_PAGE:
        raise PageSizeInvalid(f"{first} asked")
    return None if after is None else keyset.values(after)


def page_in_memory(
    rows: Sequence[R], keyset: Keyset, node: Callable[[R], N], first: int, start: tuple[Any, ...] | None
) -> Connection[N]:
    """The page that `page_of` would answer if these rows were the table."""
    place = attrgetter(*keyset.order) if len(keyset.order) > 1 else lambda row: (getattr(row, keyset.order[0]),)
    rest = sorted(rows, key=place, reverse=keyset.descending)
    if start is not None:
        rest = [row for row in rest if (place(row) < start if keyset.descending else place(row) > start)]
    edges = [Edge(cursor=keyset.cursor(place(row)), node=node(row)) for row in rest[:first]]

    async def count() -> int:
        return len(rows)

    info = PageInfo(has_next_page=len(rest) > first, end_cursor=edges[-1].cursor if edges else None)
    return Connection(edges=edges, page_info=info, count=count)


def _joined(conditions: Sequence[sql.Composable]) -> sql.Composable:
    return sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("")
