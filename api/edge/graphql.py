"""What the GraphQL types of a context are made with: scalars, access, keyset connections, waiting for a position.

A context writes its rows once and lists them in one line:

    @strawberry.type(name="Wallet")
    class WalletNode:
        wallet_id: UUID
        posted_grains: Grains

        @classmethod
        def of(cls, row: WalletRow) -> "WalletNode": ...

    WALLETS = Listing(Wallets(), WalletNode.of, order=("wallet_id",), owner="owner_id")

    @strawberry.type
    class Query:
        @strawberry.field
        async def wallets(
            self, info: Info, first: int, after: str | None = None, at_least: Position | None = None
        ) -> Connection[WalletNode]:
            return await WALLETS.page(info, first, after, at_least)

`Listing` applies the access rule (operators see all rows, members and devices their own), so no resolver repeats it.
"""

import asyncio
import base64
import binascii
import time
import typing
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NewType, TypeVar

import msgspec
import strawberry
from psycopg import sql
from strawberry.fastapi import BaseContext
from strawberry.types import Info as StrawberryInfo

from domain.kernel.errors import Conflict, Forbidden, Refusal
from projections.rows import ReadModel, Row

from .context import ApiContext
from .principals import Principal, Role

if TYPE_CHECKING:
    from .feed import Feed

R = TypeVar("R", bound=Row)
N = TypeVar("N")

MAX_PAGE = 100
MAX_WAIT_S = 5.0
_MAX_CURSOR_CHARACTERS = 512
_FIRST_POLL_S, _LAST_POLL_S = 0.005, 0.05

Position = NewType("Position", int)
"""A position in the event log; a JSON number, exact to 2^53."""

Grains = NewType("Grains", int)
"""An amount of money in grains; a decimal string, since not every client has 64-bit integers."""


Milliseconds = NewType("Milliseconds", int)
"""A duration; a JSON number, exact to 2^53 (GraphQL's Int ends at 25 days)."""


class CursorInvalid(Refusal):
    """`after` is an `endCursor` or `cursor` of the same connection, given back unchanged."""


class PageSizeInvalid(Refusal):
    """`first` is between 1 and 100."""


class ProjectionBehind(Conflict):
    """The read model did not reach `atLeast` within 5 seconds; ask again."""


class GraphQLContext(BaseContext):
    """What a resolver reaches through `info.context`."""

    def __init__(self, ctx: ApiContext, feed: "Feed", principal: Principal | None) -> None:
        super().__init__()
        self.ctx = ctx
        self.feed = feed
        self.given = principal

    @property
    def principal(self) -> Principal:
        """Who asks. Nothing is resolved before it is known."""
        assert self.given is not None, "an operation without a principal"
        return self.given


Info = StrawberryInfo[GraphQLContext, None]


def require(info: Info, *roles: Role) -> Principal:
    """Who asks, if it has one of these roles. Raises Forbidden."""
    principal = info.context.principal
    if principal.role not in roles:
        raise Forbidden(f"this is for {' and '.join(roles)}, not for a {principal.role}")
    return principal


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


@dataclass(frozen=True, slots=True)
class Condition:
    """Part of a WHERE: constant SQL with named parameters, `Condition("ram_mb >= %(ram)s", {"ram": 2048})`."""

    text: typing.LiteralString
    parameters: dict[str, Any] = field(default_factory=dict)


def equals(column: typing.LiteralString, value: object) -> list[Condition]:
    """`column = value`, or nothing when the value is None: `*equals("session_id", session_id)`."""
    return [] if value is None else [Condition(f"{column} = %({column})s", {column: value})]


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

    def after(self, cursor: str) -> tuple[sql.Composable, dict[str, Any]]:
        """The condition that continues after a cursor."""
        names = [f"after_{index}" for index in range(len(self.order))]
        condition = sql.SQL("({columns}) {comparison} ({values})").format(
            columns=self._columns(),
            comparison=sql.SQL("<" if self.descending else ">"),
            values=sql.SQL(", ").join(map(sql.Placeholder, names)),
        )
        return condition, dict(zip(names, self.values(cursor), strict=True))

    def order_by(self) -> sql.Composable:
        """The ORDER BY."""
        direction = sql.SQL(" DESC" if self.descending else " ASC")
        return sql.SQL("ORDER BY ") + sql.SQL(", ").join(sql.Identifier(name) + direction for name in self.order)

    def _columns(self) -> sql.Composable:
        return sql.SQL(", ").join(map(sql.Identifier, self.order))


async def page_of(
    ctx: ApiContext,
    keyset: Keyset,
    *,
    columns: Sequence[str],
    table: str,
    node: Callable[[dict[str, Any]], N],
    first: int,
    after: str | None,
    conditions: Sequence[Condition] = (),
) -> Connection[N]:
    """One page of any table. Raises PageSizeInvalid or CursorInvalid."""
    if not 1 <= first <= MAX_PAGE:
        raise PageSizeInvalid(f"{first} asked")
    where: list[sql.Composable] = [sql.SQL(condition.text) for condition in conditions]
    parameters: dict[str, Any] = {}
    for condition in conditions:
        parameters |= condition.parameters
    counting = sql.SQL("SELECT count(*) AS rows FROM {table}{where}").format(
        table=sql.Identifier(*table.split(".")), where=_where(where)
    )
    counted = dict(parameters)
    if after is not None:
        further, values = keyset.after(after)
        where.append(further)
        parameters |= values
    query = sql.SQL("SELECT {columns} FROM {table}{where} {order} LIMIT {limit}").format(
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        table=sql.Identifier(*table.split(".")),
        where=_where(where),
        order=keyset.order_by(),
        limit=sql.Literal(first + 1),
    )
    rows = await ctx.rows(query, parameters)
    edges = [Edge(cursor=keyset.cursor([row[name] for name in keyset.order]), node=node(row)) for row in rows[:first]]

    async def count() -> int:
        (total,) = await ctx.rows(counting, counted)
        return int(total["rows"])

    info = PageInfo(has_next_page=len(rows) > first, end_cursor=edges[-1].cursor if edges else None)
    return Connection(edges=edges, page_info=info, count=count)


def _where(conditions: Sequence[sql.Composable]) -> sql.Composable:
    return sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("")


@dataclass(frozen=True)
class Listing(Generic[R, N]):
    """A read model as GraphQL lists it: the only place where a row meets a principal.

    `order` are columns that are unique together. `owner` and `device` are the columns that hold whose row it is;
    a principal that none of them can match sees nothing. `shared` lets every principal see all rows.
    """

    model: ReadModel[R]
    node: Callable[[R], N]
    order: tuple[str, ...]
    descending: bool = False
    owner: str | None = None
    device: str | None = None
    shared: bool = False

    async def page(
        self, info: Info, first: int, after: str | None, at_least: int | None = None, *conditions: Condition
    ) -> Connection[N]:
        """A page of the rows that match and that the principal may see."""
        await reached(info, self.model.name, at_least)
        return await page_of(
            info.context.ctx,
            self._keyset,
            columns=self.model.columns,
            table=self.model.table,
            node=self._node,
            first=first,
            after=after,
            conditions=(*self._access(info.context.principal), *conditions),
        )

    async def all(self, info: Info, *conditions: Condition, most: int = MAX_PAGE) -> list[N]:
        """At most `most` rows in order: for the short lists inside a node."""
        query = sql.SQL("{select}{where} {order} LIMIT {most}").format(
            select=self.model.select(),
            where=_where([sql.SQL(c.text) for c in (*self._access(info.context.principal), *conditions)]),
            order=self._keyset.order_by(),
            most=sql.Literal(most),
        )
        parameters: dict[str, Any] = {}
        for condition in (*self._access(info.context.principal), *conditions):
            parameters |= condition.parameters
        return [self._node(row) for row in await info.context.ctx.rows(query, parameters)]

    async def one(self, info: Info, *conditions: Condition, at_least: int | None = None) -> N | None:
        """The first row that matches, None when there is none or the principal may not see it."""
        await reached(info, self.model.name, at_least)
        found = await self.all(info, *conditions, most=1)
        return found[0] if found else None

    @property
    def _keyset(self) -> Keyset:
        hints = typing.get_type_hints(self.model.row)
        types = tuple(hints[name] for name in self.order)
        return Keyset(self.model.name, self.order, types, self.descending)

    def _node(self, row: dict[str, Any]) -> N:
        return self.node(self.model.read(tuple(row[name] for name in self.model.columns)))

    def _access(self, principal: Principal) -> list[Condition]:
        if principal.role == "operator" or self.shared:
            return []
        if principal.role == "device" and self.device is not None:
            return [Condition(f"{self.device} = %(own)s", {"own": principal.device_id})]
        if principal.role == "member" and self.owner is not None:
            return [Condition(f"{self.owner} = %(own)s", {"own": principal.owner})]
        return [Condition("false")]


async def reached(info: Info, consumer: str, position: int | None) -> None:
    """Wait until a consumer's cursor has come to a position, at most 5 seconds. Raises ProjectionBehind."""
    if position is None:
        return
    ctx, ends, pause = info.context.ctx, time.monotonic() + MAX_WAIT_S, _FIRST_POLL_S
    while True:
        row = await ctx.row(
            "SELECT min(position) AS position FROM engine.cursors WHERE name = %(name)s", {"name": consumer}
        )
        stands = 0 if row is None or row["position"] is None else row["position"]
        if stands >= position:
            return
        if time.monotonic() >= ends:
            raise ProjectionBehind(f"{consumer} stands at {stands}, {position} was asked for")
        await asyncio.sleep(pause)
        pause = min(_LAST_POLL_S, pause * 1.5)
