"""An operator's decision over a parked process, over REST."""

from uuid import UUID

from fastapi import APIRouter, Request, Response

from api.edge.commands import Body, Reason, ShortText, run_command
from api.edge.context import ApiContext
from api.edge.gate import GatedRoute, allow


class ResolveProcess(Body):
    """`action` is retry, compensate, skip or abandon."""

    process_id: UUID
    action: ShortText
    reason: Reason


def router(ctx: ApiContext) -> APIRouter:
    """The routes of sagas, for operators only."""
    routes = APIRouter(prefix="/v1/sagas", route_class=GatedRoute, tags=["sagas"])

    @routes.post("/resolve_process")
    @allow("operator")
    async def resolve_process(request: Request, body: ResolveProcess) -> Response:
        """Retry a parked step, compensate what was done, skip what cannot be taken back, or abandon it as it is."""
        return await run_command(ctx, request, ctx.village.sagas.resolve_process, **body.model_dump())

    return routes
