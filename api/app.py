"""The API: puts the gate, the routes of every context, the feed and the schema together.

How a context adds its part (api/<context>.py, or a package of that name):

    def router(ctx: ApiContext) -> APIRouter:
        routes = APIRouter(prefix="/v1/tokenomics", route_class=GatedRoute, tags=["tokenomics"])

        @routes.post("/hold_funds")
        @allow("operator", "member")
        async def hold_funds(request: Request, caller: Caller, body: HoldFunds) -> Response:
            '''One line that the OpenAPI document shows.'''
            return await run_command(
                ctx,
                request,
                ctx.village.tokenomics.hold_funds,
                key_required=True,
                owner_id=own_or_named(caller, body.owner_id),
                **body.model_dump(exclude={"owner_id"}),
            )

        return routes

- `class HoldFunds(Body)`: unknown fields are refused; every field is bounded (api/edge/commands.py has the types).
- `@allow(...)` under the route's decorator; without it only operators pass. `Caller` is who asks.
- A refusal is raised, never answered: its class gives code and status (api/edge/problems.py).
- `Query` and `Subscription` classes in the same module (or re-exported by the package) are merged into the schema.
- Read models are listed through `Listing` (api/edge/graphql.py), which applies the access rule.
- Subscriptions iterate `info.context.feed.follow(after, topics=...)` (api/edge/feed.py).
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import ModuleType

import anyio
import anyio.lowlevel
import structlog
from fastapi import APIRouter, FastAPI, Response

from infrastructure.metrics import LEFT_OUT

from . import dashboard
from . import log as event_log
from .edge import graphql_server, health, login, problems
from .edge.commands import answer
from .edge.context import ApiContext
from .edge.envelope import Envelope
from .edge.feed import Feed
from .edge.gate import Gate, GatedRoute, allow
from .edge.limits import RateLimiter
from .edge.principals import Devices, Nonces, Tokens
from .schema import build_schema

PURGE_EVERY_S = 30.0

__all__ = ["ApiContext", "create_app"]

log = structlog.get_logger("api")


def create_app(ctx: ApiContext, contexts: Sequence[ModuleType] = ()) -> FastAPI:
    """The ASGI app. `contexts` are the modules api/<context>; cli/ chooses which of them are served."""
    tokens, nonces, feed = Tokens(ctx.keys), Nonces(ctx.database), Feed(ctx)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await feed.start()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_purge_for_ever, ctx, nonces)
            yield
            tasks.cancel_scope.cancel()
        await feed.stop()
        await ctx.close()

    app = FastAPI(
        title="AI Village",
        version=ctx.version,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours: infrastructure/traces, api/edge/metrics
    )
    app.router.route_class = GatedRoute
    app.state.gate = Gate(tokens, Devices(ctx.devices, nonces), RateLimiter.of(ctx.settings))
    app.state.feed = feed
    app.add_middleware(Envelope)
    problems.install(app)
    served = _started(ctx, contexts)
    schema = build_schema((event_log, *(module for module, _ in served)))
    parts = [graphql_server.router(ctx, feed, schema), *(routes for _, routes in served if routes)]
    for part in (*parts, health.router(ctx), login.router(ctx, tokens), dashboard.router()):
        app.router.routes += part.routes  # a router that is included is searched twice for each request
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    @app.get("/openapi.json", include_in_schema=False)
    @allow("operator", "member", "device")
    async def openapi() -> Response:
        """The OpenAPI 3.1 document of the REST commands."""
        return answer(app.openapi())


def _started(ctx: ApiContext, contexts: Sequence[ModuleType]) -> list[tuple[ModuleType, APIRouter | None]]:
    """Each context with its routes. One that fails is left out with its schema and stops no other."""
    started = []
    for module in contexts:
        try:
            started.append((module, module.router(ctx) if hasattr(module, "router") else None))
        except Exception as error:
            log.exception("a context is left out", context=module.__name__, error=type(error).__name__)
            ctx.left_out.append(module.__name__.rpartition(".")[2])
            LEFT_OUT.labels(ctx.left_out[-1], "api").set(1)
    return started


async def _purge_for_ever(ctx: ApiContext, nonces: Nonces) -> None:
    """Forget expired nonces, so that the table holds two minutes of traffic and no more."""
    while True:
        await anyio.sleep(PURGE_EVERY_S)
        try:
            while await ctx.in_command_thread(lambda: nonces.purge(datetime.now(UTC))):
                await anyio.lowlevel.checkpoint()
        except Exception as error:
            log.warning("nonces were not purged", error=type(error).__name__)
