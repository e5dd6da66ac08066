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
A resolver that passes `as_of: AsOf | None` on answers the past too; its conditions then say in Python what they say in
SQL (`Condition.holds`; `equals` does by itself).
"""

import asyncio
import time
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID

from strawberry.fastapi import BaseContext
from strawberry.types import Info as StrawberryInfo

from domain.kernel.errors import Conflict, Forbidden
from projections.rows import Key, ReadModel, Row

from .connection import (
    MAX_PAGE,
    Condition,
    Connection,
    CursorInvalid,
    Edge,
    Keyset,
    PageInfo,
    PageSizeInvalid,
    Source,
    checked_start,
    equals,
    page_in_memory,
    page_of,
)
from .context import ApiContext
from .past import AsOf, row_of, rows_of
from .personal import Loader, loader_of
from .principals import Principal, Role
from .scalars import Grains, Milliseconds, Position

if TYPE_CHECKING:
    from .feed import Feed

__all__ = [
    "AsOf",
    "Condition",
    "Connection",
    "CursorInvalid",
    "Edge",
    "Grains",
    "GraphQLContext",
    "Info",
    "Keyset",
    "Listing",
    "Milliseconds",
    "PageInfo",
    "PageSizeInvalid",
    "Position",
    "ProjectionBehind",
    "Source",
    "equals",
    "page_of",
    "reached",
    "require",
]

R = TypeVar("R", bound=Row)
N = TypeVar("N")

MAX_WAIT_S = 5.0
_FIRST_POLL_S, _LAST_POLL_S = 0.005, 0.05


class ProjectionBehind(Conflict):
    """The read model did not reach `atLeast` within 5 seconds; ask again."""


class GraphQLContext(BaseContext):
    """What a resolver reaches through `info.context`."""

    def __init__(self, ctx: ApiContext, feed: "Feed", principal: Principal | None) -> None:
        super().__init__()
        self.ctx = ctx
        self.feed = feed
        self.given = principal

    @cached_property
    def personal(self) -> Loader:
        """What opens the personal texts of this answer."""
        return loader_of(self.ctx)

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
        self,
        info: Info,
        first: int,
        after: str | None,
        at_least: int | None = None,
        *conditions: Condition,
        as_of: AsOf | None = None,
    ) -> Connection[N]:
        """A page of the rows that match and that the principal may see; those of the past with `as_of`."""
        if as_of is not None:
            keyset, start = self._keyset, checked_start(self._keyset, first, after)

            def shown(rows: list[R]) -> Connection[N]:
                return page_in_memory(self._kept(info, rows, conditions), keyset, self.node, first, start)

            return await rows_of(info.context.ctx, self.model, as_of, shown)
        await reached(info, self.model.name, at_least)
        source = self._source(info, conditions)
        return await page_of(info.context.ctx, source, self._keyset, self._node, first, after)

    async def all(self, info: Info, *conditions: Condition, most: int = MAX_PAGE) -> list[N]:
        """At most `most` rows in order: for the short lists inside a node."""
        query, parameters = self._source(info, conditions).select(self._keyset, most)
        return [self._node(row) for row in await info.context.ctx.rows(query, parameters)]

    async def one(self, info: Info, *conditions: Condition, at_least: int | None = None) -> N | None:
        """The first row that matches, None when there is none or the principal may not see it."""
        await reached(info, self.model.name, at_least)
        found = await self.all(info, *conditions, most=1)
        return found[0] if found else None

    async def one_at(self, info: Info, key: Key, as_of: AsOf, *conditions: Condition) -> N | None:
        """One row as it was, None when there was none, it does not match or the principal may not see it."""
        row = await row_of(info.context.ctx, self.model, key, as_of)
        found = [] if row is None else self._kept(info, [row], conditions)
        return self.node(found[0]) if found else None

    @cached_property
    def _keyset(self) -> Keyset:
        hints = typing.get_type_hints(self.model.row)
        types = tuple(hints[name] for name in self.order)
        return Keyset(self.model.name, self.order, types, self.descending)

    def _node(self, row: dict[str, Any]) -> N:
        return self.node(self.model.read(tuple(row[name] for name in self.model.columns)))

    def _source(self, info: Info, conditions: Sequence[Condition]) -> Source:
        seen = self._access(info.context.principal)
        return Source(self.model.table, self.model.columns, (*seen, *conditions))

    def _kept(self, info: Info, rows: Sequence[R], conditions: Sequence[Condition]) -> list[R]:
        """What `_source` would have found among rows of the past."""
        asked = (*self._access(info.context.principal), *conditions)
        return [row for row in rows if all(condition.holds(row) for condition in asked)]

    def _access(self, principal: Principal) -> list[Condition]:
        if principal.role == "operator" or self.shared:
            return []
        if principal.role == "device" and self.device is not None:
            return [_own(self.device, principal.device_id)]
        if principal.role == "member" and self.owner is not None:
            return [_own(self.owner, principal.owner)]
        return [Condition("false", holds=lambda row: False)]


def _own(column: str, who: UUID | None) -> Condition:
    return Condition(f"{column} = %(own)s", {"own": who}, lambda row: getattr(row, column) == who)


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
