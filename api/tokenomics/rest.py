"""Tokenomics commands over REST. Members act on their own wallet, operators on the one they name."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import Field

from api.edge.commands import (
    At,
    Body,
    Grains,
    Milliseconds,
    Name,
    answer,
    own_or_named,
    run_command,
)
from api.edge.context import ApiContext
from api.edge.gate import Caller, GatedRoute, allow
from api.edge.principals import Principal
from domain.kernel import Receipt, derive
from domain.tokenomics.payments import PaymentKind
from domain.tokenomics.pricing import BASIS, Activity
from domain.tokenomics.rewards import MAX_BATCH
from projections.tokenomics.queries import RewardIndex

Memo = Annotated[str, Field(max_length=200)]
ActivityType = Literal["harvest_contribution", "fl_participation", "service_hosting"]
Run = Callable[..., Awaitable[Response]]


class OpenWallet(Body):
    """Operators name the owner; members open their own."""

    owner_id: UUID | None = None


class ProcessPayment(Body):
    """`from_owner_id` is for operators; a service payment leaves the village its fee."""

    to_owner_id: UUID
    grains: Grains
    kind: PaymentKind = "payment"
    memo: Memo = ""
    from_owner_id: UUID | None = None


class HoldFunds(Body):
    """`hold_id` is the caller's choice, and names this hold for ever."""

    hold_id: UUID
    grains: Grains
    expires_at: At
    purpose: Name
    owner_id: UUID | None = None


class CaptureHold(Body):
    """What is not captured is released."""

    hold_id: UUID
    to_owner_id: UUID
    grains: Grains
    kind: PaymentKind = "payment"
    memo: Memo = ""
    owner_id: UUID | None = None


class EndHold(Body):
    """A hold to void or to expire."""

    hold_id: UUID
    owner_id: UUID | None = None


class OpenEpoch(Body):
    """Epochs are numbered from 1970-01-01 in steps of the configured length, which says when one starts and ends."""

    number: Annotated[int, Field(ge=0, le=10_000_000_000)]
    budget: Grains


class DistributeRewards(Body):
    """Nothing to say: the claims that have waited longest are posted."""


class VerifyPayment(Body):
    """A cost somebody may want to pay."""

    grains: Grains
    kind: PaymentKind = "payment"
    owner_id: UUID | None = None


class CalculateRewards(Body):
    """An activity somebody may want to do: for how long, and how well in basis points."""

    activity_type: ActivityType
    verified_ms: Milliseconds
    quality_bp: Annotated[int, Field(ge=0, le=BASIS)] = BASIS


def router(ctx: ApiContext) -> APIRouter:
    """The routes of tokenomics. Whatever moves money needs an Idempotency-Key."""
    routes = APIRouter(prefix="/v1/tokenomics", route_class=GatedRoute, tags=["tokenomics"])

    async def run(request: Request, command: Callable[..., Receipt], **arguments: Any) -> Response:
        return await run_command(ctx, request, command, key_required=True, **arguments)

    _payments(routes, ctx, run)
    _holds(routes, ctx, run)
    _rewards(routes, ctx, run)
    return routes


def _payments(routes: APIRouter, ctx: ApiContext, run: Run) -> None:
    service = ctx.village.tokenomics

    @routes.post("/open_wallet")
    @allow("operator", "member")
    async def open_wallet(request: Request, caller: Caller, body: OpenWallet) -> Response:
        """Open an owner's one wallet; opening it again changes nothing."""
        return await run(request, service.open_wallet, owner_id=own_or_named(caller, body.owner_id))

    @routes.post("/process_payment")
    @allow("operator", "member")
    async def process_payment(request: Request, caller: Caller, body: ProcessPayment) -> Response:
        """Pay another wallet. The Idempotency-Key names the payment: sent again, it is paid once."""
        return await run(
            request,
            service.process_payment,
            payment_id=_business_key(caller, request),
            from_owner_id=own_or_named(caller, body.from_owner_id),
            **body.model_dump(exclude={"from_owner_id"}),
        )

    @routes.post("/verify_payment_capability")
    @allow("operator", "member")
    async def verify_payment_capability(caller: Caller, body: VerifyPayment) -> Response:
        """Whether a wallet can pay a cost now, what it lacks, and what the village's fee would be."""
        owner_id = own_or_named(caller, body.owner_id)
        now = datetime.now(UTC)
        found = await ctx.in_command_thread(
            lambda: service.verify_payment_capability(owner_id=owner_id, grains=body.grains, now=now, kind=body.kind)
        )
        return answer(
            {
                "capable": found.capable,
                "grains": str(found.cost),
                "fee_grains": str(found.fee),
                "available_grains": str(found.available),
                "held_grains": str(found.held),
                "shortfall_grains": str(found.shortfall),
            }
        )


def _holds(routes: APIRouter, ctx: ApiContext, run: Run) -> None:
    service = ctx.village.tokenomics

    @routes.post("/hold_funds")
    @allow("operator", "member")
    async def hold_funds(request: Request, caller: Caller, body: HoldFunds) -> Response:
        """Keep an amount back until it is captured, voided or expired."""
        return await run(request, service.hold_funds, **_of_owner(caller, body))

    @routes.post("/capture_hold")
    @allow("operator", "member")
    async def capture_hold(request: Request, caller: Caller, body: CaptureHold) -> Response:
        """Pay out of a hold, and release the rest of it."""
        return await run(request, service.capture_hold, **_of_owner(caller, body))

    @routes.post("/void_hold")
    @allow("operator", "member")
    async def void_hold(request: Request, caller: Caller, body: EndHold) -> Response:
        """End a hold without paying."""
        return await run(request, service.void_hold, **_of_owner(caller, body))

    @routes.post("/expire_hold")
    @allow("operator", "member")
    async def expire_hold(request: Request, caller: Caller, body: EndHold) -> Response:
        """End a hold whose instant has come."""
        return await run(request, service.expire_hold, **_of_owner(caller, body))


def _rewards(routes: APIRouter, ctx: ApiContext, run: Run) -> None:
    service = ctx.village.tokenomics
    index = RewardIndex(ctx.database)

    @routes.post("/calculate_rewards")
    @allow("operator", "member", "device")
    async def calculate_rewards(body: CalculateRewards) -> Response:
        """What an activity would earn."""
        nobody = UUID(int=0)
        activity = Activity(body.activity_type, nobody, nobody, nobody, body.verified_ms, body.quality_bp)
        earned = service.calculate_rewards(activity=activity)
        return answer({"grains": str(earned.grains), "multiplier_bp": earned.multiplier_bp})

    @routes.post("/open_epoch")
    @allow("operator")
    async def open_epoch(request: Request, body: OpenEpoch) -> Response:
        """Open the running epoch or a coming one with a budget of its own."""
        return await run(request, service.open_epoch, number=body.number, budget_grains=body.budget)

    @routes.post("/distribute_rewards")
    @allow("operator")
    async def distribute_rewards(request: Request, caller: Caller, body: DistributeRewards) -> Response:
        """Post the claims that have waited longest, at most 500, out of the running epoch's budget."""
        claim_ids = await ctx.in_query_thread(lambda: index.pending_ids(MAX_BATCH))
        batch_id = derive("tokenomics.batch", _business_key(caller, request))
        return await run(request, service.distribute_rewards, batch_id=batch_id, claim_ids=claim_ids)


def _of_owner(caller: Principal, body: HoldFunds | CaptureHold | EndHold) -> dict[str, Any]:
    return {**body.model_dump(exclude={"owner_id"}), "owner_id": own_or_named(caller, body.owner_id)}


def _business_key(caller: Principal, request: Request) -> str:
    """The caller's own name for what is asked. A request without a key is refused when the command is run."""
    return f"{caller.actor}/{request.headers.get('idempotency-key', '')}"
