"""Statements and holds of a wallet over GraphQL, and its activity as a feed. Members see their own."""

from collections.abc import AsyncGenerator
from datetime import datetime
from functools import partial
from uuid import UUID

import strawberry

from api.edge.connection import MAX_PAGE
from api.edge.graphql import (
    AsOf,
    Connection,
    Edge,
    Grains,
    Info,
    Keyset,
    Listing,
    PageInfo,
    PageSizeInvalid,
    Position,
    equals,
    reached,
)
from api.edge.past import at
from domain.kernel import Forbidden
from domain.tokenomics.accounts import wallet_id_of
from domain.tokenomics.wallet import Wallet
from projections.tokenomics.holds import HoldRow, Holds
from projections.tokenomics.queries import Entry, MoneyIndex

_NEWEST = 2**63 - 1
_BY_POSITION = Keyset("statement", ("position",), (int,), descending=True)


@strawberry.type
class StatementEntry:
    """What a transfer gave the wallet, or took (negative), and what was posted in it afterwards."""

    position: Position
    transfer_id: UUID
    kind: str
    grains: Grains
    balance_grains: Grains
    posted_at: datetime

    @classmethod
    def of(cls, entry: Entry) -> "StatementEntry":
        return cls(
            position=Position(entry.position),
            transfer_id=entry.transfer_id,
            kind=entry.kind,
            grains=Grains(entry.grains),
            balance_grains=Grains(entry.balance),
            posted_at=entry.posted_at,
        )


@strawberry.type
class Hold:
    """What is kept back until an instant: open, captured, voided or expired."""

    hold_id: UUID
    wallet_id: UUID
    grains: Grains
    captured_grains: Grains
    expires_at: datetime
    purpose: str
    state: str
    held_at: datetime
    ended_at: datetime | None
    position: Position

    @classmethod
    def of(cls, row: HoldRow) -> "Hold":
        return cls(
            hold_id=row.hold_id,
            wallet_id=row.wallet_id,
            grains=Grains(row.grains),
            captured_grains=Grains(row.captured_grains),
            expires_at=row.expires_at,
            purpose=row.purpose,
            state=row.state,
            held_at=row.held_at,
            ended_at=row.ended_at,
            position=Position(row.position),
        )


@strawberry.type
class WalletActivity:
    """A fact about a wallet, and the wallet's funds after it. `change` is the event's name in snake case."""

    position: Position
    change: str
    posted_grains: Grains
    held_grains: Grains
    available_grains: Grains
    recorded_at: datetime


HOLDS = Listing(Holds(), Hold.of, order=("position",), descending=True, shared=True)

_CHANGES = {
    Wallet.Opened.TOPIC: "opened",  # type: ignore[attr-defined]
    Wallet.FundsHeld.TOPIC: "funds_held",  # type: ignore[attr-defined]
    Wallet.HoldCaptured.TOPIC: "hold_captured",  # type: ignore[attr-defined]
    Wallet.HoldVoided.TOPIC: "hold_voided",  # type: ignore[attr-defined]
    Wallet.HoldExpired.TOPIC: "hold_expired",  # type: ignore[attr-defined]
    Wallet.Credited.TOPIC: "credited",  # type: ignore[attr-defined]
    Wallet.Debited.TOPIC: "debited",  # type: ignore[attr-defined]
}


@strawberry.type
class StatementQuery:
    """Queries of one wallet's money."""

    @strawberry.field
    async def statement(
        self,
        info: Info,
        first: int,
        owner_id: UUID | None = None,
        after: str | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[StatementEntry]:
        """A wallet's entries from the newest back, each with the balance after it; exact at any past position."""
        account = wallet_id_of(_owner(info, owner_id))
        if not 1 <= first <= MAX_PAGE:
            raise PageSizeInvalid(f"{first} asked")
        until = _NEWEST
        if as_of is not None:
            until = await at(info.context.ctx, as_of, lambda connection, position: position)
        await reached(info, "transfer_legs", until if as_of is not None else at_least)
        if after is not None:
            until = min(until, _BY_POSITION.values(after)[0] - 1)
        return await _statement(info, account, until, first)

    @strawberry.field
    async def holds(
        self,
        info: Info,
        first: int,
        owner_id: UUID | None = None,
        after: str | None = None,
        state: str | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[Hold]:
        """A wallet's holds from the newest back."""
        conditions = [*equals("wallet_id", wallet_id_of(_owner(info, owner_id))), *equals("state", state)]
        return await HOLDS.page(info, first, after, at_least, *conditions, as_of=as_of)


async def _statement(info: Info, account: UUID, until: int, first: int) -> Connection[StatementEntry]:
    ctx = info.context.ctx
    index = MoneyIndex(ctx.database)
    entries = await ctx.in_query_thread(lambda: index.statement(account, until, first + 1))
    edges = [Edge(cursor=_BY_POSITION.cursor([one.position]), node=StatementEntry.of(one)) for one in entries[:first]]

    async def count() -> int:
        query = "SELECT count(*) AS rows FROM read.transfer_legs WHERE account_id = %(a)s AND position <= %(p)s"
        (total,) = await ctx.rows(query, {"a": account, "p": until})
        return int(total["rows"])

    page = PageInfo(has_next_page=len(entries) > first, end_cursor=edges[-1].cursor if edges else None)
    return Connection(edges=edges, page_info=page, count=count)


@strawberry.type
class Subscription:
    """Subscriptions of tokenomics."""

    @strawberry.subscription
    async def wallet_activity(
        self, info: Info, owner_id: UUID | None = None, after: Position | None = None
    ) -> AsyncGenerator[WalletActivity, None]:
        """Every change of a wallet's funds, resuming after a position (by default: from now on)."""
        context, wallet_id = info.context, wallet_id_of(_owner(info, owner_id))
        follow = context.feed.follow(
            after, topics=frozenset(_CHANGES), streams=frozenset({wallet_id}), until=context.principal.expires_at
        )
        async for record in follow:
            wallet = await context.ctx.in_query_thread(
                partial(context.ctx.village.tokenomics.log.at_position, Wallet, wallet_id, record.position)
            )
            yield WalletActivity(
                position=Position(record.position),
                change=_CHANGES[record.topic],
                posted_grains=Grains(wallet.posted),
                held_grains=Grains(wallet.held),
                available_grains=Grains(wallet.available),
                recorded_at=record.recorded_at,
            )


def _owner(info: Info, named: UUID | None) -> UUID:
    """Whose wallet is meant: a member's own, or the one an operator names."""
    principal = info.context.principal
    if principal.role == "operator" and named is not None:
        return named
    if principal.role != "member" or principal.owner is None:
        raise Forbidden("a wallet is its member's; an operator names the owner")
    if named not in (None, principal.owner):
        raise Forbidden("the wallet is somebody else's")
    return principal.owner
