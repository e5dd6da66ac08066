"""A context of the tests: one route of each kind the edge knows, over the tests' ledger."""

from typing import Annotated, Any, cast
from uuid import UUID

import strawberry
from fastapi import APIRouter, Path, Request, Response
from pydantic import Field

from api.edge.commands import Body, Grains, answer, own_or_named, run_command
from api.edge.context import ApiContext
from api.edge.gate import Caller, GatedRoute, allow, open_to_all
from api.edge.graphql import Info, Position, reached
from tests.ledger import Ledger


class Deposit(Body):
    account_id: UUID
    grains: Grains
    owner_id: UUID | None = None


class Beat(Body):
    sequence: Annotated[int, Field(ge=0, le=2**62)]


def router(ctx: ApiContext) -> APIRouter:
    routes = APIRouter(prefix="/v1/sample", route_class=GatedRoute)
    ledger = cast(Ledger, ctx.village)

    @routes.post("/deposit")
    @allow("operator", "member")
    async def deposit(request: Request, caller: Caller, body: Deposit) -> Response:
        if body.owner_id is not None:
            own_or_named(caller, body.owner_id)
        return await run_command(
            ctx, request, ledger.deposit, key_required=True, account_id=body.account_id, grains=body.grains
        )

    @routes.post("/withdraw")
    @allow("operator", "device")
    async def withdraw(request: Request, body: Deposit) -> Response:
        return await run_command(ctx, request, ledger.withdraw, account_id=body.account_id, grains=body.grains)

    @routes.post("/beat")
    @allow("device", replay="sequence")
    async def beat(caller: Caller, body: Beat) -> Response:
        return answer({"device": caller.subject, "sequence": body.sequence})

    @routes.get("/mine")
    @allow("device")
    async def mine(caller: Caller, page: int = 0) -> Response:
        return answer({"device": caller.subject, "owner": str(caller.owner), "page": page})

    @routes.put("/blobs/{sha256}")
    @allow("operator", "device", streamed_sha256="sha256", body_bytes=1_000_000)
    async def put(request: Request, sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$")]) -> Response:
        size = 0
        async for piece in request.stream():
            size += len(piece)
        return answer({"bytes": size})

    @routes.post("/open")
    @open_to_all(body_bytes=1_000)
    async def anyone(body: dict[str, Any]) -> Response:
        return answer(body)

    @routes.get("/unmarked")
    async def unmarked() -> Response:
        return answer({})

    @routes.get("/broken")
    @allow("operator")
    async def broken() -> Response:
        raise RuntimeError("the secret is swordfish")

    return routes


@strawberry.type
class Leaf:
    name: str

    @strawberry.field
    def again(self) -> "Leaf":
        return Leaf(name=self.name)


@strawberry.type
class Query:
    @strawberry.field
    async def leaf(self, info: Info) -> Leaf:
        return Leaf(name=info.context.principal.actor)

    @strawberry.field
    async def waited(self, info: Info, at_least: Position | None = None) -> Position | None:
        await reached(info, "things", at_least)
        return at_least

    @strawberry.field
    async def slow(self, info: Info) -> bool | None:
        return bool(await info.context.ctx.rows("SELECT pg_sleep(20)"))

    @strawberry.field
    async def broken(self) -> str | None:
        raise RuntimeError("the secret is swordfish")
