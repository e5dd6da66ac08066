"""Jobs over REST: customers give the device of their contract work; the device asks for it and reports."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from api.edge.assignments import Assignments
from api.edge.commands import Milliseconds, Name, Sha256Hex, answer, run_command
from api.edge.context import ApiContext
from api.edge.gate import Caller, allow
from domain.marketplace.job import OPEN, Job
from domain.marketplace.states import ACTIVE
from domain.marketplace.work import JobOrder, JobSpec, sign_order

from .parts import NamedContract, NamedJob, Part, owner_of

MAX_WAIT_MS = 20_000
_SUBMITTED_TOPIC: Final[str] = Job.Submitted.TOPIC  # type: ignore[attr-defined]
_OPEN = f"""
SELECT j.job_id, j.contract_id, j.device_id, j.spec, j.deadline_at
FROM read.jobs AS j
JOIN read.contracts AS c USING (contract_id)
WHERE j.device_id = %(device_id)s AND j.state = '{OPEN}' AND c.state = '{ACTIVE}' AND j.deadline_at > now()
ORDER BY j.position
LIMIT 1
"""

Parameter = Annotated[int, Field(strict=True, ge=0, le=2**53 - 1)]


class LimitsPart(Part):
    """Processor time and wall time in ms, address space in MiB."""

    cpu_ms: Milliseconds
    wall_ms: Milliseconds
    memory_mb: Annotated[int, Field(ge=1, le=1 << 20)]


class SubmitJob(NamedContract, NamedJob):
    """`job_id` is the caller's choice; `inputs` names uploaded blobs by their SHA-256."""

    job_type: Name
    parameters: Annotated[dict[Name, Parameter], Field(max_length=16)] = {}
    inputs: Annotated[dict[Name, Sha256Hex], Field(max_length=4)] = {}
    limits: LimitsPart


class ReportJobUsage(NamedJob):
    """`cumulative_ms` of processor time since the job began, at most the wall time."""

    cumulative_ms: Milliseconds


class EndJob(ReportJobUsage):
    """`outcome` is succeeded, with the SHA-256 of an uploaded result, or failed, with a reason."""

    outcome: Name
    reason: Annotated[str, Field(pattern=r"^[a-z_]{0,64}$")] = ""
    wall_ms: Milliseconds
    result_hash: Sha256Hex | None = None


def add_routes(routes: APIRouter, ctx: ApiContext) -> None:
    """The routes of jobs."""
    _customers(routes, ctx)
    _devices(routes, ctx)


def _customers(routes: APIRouter, ctx: ApiContext) -> None:
    service = ctx.village.marketplace

    @routes.post("/submit_job")
    @allow("operator", "member")
    async def submit_job(request: Request, caller: Caller, body: SubmitJob) -> Response:
        """Give, as the customer, the device of an active contract work of a known type, within limits."""
        spec = msgspec.convert(body.model_dump(include={"job_type", "parameters", "inputs", "limits"}), JobSpec)
        given: dict[str, Any] = {
            "job_id": body.job_id,
            "contract_id": body.contract_id,
            "customer_id": owner_of(caller),
        }
        return await run_command(ctx, request, service.submit_job, key_required=True, spec=spec, **given)

    @routes.post("/cancel_job")
    @allow("operator", "member")
    async def cancel_job(request: Request, caller: Caller, body: NamedJob) -> Response:
        """Want, as the customer, no more of a job. What it has used is paid."""
        given: dict[str, Any] = {"job_id": body.job_id, "customer_id": owner_of(caller)}
        return await run_command(ctx, request, service.cancel_job, **given)


def _devices(routes: APIRouter, ctx: ApiContext) -> None:
    service = ctx.village.marketplace
    orders = Assignments(ctx, _OPEN, _SUBMITTED_TOPIC, lambda submitted: [submitted.device_id])

    @routes.get("/job_key")
    @allow("operator", "member", "device")
    async def job_key() -> Response:
        """The public key that orders are signed by (Ed25519, hexadecimal)."""
        return answer({"public_key": ctx.keys.job_signing.public_key().public_bytes_raw().hex()})

    @routes.get("/job_order", responses={204: {"description": "No job to do."}})
    @allow("device")
    async def job_order(
        request: Request, caller: Caller, wait_ms: Annotated[int, Query(ge=0, le=MAX_WAIT_MS)] = 0
    ) -> Response:
        """The oldest open job of this device as a signed order, waiting up to `wait_ms` for one."""
        found = await orders.next(request.app.state.feed, caller.device_id, wait_ms)
        if found is None or not await ctx.in_command_thread(lambda: service.job_is_due(job_id=found["job_id"])):
            return Response(status_code=204)
        return answer(_signed(ctx, found))

    @routes.post("/report_job_usage")
    @allow("device")
    async def report_job_usage(request: Request, caller: Caller, body: ReportJobUsage) -> Response:
        """Say, as the device, what a job has used so far; the answer says whether it is still wanted."""
        given = {**body.model_dump(), "device_id": caller.device_id}
        return await run_command(ctx, request, service.report_job_usage, **given)

    @routes.post("/end_job")
    @allow("device")
    async def end_job(request: Request, caller: Caller, body: EndJob) -> Response:
        """Say, as the device, how a job ended."""
        given = {**body.model_dump(), "device_id": caller.device_id}
        return await run_command(ctx, request, service.end_job, **given)


def _signed(ctx: ApiContext, row: Mapping[str, Any]) -> dict[str, str]:
    order, signature = sign_order(ctx.keys.job_signing, msgspec.convert(dict(row), JobOrder))
    return {"order": order, "signature": signature}
