"""The gate: every route is closed unless it says who may pass. Runs after routing and before the body is parsed.

A route says so with a decorator under the router's:

    @router.post("/hold_funds")
    @allow("operator", "member")
    async def hold_funds(...): ...

Without one only operators pass. `@open_to_all()` is for the few routes that need no proof, `@probe` for those that
must be answered at any rate.
"""

from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Annotated, Any, Literal, TypeVar, cast
from urllib.parse import urlsplit

import anyio.to_thread
import structlog
from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute

from domain.kernel.errors import Forbidden
from infrastructure import http_signatures as signatures

from .encoding import loads
from .limits import RateLimiter, bounded
from .principals import ROLES, Devices, Principal, Role, SignedRequest, Tokens
from .problems import CredentialsMissing, CrossOrigin, RateLimited, TokenInvalid, Unauthenticated

COOKIE = "village_session"
DEFAULT_BODY_BYTES = 64 * 1024
MAX_SOCKETS: dict[Role, int] = {"operator": 2_000, "member": 50, "device": 50}
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use a route, and how.

    `replay` says what stops a device's request from being sent twice: its nonce, or a rising sequence that the
    route checks by itself. `streamed_sha256` names the path parameter that is the SHA-256 of a body which is not
    read before the route reads it. `loopback` lets clients on this machine in without proof. `unlimited` requests do
    not count: what answers them must cost little however many come.
    """

    roles: frozenset[Role] = frozenset({"operator"})
    open: bool = False
    loopback: bool = False
    unlimited: bool = False
    replay: Literal["nonce", "sequence"] = "nonce"
    body_bytes: int = DEFAULT_BODY_BYTES
    streamed_sha256: str | None = None


def allow(
    *roles: Role,
    replay: Literal["nonce", "sequence"] = "nonce",
    body_bytes: int = DEFAULT_BODY_BYTES,
    streamed_sha256: str | None = None,
    loopback: bool = False,
) -> Callable[[Endpoint], Endpoint]:
    """Let principals with these roles use the route; see Access for the rest."""
    assert set(roles) <= set(ROLES), f"a role is one of {ROLES}"
    return _mark(
        Access(
            frozenset(roles),
            loopback=loopback,
            replay=replay,
            body_bytes=body_bytes,
            streamed_sha256=streamed_sha256,
        )
    )


def open_to_all(*, body_bytes: int = DEFAULT_BODY_BYTES) -> Callable[[Endpoint], Endpoint]:
    """Let anyone use the route without proof."""
    return _mark(Access(frozenset(), open=True, body_bytes=body_bytes))


def probe(endpoint: Endpoint) -> Endpoint:
    """Let anyone use the route without proof as often as they like; it reads no body."""
    return _mark(Access(frozenset(), open=True, unlimited=True, body_bytes=0))(endpoint)


def _mark(access: Access) -> Callable[[Endpoint], Endpoint]:
    def mark(endpoint: Endpoint) -> Endpoint:
        cast(Any, endpoint).access = access
        return endpoint

    return mark


@dataclass(frozen=True, slots=True)
class Gate:
    """Admits requests; one per app, at `app.state.gate`."""

    tokens: Tokens
    devices: Devices
    limiter: RateLimiter
    sockets: Counter[str] = field(default_factory=Counter)

    async def admit(self, request: "EdgeRequest", access: Access) -> None:
        """Set `request.state.principal` to who asks (None on an open route), or refuse."""
        request.state.principal = await self._admitted(request, access)
        if access.streamed_sha256 is None:
            await request.body()  # here, so that a body beyond its bound is refused by its own name

    async def _admitted(self, request: "EdgeRequest", access: Access) -> Principal | None:
        if access.open or (access.loopback and is_loopback(request)):
            if not access.unlimited:
                self.limiter.hit("anonymous", address_of(request))
            return None
        try:
            principal = await self._principal(request, access)
        except Unauthenticated:
            self.limiter.hit("anonymous", address_of(request))
            raise
        if principal.role not in access.roles:
            raise Forbidden(f"this is for {' and '.join(sorted(access.roles))}, not for a {principal.role}")
        structlog.contextvars.bind_contextvars(actor=principal.actor)
        return principal

    async def _principal(self, request: "EdgeRequest", access: Access) -> Principal:
        if signatures.is_signed(request.headers):
            return await self._device(request, access)
        principal = self.bearer(request.headers.get("authorization"))
        if principal is None:
            principal = self.session(request.cookies.get(COOKIE))
            if principal is not None and request.method not in _SAFE_METHODS and not _same_origin(request):
                raise CrossOrigin("the Origin of this request is another site")
        if principal is None:
            raise CredentialsMissing()
        self.limiter.hit(principal.role, principal.subject)
        return principal

    def bearer(self, authorization: object) -> Principal | None:
        """Whom an Authorization header speaks for; None when there is none."""
        if not authorization:
            return None
        scheme, _, token = str(authorization).partition(" ")
        if scheme.lower() != "bearer":
            raise TokenInvalid("the scheme of Authorization is Bearer")
        return self.tokens.principal(token.strip())

    def session(self, cookie: str | None) -> Principal | None:
        """Whom a session cookie speaks for; None when there is none."""
        return self.tokens.principal(cookie) if cookie else None

    def join_socket(self, principal: Principal) -> None:
        """Count one more open socket of a principal. Raises RateLimited beyond MAX_SOCKETS."""
        if self.sockets[principal.actor] >= MAX_SOCKETS[principal.role]:
            raise RateLimited(f"at most {MAX_SOCKETS[principal.role]} sockets at once")
        self.sockets[principal.actor] += 1

    def leave_socket(self, principal: Principal) -> None:
        """Count one socket less."""
        self.sockets[principal.actor] -= 1
        if not self.sockets[principal.actor]:
            del self.sockets[principal.actor]

    async def _device(self, request: "EdgeRequest", access: Access) -> Principal:
        signed = SignedRequest(
            method=request.method,
            url=_signed_url(request),
            headers=request.headers,
            body=await request.body() if access.streamed_sha256 is None else None,
            streamed_sha256=request.path_params.get(access.streamed_sha256) if access.streamed_sha256 else None,
        )

        def check() -> Principal:
            principal, claim = self.devices.principal(signed, datetime.now(UTC))
            self.limiter.hit("device", principal.subject)
            if access.replay == "nonce":
                self.devices.spend(claim)
            return principal

        return await anyio.to_thread.run_sync(check)


class EdgeRequest(Request):
    """A request whose body is bounded and whose JSON is read strictly."""

    def __init__(self, request: Request, most: int) -> None:
        super().__init__(request.scope, bounded(request.receive, most, request.headers.get("content-length")))

    async def json(self) -> Any:
        return loads(await self.body())


class GatedRoute(APIRoute):
    """A route behind the gate: use it as `route_class` of every router."""

    default_access = Access()

    @property
    def access(self) -> Access:
        """Who may use this route."""
        return cast(Access, getattr(self.endpoint, "access", self.default_access))

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def admitted(request: Request) -> Response:
            access = self.access
            edge_request = EdgeRequest(request, access.body_bytes)
            await cast(Gate, request.app.state.gate).admit(edge_request, access)
            return await handle(edge_request)

        return admitted


def principal_of(request: Request) -> Principal:
    """Who asks. On an open route asking is our mistake."""
    principal = request.state.principal
    assert isinstance(principal, Principal), "an open route has no principal"
    return principal


async def _caller(request: Request) -> Principal:
    return principal_of(request)  # a plain function would be called in a thread


Caller = Annotated[Principal, Depends(_caller)]
"""Declare a parameter of this type to know who asks."""


def address_of(request: Request) -> str:
    """The client's address, as the socket gives it."""
    return request.client.host if request.client else "unknown"


def is_loopback(request: Request) -> bool:
    """Whether the client is on this machine, called it by a local name, and no proxy speaks for another.

    The name matters: a web page elsewhere may have its own name point here and be read by a browser on this machine.
    """
    if "x-forwarded-for" in request.headers or "forwarded" in request.headers:
        return False
    named = urlsplit(f"//{request.headers.get('host', '')}").hostname
    return _is_loopback(address_of(request)) and (named == "localhost" or _is_loopback(named or ""))


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def _same_origin(request: Request) -> bool:
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def _signed_url(request: Request) -> str:
    path = request.scope.get("raw_path") or request.scope["path"].encode()
    query = request.scope["query_string"]
    host = request.headers.get("host", "")
    return f"{request.scope['scheme']}://{host}{path.decode('latin-1')}" + (
        f"?{query.decode('latin-1')}" if query else ""
    )
