"""Privacy budgets at the edge: of one's own and one's devices, or of all for operators; spending is by operators."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
import strawberry
from fastapi import APIRouter, Request, Response
from pydantic import Field

from api.edge.commands import Body, Name, own_or_named, run_command
from api.edge.context import ApiContext
from api.edge.gate import Caller, allow
from api.edge.graphql import AsOf, Condition, Connection, Info, Listing, Position, equals
from api.edge.principals import Principal
from domain.privacy.budget import MAX_DELTA_PICO, MAX_EPSILON_MICRO
from projections.privacy_budgets import BudgetRow, PrivacyBudgets

Epsilon = Annotated[int, Field(strict=True, ge=1, le=MAX_EPSILON_MICRO)]
MAX_DEVICES = 10_000
"""Of one owner, whose budgets are shown."""
_OWN_DEVICES = "SELECT device_id FROM read.devices WHERE owner_id = %(owner)s ORDER BY device_id LIMIT %(most)s"
Run = Callable[..., Awaitable[Response]]


class GrantBudget(Body):
    """Millionths of epsilon at a delta in trillionths. Members may name a device of theirs, operators anybody."""

    subject_id: UUID | None = None
    purpose: Name
    epsilon_micro: Epsilon
    delta_pico: Annotated[int, Field(strict=True, ge=1, le=MAX_DELTA_PICO)]


class SpendBudget(Body):
    """An amount to reserve, or to commit of what is reserved under this id."""

    subject_id: UUID
    purpose: Name
    reservation_id: UUID
    epsilon_micro: Epsilon


class ReleaseBudget(Body):
    """The reservation of which nothing was spent."""

    subject_id: UUID
    purpose: Name
    reservation_id: UUID


class ExhaustBudget(Body):
    """What remains is given up. Members may name a device of theirs, operators anybody."""

    subject_id: UUID | None = None
    purpose: Name


def add_routes(routes: APIRouter, ctx: ApiContext) -> None:
    """The routes of privacy budgets."""
    service = ctx.village.privacy

    async def run(request: Request, command: Callable[..., Any], **arguments: Any) -> Response:
        return await run_command(ctx, request, command, key_required=True, **arguments)

    @routes.post("/grant_budget")
    @allow("operator", "member")
    async def grant_budget(request: Request, caller: Caller, body: GrantBudget) -> Response:
        """Give a device or a person a budget for a purpose, or raise the one it has."""
        subject_id = await ctx.in_command_thread(lambda: _subject(ctx, caller, body.subject_id))
        return await run(request, service.grant_budget, **body.model_dump() | {"subject_id": subject_id})

    @routes.post("/reserve_budget")
    @allow("operator")
    async def reserve_budget(request: Request, body: SpendBudget) -> Response:
        """Keep an amount back before anything is released."""
        return await run(request, service.reserve_budget, **body.model_dump())

    @routes.post("/commit_budget")
    @allow("operator")
    async def commit_budget(request: Request, body: SpendBudget) -> Response:
        """Spend of a reservation, for good; what was reserved beyond it can be reserved again."""
        return await run(request, service.commit_budget, **body.model_dump())

    @routes.post("/release_budget")
    @allow("operator")
    async def release_budget(request: Request, body: ReleaseBudget) -> Response:
        """End a reservation of which nothing was spent."""
        return await run(request, service.release_budget, **body.model_dump())

    @routes.post("/exhaust_budget")
    @allow("operator", "member")
    async def exhaust_budget(request: Request, caller: Caller, body: ExhaustBudget) -> Response:
        """Give up what remains: training asks the subject no more, until more is granted."""
        subject_id = await ctx.in_command_thread(lambda: _subject(ctx, caller, body.subject_id))
        return await run(request, service.exhaust_budget, subject_id=subject_id, purpose=body.purpose)


def _subject(ctx: ApiContext, caller: Principal, named: UUID | None) -> UUID:
    """Whose budget a command is about: a device of the caller's, too. Raises Forbidden, OwnerMissing."""
    device = ctx.devices(named) if named is not None and caller.role == "member" else None
    if named is not None and device is not None and device.owner_id == caller.owner:
        return named
    return own_or_named(caller, named)


@strawberry.type
class PrivacyBudget:
    """Millionths of epsilon at a delta in trillionths, of a device or a person, for one purpose: open or exhausted."""

    budget_id: UUID
    subject_id: UUID
    purpose: str
    delta_pico: Position
    granted_micro: int
    reserved_micro: int
    spent_micro: int
    remaining_micro: int
    state: str
    granted_at: datetime
    position: Position

    @classmethod
    def of(cls, row: BudgetRow) -> "PrivacyBudget":
        return cls(**msgspec.structs.asdict(row))


BUDGETS = Listing(PrivacyBudgets(), PrivacyBudget.of, order=("budget_id",), shared=True)
"""Shared, because a member's are also those of its devices: `_seen` is a condition of every query."""


async def _seen(info: Info) -> list[Condition]:
    principal, own = info.context.principal, list[UUID | None]()
    if principal.role == "operator":
        return []
    if principal.role == "device":
        own = [principal.device_id]
    else:
        rows = await info.context.ctx.rows(_OWN_DEVICES, {"owner": principal.owner, "most": MAX_DEVICES})
        own = [principal.owner, *(row["device_id"] for row in rows)]
    return [Condition("subject_id = ANY(%(own)s)", {"own": own}, lambda row: row.subject_id in own)]


@strawberry.type
class BudgetQuery:
    """Queries of privacy budgets."""

    @strawberry.field
    async def privacy_budgets(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        subject_id: UUID | None = None,
        purpose: str | None = None,
        state: str | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[PrivacyBudget]:
        """Privacy budgets; devices see their own, members theirs and those of their devices."""
        conditions = [
            *await _seen(info), *equals("subject_id", subject_id), *equals("purpose", purpose), *equals("state", state),
        ]  # fmt: skip
        return await BUDGETS.page(info, first, after, at_least, *conditions, as_of=as_of)
