"""The operators' hand on read models and incidents over REST; each command is a fact with its actor and reason."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import Field

from api.edge.commands import MAX_POSITION, Body, Reason, ShortText, run_command
from api.edge.context import ApiContext
from api.edge.gate import GatedRoute, allow

RowKey = Annotated[str, Field(min_length=1, max_length=512)]


class Control(Body):
    """A read model by its name, and why."""

    name: ShortText
    reason: Reason


class RetryLetter(Control):
    """`key` is the row that is held back, as `deadLetters` shows it."""

    key: RowKey


class SkipLetter(RetryLetter):
    """`position` is the fact to leave out of that row."""

    position: Annotated[int, Field(strict=True, ge=1, le=MAX_POSITION)]


class AcknowledgeIncident(Body):
    """`note` says who does what about it."""

    incident_id: UUID
    note: Reason


class ResolveIncident(Body):
    """Why it is over."""

    incident_id: UUID
    reason: Reason


def router(ctx: ApiContext) -> APIRouter:
    """The routes of monitoring, for operators only."""
    routes = APIRouter(prefix="/v1/monitoring", route_class=GatedRoute, tags=["monitoring"])
    service = ctx.village.monitoring

    @routes.post("/pause_projection")
    @allow("operator")
    async def pause_projection(request: Request, body: Control) -> Response:
        """Stop folding facts into a read model; reads go on with what is there."""
        return await run_command(ctx, request, service.pause_projection, **body.model_dump())

    @routes.post("/resume_projection")
    @allow("operator")
    async def resume_projection(request: Request, body: Control) -> Response:
        """Go on folding a read model that is paused."""
        return await run_command(ctx, request, service.resume_projection, **body.model_dump())

    @routes.post("/rebuild_projection")
    @allow("operator")
    async def rebuild_projection(request: Request, body: Control) -> Response:
        """Fold a read model anew beside the live one, which answers until the two are swapped."""
        return await run_command(ctx, request, service.rebuild_projection, **body.model_dump())

    @routes.post("/retry_letter")
    @allow("operator")
    async def retry_letter(request: Request, body: RetryLetter) -> Response:
        """Fold the facts of one row that were set aside again, the failed one first."""
        return await run_command(ctx, request, service.retry_letter, **body.model_dump())

    @routes.post("/skip_letter")
    @allow("operator")
    async def skip_letter(request: Request, body: SkipLetter) -> Response:
        """Leave one fact out of one row for good (rebuilds too), and fold those behind it."""
        return await run_command(ctx, request, service.skip_letter, **body.model_dump())

    @routes.post("/acknowledge_incident")
    @allow("operator")
    async def acknowledge_incident(request: Request, body: AcknowledgeIncident) -> Response:
        """Say that somebody looks after an incident."""
        return await run_command(ctx, request, service.acknowledge_incident, **body.model_dump())

    @routes.post("/resolve_incident")
    @allow("operator")
    async def resolve_incident(request: Request, body: ResolveIncident) -> Response:
        """Say that an incident is over, and why; while its cause stands, its rule opens the next one."""
        return await run_command(ctx, request, service.resolve_incident, **body.model_dump())

    return routes
