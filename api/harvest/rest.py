"""The commands of harvest over REST: sessions and samples of devices, the policies of their owners."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import Field

from api.edge.commands import At, Body, Name, Sha256Hex, answer, command_scope, run_command
from api.edge.context import ApiContext
from api.edge.gate import Caller, GatedRoute, allow
from domain.harvest.policy import MAX_IDLE_S, MAX_TEMP, MAX_WINDOWS, MINUTES_PER_DAY, Band, HarvestPolicy, Window
from domain.harvest.sample import MAX_BATCH, MAX_SEQUENCE, MIN_TEMP, Sample
from domain.kernel import within
from infrastructure.harvest import HarvestStore
from infrastructure.settings import Settings

Celsius = Annotated[float, Field(ge=MIN_TEMP, le=MAX_TEMP)]
Percent = Annotated[float, Field(ge=0, le=100)]
Sensor = Literal["battery", "power", "temperature", "cpu", "idle", "network"]
Kind = Literal["battery", "skin", "cpu"]
Minute = Annotated[int, Field(strict=True, ge=0, le=MINUTES_PER_DAY)]


class BandBody(Body):
    """Degrees Celsius: at full duty up to `full`, paused from `pause` on."""

    full: Celsius
    pause: Celsius


class WindowBody(Body):
    """Minutes of the UTC day; it may pass midnight."""

    from_minute: Minute
    to_minute: Minute


class PolicyBody(Body):
    """What is left out is as the village has set it."""

    min_battery_percent: Annotated[int, Field(strict=True, ge=0, le=100)] | None = None
    resume_battery_percent: Annotated[int, Field(strict=True, ge=0, le=100)] | None = None
    max_cpu_temp: Celsius | None = None
    thermal_throttle_temp: Celsius | None = None
    require_charging: bool | None = None
    max_cpu_percent: Percent | None = None
    idle_seconds: Annotated[int, Field(strict=True, ge=0, le=MAX_IDLE_S)] | None = None
    schedule: Annotated[list[WindowBody], Field(max_length=MAX_WINDOWS)] | None = None
    metered_network: bool | None = None
    unknown_sensor: Literal["stop", "allow"] | None = None
    unknown_allowed: Annotated[list[Sensor], Field(max_length=6)] | None = None
    bands: Annotated[dict[Kind, BandBody], Field(max_length=3)] | None = None

    def value(self, settings: Settings) -> HarvestPolicy:
        given: dict[str, Any] = self.model_dump(exclude_none=True)
        if self.schedule is not None:
            given["schedule"] = [Window(window.from_minute, window.to_minute) for window in self.schedule]
        if self.bands is not None:
            given["bands"] = {kind: Band(band.full, band.pause) for kind, band in self.bands.items()}
        usual = policy_of(settings)
        given.setdefault(
            "resume_battery_percent", max(usual.resume_battery_percent, given.get("min_battery_percent", 0))
        )
        return msgspec.structs.replace(usual, **given)


class StartSession(Body):
    """What the device would have, and which sensors it has."""

    policy: PolicyBody = PolicyBody()
    sensors: Annotated[list[Sensor], Field(max_length=6)]


class SetPolicy(Body):
    """What the device may do at most, from its next session on."""

    device_id: UUID
    policy: PolicyBody


class SampleBody(Body):
    """What was measured at one instant; what could not be is left out."""

    sequence: Annotated[int, Field(strict=True, ge=1, le=MAX_SEQUENCE)]
    sampled_at: At
    power: Annotated[str, Field(max_length=16)] | None = None
    battery_percent: float | None = None
    battery_temp: float | None = None
    skin_temp: float | None = None
    cpu_temp: float | None = None
    cpu_percent: float | None = None
    memory_percent: float | None = None
    idle_s: Annotated[int, Field(strict=True, ge=-(2**31), lt=2**31)] | None = None
    metered: bool | None = None

    def value(self) -> Sample:
        return Sample(**self.model_dump() | {"sampled_at": self.sampled_at.astimezone(UTC)})


class SendSamples(Body):
    """A batch, in the order it was measured; its sequence makes a replay useless."""

    session_id: UUID
    samples: Annotated[list[SampleBody], Field(min_length=1, max_length=MAX_BATCH)]


class StopSession(Body):
    """The device's own session."""

    session_id: UUID


class RequestStop(Body):
    """Whose session, and why in a word; the word is recorded."""

    session_id: UUID
    reason: Name = "asked"


class AnswerAudit(Body):
    """The last hash of the known job, in hex."""

    session_id: UUID
    answer: Sha256Hex


def policy_of(settings: Settings) -> HarvestPolicy:
    """The policy that the settings describe."""
    return HarvestPolicy(
        min_battery_percent=settings.min_battery_percent,
        resume_battery_percent=max(HarvestPolicy().resume_battery_percent, settings.min_battery_percent),
        max_cpu_temp=settings.max_cpu_temp,
        thermal_throttle_temp=settings.thermal_throttle_temp,
        require_charging=settings.require_charging,
        max_cpu_percent=settings.max_cpu_percent,
    )


def router(ctx: ApiContext) -> APIRouter:
    """The routes of harvest."""
    routes = APIRouter(prefix="/v1/harvest", route_class=GatedRoute, tags=["harvest"])
    store = HarvestStore(ctx.database, ctx.village.harvest)

    _owners(routes, ctx, store)
    _devices(routes, ctx, store)
    return routes


def _owners(routes: APIRouter, ctx: ApiContext, store: HarvestStore) -> None:
    @routes.post("/set_harvest_policy")
    @allow("operator", "member")
    async def set_harvest_policy(request: Request, caller: Caller, body: SetPolicy) -> Response:
        """What a device may do at most, whatever it asks for. Members decide over their own."""
        command = ctx.village.harvest.set_harvest_policy
        policy = body.policy.value(ctx.settings)
        return await run_command(ctx, request, command, device_id=body.device_id, owner_id=caller.owner, policy=policy)

    @routes.post("/request_stop")
    @allow("operator", "member")
    async def request_stop(request: Request, caller: Caller, body: RequestStop) -> Response:
        """Ask a device to end its session. Members ask their own."""
        scope = await command_scope(ctx, request, actor=caller.actor, key_required=False)

        def stop() -> Any:
            with within(scope):
                return store.request_stop(
                    session_id=body.session_id, owner_id=caller.owner, reason=body.reason, now=scope.now
                )

        return answer((await ctx.in_command_thread(stop)).answer())


def _devices(routes: APIRouter, ctx: ApiContext, store: HarvestStore) -> None:
    @routes.post("/start_harvest_session")
    @allow("device")
    async def start_harvest_session(request: Request, caller: Caller, body: StartSession) -> Response:
        """Open a session of this device; the answer tells the audit it is chosen for, if it is."""
        command = ctx.village.harvest.start_harvest_session
        policy = body.policy.value(ctx.settings)
        return await run_command(ctx, request, command, device_id=caller.device_id, policy=policy, sensors=body.sensors)

    @routes.post("/send_samples")
    @allow("device", replay="sequence")
    async def send_samples(caller: Caller, body: SendSamples) -> Response:
        """What the device has measured since; the answer tells the state its session is in."""
        samples = [sample.value() for sample in body.samples]

        def take() -> Any:
            return store.take(
                session_id=body.session_id, device_id=caller.device_id, samples=samples, now=datetime.now(UTC)
            )

        return answer(msgspec.to_builtins(await ctx.in_command_thread(take)))

    @routes.post("/stop_harvest_session")
    @allow("device")
    async def stop_harvest_session(request: Request, caller: Caller, body: StopSession) -> Response:
        """End this device's session; again changes nothing."""
        scope = await command_scope(ctx, request, actor=caller.actor, key_required=False)

        def stop() -> Any:
            with within(scope):
                return store.stop(session_id=body.session_id, device_id=caller.device_id, now=scope.now)

        return answer((await ctx.in_command_thread(stop)).answer())

    @routes.post("/answer_audit")
    @allow("device")
    async def answer_audit(request: Request, caller: Caller, body: AnswerAudit) -> Response:
        """What the known job gives."""
        command = ctx.village.harvest.answer_audit
        return await run_command(ctx, request, command, device_id=caller.device_id, **body.model_dump())
