"""Blobs over HTTP: models and updates by the SHA-256 of their bytes, streamed both ways."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from api.edge.commands import answer
from api.edge.context import ApiContext
from api.edge.gate import GatedRoute, allow
from domain.federated_learning.manifest import MAX_HEADER_BYTES
from domain.kernel.errors import Refusal
from infrastructure.blobs import BlobTruncated

Hash = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]


class LengthRequired(Refusal):
    """An upload says its length in bytes by Content-Length (RFC 9110)."""

    status = 411


def router(ctx: ApiContext) -> APIRouter:
    """PUT and GET of blobs, for everybody who can prove who they are: a hash is known only to whom it was told."""
    routes = APIRouter(prefix="/v1/blobs", route_class=GatedRoute, tags=["blobs"])
    limit = ctx.settings.max_model_bytes + MAX_HEADER_BYTES

    @routes.put("/{sha256}")
    @allow("operator", "member", "device", streamed_sha256="sha256", body_bytes=limit)
    async def put_blob(request: Request, sha256: Hash) -> Response:
        """Store a body under its SHA-256. Storing it again is harmless; a body of another hash or length is refused."""
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            raise LengthRequired("without Content-Length nothing is read")
        try:
            await ctx.blobs.put(sha256, request.stream(), size=int(length), limit=limit)
        except ClientDisconnect as error:
            raise BlobTruncated("the sender hung up") from error
        return answer({"sha256": sha256, "bytes": int(length)})

    @routes.get("/{sha256}", response_class=StreamingResponse)
    @allow("operator", "member", "device")
    async def get_blob(sha256: Hash) -> Response:
        """The blob of this SHA-256, as it was stored."""
        size = await ctx.blobs.size_async(sha256)
        headers = {
            "Content-Length": str(size),
            "Cache-Control": "private, max-age=31536000, immutable",
            "ETag": f'"{sha256}"',
        }
        return StreamingResponse(_pieces(ctx, sha256), media_type="application/octet-stream", headers=headers)

    return routes


async def _pieces(ctx: ApiContext, sha256: str) -> AsyncIterator[bytes]:
    async for piece in ctx.blobs.stream(sha256):
        yield piece
