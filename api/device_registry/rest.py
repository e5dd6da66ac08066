"""The device registry's commands over REST: claims, enrolment, status, keys, capabilities, heartbeats."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import AwareDatetime, Field

from api.edge.commands import Body, Milliseconds, Reason, answer, command_scope, own_or_named, run_command
from api.edge.context import ApiContext
from api.edge.gate import Caller, GatedRoute, allow, open_to_all
from domain.device_registry import capabilities, enrolment
from domain.device_registry.capabilities import Capabilities
from domain.device_registry.evidence import Evidence, Measurement
from domain.kernel import Receipt, within
from infrastructure.presence import MAX_LATENCY_MS, MAX_SEQUENCE, PresenceStore

Tag = Annotated[str, Field(pattern=rf"^{capabilities.TAG}$")]
Tags = Annotated[list[Tag], Field(max_length=capabilities.MAX_TAGS)]
Encoded = Annotated[str, Field(max_length=128)]


class IssueClaim(Body):
    """`owner_id` is for operators; members claim for themselves. The default expiry is the village's setting."""

    owner_id: UUID | None = None
    expires_in_ms: Annotated[Milliseconds, Field(strict=True)] | None = None


class RequestChallenge(Body):
    """Nothing is asked."""


class CapabilitiesBody(Body):
    """Memory in MiB, cores, compute score in milli-units of the named benchmark."""

    ram_mb: Annotated[int, Field(strict=True, ge=1, le=capabilities.MAX_RAM_MB)]
    cpu_cores: Annotated[int, Field(strict=True, ge=1, le=capabilities.MAX_CPU_CORES)]
    compute_score: Annotated[int, Field(strict=True, ge=0, le=capabilities.MAX_COMPUTE_SCORE)]
    frameworks: Tags
    capabilities: Tags
    benchmark_id: Annotated[str, Field(min_length=1, max_length=capabilities.MAX_BENCHMARK_ID)]

    def value(self) -> Capabilities:
        return Capabilities(**self.model_dump())


class RegisterDevice(Body):
    """Keys and proof in base64. The proof is an Ed25519 signature over challenge, claim and keys."""

    claim_code: Annotated[str, Field(max_length=enrolment.MAX_CLAIM_CODE)]
    challenge: Annotated[str, Field(max_length=enrolment.MAX_CHALLENGE)]
    device_type: Tag
    region: Tag
    ed25519_pub: Encoded
    x25519_pub: Encoded
    capabilities: CapabilitiesBody
    proof: Encoded


class ChangeStatus(Body):
    """Which device, and why; the reason is recorded."""

    device_id: UUID
    reason: Reason


class RotateKey(Body):
    """The new key in base64. `signature` is by the present key, `proof` by the new one, over the same text."""

    challenge: Annotated[str, Field(max_length=enrolment.MAX_CHALLENGE)]
    ed25519_pub: Encoded
    signature: Encoded
    proof: Encoded


class MeasurementBody(Body):
    """What a method in a version gave, in its unit. The registry says what is possible."""

    method: Annotated[str, Field(max_length=64)]
    version: Annotated[int, Field(strict=True)]
    value: Annotated[int, Field(strict=True)]
    measured_at: AwareDatetime


class EvidenceBody(Body):
    """Cores and MiB the device found, what it measured, and its Ed25519 signature over both in base64."""

    cpu_cores: Annotated[int, Field(strict=True)]
    ram_mb: Annotated[int, Field(strict=True)]
    measurements: Annotated[list[MeasurementBody], Field(max_length=16)]
    signature: Encoded

    def value(self) -> Evidence:
        found = [Measurement(**one.model_dump()) for one in self.measurements]
        return Evidence(cpu_cores=self.cpu_cores, ram_mb=self.ram_mb, measurements=found)


class UpdateCapabilities(Body):
    """All capabilities as they are now, and evidence for them."""

    capabilities: CapabilitiesBody
    evidence: EvidenceBody | None = None


class Heartbeat(Body):
    """`sequence` is greater than in every earlier heartbeat of the device."""

    sequence: Annotated[int, Field(strict=True, ge=1, le=MAX_SEQUENCE)]
    latency_ms: Annotated[int, Field(strict=True, ge=0, le=MAX_LATENCY_MS)] | None = None


def router(ctx: ApiContext) -> APIRouter:
    """The routes of the device registry."""
    routes = APIRouter(prefix="/v1/device_registry", route_class=GatedRoute, tags=["device_registry"])
    presence = PresenceStore(ctx.database, ctx.village.device_registry)

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

    @routes.post("/heartbeat")
    @allow("device", replay="sequence")
    async def heartbeat(caller: Caller, body: Heartbeat) -> Response:
        """The device is there. Its rising sequence is what makes a replay useless."""

        def beat() -> str:
            return presence.beat(
                device_id=caller.device_id, sequence=body.sequence, latency_ms=body.latency_ms, now=datetime.now(UTC)
            )

        return answer({"sequence": body.sequence, "presence": await ctx.in_command_thread(beat)})

    return routes


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
