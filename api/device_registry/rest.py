"""The device registry over REST: claims and enrolment, what operators decide over devices, what devices tell."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response

from api.edge.commands import answer, command_scope, own_or_named, run_command
from api.edge.context import ApiContext
from api.edge.gate import Caller, GatedRoute, allow, open_to_all
from domain.device_registry import enrolment
from domain.kernel import Receipt, within
from infrastructure.presence import PresenceStore
from projections.device_remeasurement import WANTED

from .bodies import (
    AskRemeasurement,
    ChangeStatus,
    Heartbeat,
    IssueClaim,
    RegisterDevice,
    RequestChallenge,
    RotateKey,
    UpdateCapabilities,
)


def router(ctx: ApiContext) -> APIRouter:
    """The routes of the device registry."""
    routes = APIRouter(prefix="/v1/device_registry", route_class=GatedRoute, tags=["device_registry"])
    _enrolment(ctx, routes)
    _decisions(ctx, routes)
    _own(ctx, routes)
    _presence(ctx, routes)
    return routes


def _enrolment(ctx: ApiContext, routes: APIRouter) -> None:
    @routes.post("/issue_claim")
    @allow("operator", "member")
    async def issue_claim(request: Request, caller: Caller, body: IssueClaim) -> Response:
        """A one-time code with which one device enrols for an owner."""
        owner_id = own_or_named(caller, body.owner_id)
        return await _issue_claim(ctx, request, caller.actor, owner_id, body.expires_in_ms)

    @routes.post("/request_challenge")
    @open_to_all()
    async def request_challenge(body: RequestChallenge) -> Response:
        """What a device signs to enrol, valid for five minutes."""
        expires_at = datetime.now(UTC) + timedelta(milliseconds=enrolment.CHALLENGE_LIFETIME_MS)
        challenge = enrolment.challenge(ctx.keys.challenge, secrets.token_bytes(16), expires_at)
        return answer({"challenge": challenge, "expires_at": expires_at})

    @routes.post("/register_device")
    @open_to_all()
    async def register_device(request: Request, body: RegisterDevice) -> Response:
        """Enrol a device: its claim code authorises it, its proof shows that it holds its keys."""
        enrolment.check_challenge(ctx.keys.challenge, body.challenge, datetime.now(UTC))
        device_id = enrolment.device_id_of(enrolment.claim_sha256(body.claim_code))
        return await run_command(
            ctx,
            request,
            ctx.village.device_registry.register_device,
            actor=f"device:{device_id}",
            **body.model_dump(exclude={"capabilities"}),
            capabilities=body.capabilities.value(),
        )


def _decisions(ctx: ApiContext, routes: APIRouter) -> None:
    @routes.post("/suspend_device")
    @allow("operator")
    async def suspend_device(request: Request, body: ChangeStatus) -> Response:
        """Let a device take no part for a while."""
        return await run_command(ctx, request, ctx.village.device_registry.suspend_device, **body.model_dump())

    @routes.post("/reinstate_device")
    @allow("operator")
    async def reinstate_device(request: Request, body: ChangeStatus) -> Response:
        """Let a suspended device take part again."""
        return await run_command(ctx, request, ctx.village.device_registry.reinstate_device, **body.model_dump())

    @routes.post("/retire_device")
    @allow("operator", "member")
    async def retire_device(request: Request, caller: Caller, body: ChangeStatus) -> Response:
        """End a device for ever. Members end their own."""
        command = ctx.village.device_registry.retire_device
        return await run_command(ctx, request, command, owner_id=caller.owner, **body.model_dump())

    @routes.post("/ask_remeasurement")
    @allow("operator")
    async def ask_remeasurement(request: Request, body: AskRemeasurement) -> Response:
        """Have a device measure again within an hour what its evidence says."""
        return await run_command(ctx, request, ctx.village.device_registry.ask_remeasurement, **body.model_dump())


def _own(ctx: ApiContext, routes: APIRouter) -> None:
    @routes.post("/rotate_key")
    @allow("device")
    async def rotate_key(request: Request, caller: Caller, body: RotateKey) -> Response:
        """Put a new signing key in place of the present one, which signs this request."""
        enrolment.check_challenge(ctx.keys.challenge, body.challenge, datetime.now(UTC))
        command = ctx.village.device_registry.rotate_key
        return await run_command(ctx, request, command, device_id=caller.device_id, **body.model_dump())

    @routes.post("/update_capabilities")
    @allow("device")
    async def update_capabilities(request: Request, caller: Caller, body: UpdateCapabilities) -> Response:
        """What the device can do now, and what it has measured that shows it."""
        command = ctx.village.device_registry.update_capabilities
        given: dict[str, Any] = {"device_id": caller.device_id, "capabilities": body.capabilities.value()}
        if body.evidence is not None:
            given |= {"evidence": body.evidence.value(), "signature": body.evidence.signature}
        return await run_command(ctx, request, command, **given)

    @routes.get("/remeasurement")
    @allow("device")
    async def remeasurement(caller: Caller) -> Response:
        """Whether the village wants evidence of this device, and until when if it has asked it to measure again."""
        found = await ctx.row(WANTED, {"device_id": caller.device_id})
        return answer(found or {"until": None, "wanted": False})


def _presence(ctx: ApiContext, routes: APIRouter) -> None:
    presence = PresenceStore(ctx.database, ctx.village.device_registry)

    @routes.post("/heartbeat")
    @allow("device", replay="sequence")
    async def heartbeat(caller: Caller, body: Heartbeat) -> Response:
        """The device is there. Its sequence, rising under each key, is what makes a replay useless."""

        def beat() -> str:
            return presence.beat(
                device_id=caller.device_id,
                key_number=caller.key_number,
                sequence=body.sequence,
                latency_ms=body.latency_ms,
                now=datetime.now(UTC),
            )

        return answer({"sequence": body.sequence, "presence": await ctx.in_command_thread(beat)})


async def _issue_claim(
    ctx: ApiContext, request: Request, actor: str, owner_id: UUID, expires_in_ms: int | None
) -> Response:
    """Answers the code itself, which is neither recorded nor stored: a repeated request has it derived again."""
    scope = await command_scope(ctx, request, actor=actor, key_required=False)
    lifetime = timedelta(minutes=ctx.settings.claim_expires_minutes)
    if expires_in_ms is not None:
        lifetime = timedelta(milliseconds=expires_in_ms)
    if scope.idempotency_key is None:
        seed = secrets.token_bytes(32)
    else:
        seed = f"{actor}\n{scope.idempotency_key}".encode()
    code = enrolment.claim_code(ctx.keys.claim_code, seed)

    def issue() -> Receipt:
        with within(scope):
            return ctx.village.device_registry.issue_claim(
                owner_id=owner_id, claim_sha256=enrolment.claim_sha256(code), expires_at=scope.now + lifetime
            )

    receipt: dict[str, Any] = (await ctx.in_command_thread(issue)).answer()
    return answer(receipt | {"claim_code": code})
