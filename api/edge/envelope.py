"""The outermost layer: gives each request its correlation id, logs it once, counts it, and masks what failed."""

import time
from uuid import UUID, uuid4

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infrastructure import traces

from .metrics import REQUEST_SECONDS, REQUESTS, service_of
from .problems import CorrelationIdInvalid, refused, unexpected

HEADER = "Correlation-Id"
_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
}

log = structlog.get_logger("api")


class Envelope:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = _header(scope, b"correlation-id")
        traced = traces.parse(_header(scope, b"traceparent"))
        correlation_id = _as_uuid(given) or (traced[0] if traced is not None and given is None else None)
        scope.setdefault("state", {})["correlation_id"] = correlation_id or uuid4()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(correlation_id=str(scope["state"]["correlation_id"]))
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
        elif given is not None and correlation_id is None:
            await self._answer(refused(CorrelationIdInvalid()), scope, receive, send)
        else:
            await self._answer(self.app, scope, receive, send)

    async def _answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[HEADER] = str(scope["state"]["correlation_id"])
                for name, value in _SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        service = service_of(scope["path"])
        if service is not None:
            service.active.inc()
        try:
            await app(scope, receive, send_named)
        except Exception:
            log.exception("request failed", method=scope["method"], path=scope["path"])
            if status:
                raise  # the answer has begun: only cutting the connection tells the client
            await unexpected(str(scope["state"]["correlation_id"]))(scope, receive, send_named)
        finally:
            if service is not None:
                service.active.dec()
            _account(scope, status, time.perf_counter() - started)


def _account(scope: Scope, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", "unmatched")
    REQUESTS.labels(scope["method"], route, str(status)).inc()
    REQUEST_SECONDS.labels(route).observe(seconds)
    if (service := service_of(route)) is not None:
        service.record_request(scope["method"], route, seconds, str(status))
    level = "debug" if status < 400 else "info"
    getattr(log, level)(
        "request", method=scope["method"], path=scope["path"], status=status, ms=round(seconds * 1_000, 1)
    )


def _header(scope: Scope, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def _as_uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text is not None and len(text) <= 45 else None
    except ValueError:
        return None
