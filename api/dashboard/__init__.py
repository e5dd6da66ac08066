"""The page at `/`: static files of the dashboard, held in memory and served with a strict content policy."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from api.edge.gate import GatedRoute, open_to_all

_FOLDER = Path(__file__).parent
_PREFIX = "/dashboard/"
_MOST_FILES = 64

# Only what the page is made of is served; licences and the list of the vendored files stay on disk.
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

_HEADERS = {
    # `'self'` covers the WebSocket of the same origin too. No inline script or style is needed anywhere.
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Revalidated by ETag on every load: a new version shows at once and an old one costs 304.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    media_type: str
    etag: str


def router() -> APIRouter:
    """The open routes `/` and `/dashboard/<file>`: files only, read once here, so no request reaches the disk."""
    files = _read_files()

    @open_to_all()
    async def serve(request: Request) -> Response:
        name = request.url.path.removeprefix(_PREFIX) if request.url.path != "/" else "index.html"
        file = files[name]
        headers = {**_HEADERS, "ETag": file.etag}
        if file.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.body, media_type=file.media_type, headers=headers)

    routes = APIRouter(route_class=GatedRoute)
    for path in ("/", *(_PREFIX + name for name in files if name != "index.html")):
        routes.add_api_route(path, serve, methods=["GET", "HEAD"], include_in_schema=False)
    return routes


def _read_files() -> dict[str, _File]:
    files = {}
    for path in sorted(_FOLDER.rglob("*")):
        media_type = _MEDIA_TYPES.get(path.suffix)
        if media_type is None:
            continue
        body = path.read_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        files[path.relative_to(_FOLDER).as_posix()] = _File(body, media_type, etag)
    assert "index.html" in files
    assert len(files) <= _MOST_FILES
    return files
