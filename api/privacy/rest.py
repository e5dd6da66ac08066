"""Privacy over REST: erasing people, for operators only, and privacy budgets."""

from uuid import UUID

from fastapi import APIRouter, Request, Response

from api.edge.commands import Body, Reason, run_command
from api.edge.context import ApiContext
from api.edge.gate import GatedRoute, allow

from .budgets import add_routes


class EraseSubject(Body):
    """`reason` stays in the log: it names nobody."""

    subject_id: UUID
    reason: Reason


def router(ctx: ApiContext) -> APIRouter:
    """The routes of privacy."""
    routes = APIRouter(prefix="/v1/privacy", route_class=GatedRoute, tags=["privacy"])

    @routes.post("/erase_subject")
    @allow("operator")
    async def erase_subject(request: Request, body: EraseSubject) -> Response:
        """Destroy the key of a person for good, within seconds: nobody reads again what is sealed under it."""
        return await run_command(ctx, request, ctx.village.privacy.erase_subject, **body.model_dump())

    add_routes(routes, ctx)
    return routes
