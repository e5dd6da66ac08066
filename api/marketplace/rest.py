"""Marketplace commands over REST. Members act as provider or customer of their own, operators for anybody."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import Field

from api.edge.commands import (
    At,
    Body,
    Milliseconds,
    Name,
    PositiveGrains,
    Reason,
    Sha256Hex,
    own_or_named,
    run_command,
)
from api.edge.context import ApiContext
from api.edge.gate import Caller, GatedRoute, allow
from api.edge.principals import Principal
from domain.marketplace.burst import MAX_NODES, BurstRequest
from domain.marketplace.matching import Wish
from domain.marketplace.offering import Resources
from domain.marketplace.sla import Measured, SlaTerms

from . import jobs
from .parts import NamedContract, Part, owner_of

Count = Annotated[int, Field(ge=0, le=1_000_000_000)]


class ResourcesPart(Part):
    """What one unit is: memory in MiB, cores, compute score in thousandths of the benchmark's unit."""

    ram_mb: Count
    cpu_cores: Count
    compute_score: Count


class SlaPart(Part):
    """What is promised; `penalty_bp` of the agreed price is what a breach costs."""

    uptime_bp: Count
    p95_ms: Count
    max_interrupts_per_h: Count
    window_ms: Milliseconds
    penalty_bp: Count = 0


class CreateOffering(Body):
    """`offering_id` is the caller's choice; with `harvest_policy` the device may rest. `owner_id` is for operators."""

    offering_id: UUID
    device_id: UUID
    service_type: Name
    resources: ResourcesPart
    region: Name
    capacity: Count
    price_grains_per_hour: PositiveGrains
    sla: SlaPart
    valid_until: At
    harvest_policy: bool = False
    owner_id: UUID | None = None


class NamedOffering(Body):
    """An offering."""

    offering_id: UUID


class ProposeContract(Body):
    """`contract_id` is the caller's choice; `request_id` its receipt; `owner_id` is for operators: the customer."""

    contract_id: UUID
    offering_id: UUID
    units: Count
    duration_ms: Milliseconds
    deadline_at: At
    max_price_grains: PositiveGrains
    request_id: UUID | None = None
    owner_id: UUID | None = None


class WishBody(Body):
    """What is looked for. Bounds of zero ask for nothing; `owner_id` is for operators.

    `min_matrix_mflops`, `min_memory_mb_s` and `min_disk_mb_s` are about what the device has measured of itself.
    """

    service_type: Name
    units: Count
    duration_ms: Milliseconds
    deadline_at: At
    max_price_grains: PositiveGrains
    region: Name | None = None
    min_ram_mb: Count = 0
    min_cpu_cores: Count = 0
    min_compute_score: Count = 0
    min_matrix_mflops: Count = 0
    min_memory_mb_s: Count = 0
    min_disk_mb_s: Count = 0
    min_uptime_bp: Count = 0
    price_weight: Count = 1
    uptime_weight: Count = 1
    owner_id: UUID | None = None

    @property
    def wish(self) -> Wish:
        return Wish(**self.model_dump(include=set(Wish.__struct_fields__)))


class MatchRequest(WishBody):
    """`request_id` is the caller's choice."""

    request_id: UUID


class AllocateBurst(WishBody):
    """`burst_id` is the caller's choice. What is wished of each of `nodes` devices; the price is for all together."""

    burst_id: UUID
    nodes: Annotated[int, Field(ge=1, le=MAX_NODES)]


class EndContract(NamedContract):
    """A contract, and a name for why."""

    reason: Name


class ReportUsage(NamedContract):
    """`cumulative_ms` is all that has been delivered since the start."""

    cumulative_ms: Milliseconds


class ReportHeadroom(NamedContract):
    """`headroom_ms` is how long the provider can still deliver."""

    headroom_ms: Milliseconds


class EvaluateWindow(NamedContract):
    """How the time of a window was spent; `evidence_hash` is the SHA-256 of what shows it."""

    window: Count
    ok_ms: Milliseconds
    degraded_ms: Milliseconds
    unknown_ms: Milliseconds
    excluded_ms: Milliseconds
    evidence_hash: Sha256Hex


class DecideDispute(NamedContract):
    """At most `payable_ms` of what was reported are paid."""

    payable_ms: Milliseconds
    reason: Reason


def router(ctx: ApiContext) -> APIRouter:
    """The routes of the marketplace."""
    routes = APIRouter(prefix="/v1/marketplace", route_class=GatedRoute, tags=["marketplace"])
    _offerings(routes, ctx)
    _customers(routes, ctx)
    _providers(routes, ctx)
    _operators(routes, ctx)
    jobs.add_routes(routes, ctx)
    return routes


def _offerings(routes: APIRouter, ctx: ApiContext) -> None:
    service = ctx.village.marketplace

    @routes.post("/create_service_offering")
    @allow("operator", "member")
    async def create_service_offering(request: Request, caller: Caller, body: CreateOffering) -> Response:
        """Offer units of a device one owns, at a price an hour, with an SLA."""
        given: dict[str, Any] = {
            **body.model_dump(exclude={"owner_id", "resources", "sla"}),
            "provider_id": own_or_named(caller, body.owner_id),
            "resources": Resources(**body.resources.model_dump()),
            "sla": SlaTerms(**body.sla.model_dump()),
        }
        return await run_command(ctx, request, service.create_service_offering, key_required=True, **given)

    @routes.post("/withdraw_offering")
    @allow("operator", "member")
    async def withdraw_offering(request: Request, caller: Caller, body: NamedOffering) -> Response:
        """Sell no more of it. Contracts over it go on."""
        given = {**body.model_dump(), "provider_id": owner_of(caller)}
        return await run_command(ctx, request, service.withdraw_offering, **given)


def _customers(routes: APIRouter, ctx: ApiContext) -> None:
    service = ctx.village.marketplace

    @routes.post("/match_service_request")
    @allow("operator", "member")
    async def match_service_request(request: Request, caller: Caller, body: MatchRequest) -> Response:
        """Find the offering that serves a wish best. The answer is a receipt that can be decided again."""
        given: dict[str, Any] = {
            "request_id": body.request_id,
            "customer_id": own_or_named(caller, body.owner_id),
            "wish": body.wish,
        }
        return await run_command(ctx, request, service.match_service_request, **given)

    @routes.post("/allocate_compute_burst")
    @allow("operator", "member")
    async def allocate_compute_burst(request: Request, caller: Caller, body: AllocateBurst) -> Response:
        """Buy the same of several devices at once: all contracts begin together, or none does."""
        given: dict[str, Any] = {
            "burst_id": body.burst_id,
            "customer_id": own_or_named(caller, body.owner_id),
            "burst_request": BurstRequest(body.nodes, body.wish),
        }
        return await run_command(ctx, request, service.allocate_compute_burst, key_required=True, **given)

    @routes.post("/propose_contract")
    @allow("operator", "member")
    async def propose_contract(request: Request, caller: Caller, body: ProposeContract) -> Response:
        """Buy time of an offering: the price is held, capacity reserved, and the service starts."""
        given = {**body.model_dump(exclude={"owner_id"}), "customer_id": own_or_named(caller, body.owner_id)}
        return await run_command(ctx, request, service.propose_contract, key_required=True, **given)

    @routes.post("/complete_contract")
    @allow("operator", "member")
    async def complete_contract(request: Request, caller: Caller, body: NamedContract) -> Response:
        """Accept, as the customer, what was delivered as all of it."""
        return await run_command(ctx, request, service.complete_contract, **_as("customer", caller, body))

    @routes.post("/cancel_contract")
    @allow("operator", "member")
    async def cancel_contract(request: Request, caller: Caller, body: EndContract) -> Response:
        """Want, as the customer, no more of it. What was delivered is paid."""
        return await run_command(ctx, request, service.cancel_contract, **_as("customer", caller, body))

    @routes.post("/dispute_contract")
    @allow("operator", "member")
    async def dispute_contract(request: Request, caller: Caller, body: EndContract) -> Response:
        """Disagree, as the customer, with what was reported; an operator decides."""
        return await run_command(ctx, request, service.dispute_contract, **_as("customer", caller, body))


def _providers(routes: APIRouter, ctx: ApiContext) -> None:
    service = ctx.village.marketplace

    @routes.post("/report_usage")
    @allow("operator", "member")
    async def report_usage(request: Request, caller: Caller, body: ReportUsage) -> Response:
        """Say, as the provider, what has been delivered so far. Sent twice or late, it adds nothing."""
        return await run_command(ctx, request, service.report_usage, **_as("provider", caller, body))

    @routes.post("/report_headroom")
    @allow("operator", "member")
    async def report_headroom(request: Request, caller: Caller, body: ReportHeadroom) -> Response:
        """Say, as the provider, how long it can go on. Less than what is left hands the rest to the next match."""
        return await run_command(ctx, request, service.report_headroom, **_as("provider", caller, body))

    @routes.post("/breach_contract")
    @allow("operator", "member")
    async def breach_contract(request: Request, caller: Caller, body: EndContract) -> Response:
        """Give a contract up as its provider. It costs the penalty of the SLA."""
        return await run_command(ctx, request, service.breach_contract, **_as("provider", caller, body))


def _operators(routes: APIRouter, ctx: ApiContext) -> None:
    service = ctx.village.marketplace

    @routes.post("/evaluate_sla_window")
    @allow("operator")
    async def evaluate_sla_window(request: Request, body: EvaluateWindow) -> Response:
        """Judge the next window of a contract by what was measured."""
        measured = Measured(body.ok_ms, body.degraded_ms, body.unknown_ms, body.excluded_ms)
        given = body.model_dump(include={"contract_id", "window", "evidence_hash"})
        return await run_command(ctx, request, service.evaluate_sla_window, **given, measured=measured)

    @routes.post("/decide_dispute")
    @allow("operator")
    async def decide_dispute(request: Request, body: DecideDispute) -> Response:
        """Say how much of the usage is paid."""
        return await run_command(ctx, request, service.decide_dispute, **body.model_dump())


def _as(party: str, caller: Principal, body: NamedContract) -> dict[str, Any]:
    return {**body.model_dump(), f"{party}_id": owner_of(caller)}
