"""GraphQL over HTTP, SSE and WebSocket: read only, authenticated, bounded, with coded and masked errors."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import orjson
import psycopg
import strawberry
import structlog
from cross_web import HTTPException
from fastapi import Request, Response, WebSocket
from graphql import GraphQLError
from starlette.requests import HTTPConnection
from strawberry.exceptions import ConnectionRejectionError, MissingQueryError
from strawberry.extensions import MaskErrors, SchemaExtension
from strawberry.fastapi import GraphQLRouter
from strawberry.http import GraphQLRequestData
from strawberry.schema import Schema
from strawberry.schema.config import StrawberryConfig
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.subscriptions import GRAPHQL_SSE_PROTOCOL, GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler
from strawberry.subscriptions.protocols.graphql_transport_ws.types import SubscribeMessage
from strawberry.types.execution import ExecutionContext, ExecutionResult
from strawberry.types.graphql import OperationType
from strawberry.types.scalar import ScalarDefinition
from strawberry.types.unset import UNSET

from domain.kernel.errors import Refusal

from .context import ApiContext
from .encoding import loads
from .feed import Feed
from .gate import COOKIE, Access, Gate, GatedRoute
from .graphql import Grains, GraphQLContext, Milliseconds, Position
from .graphql_execution import Executor
from .graphql_inputs import prepare
from .graphql_limits import Documents
from .principals import ROLES
from .problems import DatabaseUnavailable, RateLimited, TokenExpired, Unauthenticated

MEDIA_TYPE = "application/graphql-response+json"
BODY_BYTES = 128 * 1024
INIT_TIMEOUT = timedelta(seconds=10)
MAX_SUBSCRIPTIONS = 20
_MAX_SAFE_INTEGER = 2**53 - 1
_WRONG_REQUEST = "graphql_invalid"

log = structlog.get_logger("api")


class GraphqlRequestInvalid(Refusal):
    """A GraphQL request is a JSON object with a `query` and, if need be, `variables` and `operationName`."""

    status = 400


def _position(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_SAFE_INTEGER:
        raise ValueError("a position is a whole number from 0 to 2^53 - 1")
    return value


def _grains(value: object) -> int:
    if not isinstance(value, str) or not value.isdecimal() or len(value) > 19:
        raise ValueError("an amount is a decimal string of grains")
    return int(value)


SCALARS: dict[object, ScalarDefinition] = {
    Position: strawberry.scalar(
        name="Position", description="A position in the event log.", serialize=int, parse_value=_position
    ),
    Grains: strawberry.scalar(
        name="Grains", description="Money, a decimal string of grains.", serialize=str, parse_value=_grains
    ),
    Milliseconds: strawberry.scalar(
        name="Milliseconds", description="A duration in milliseconds.", serialize=int, parse_value=_position
    ),
}


class CodedErrors(MaskErrors):
    """Every error has a code; a refusal keeps its message, our own mistakes are masked and logged."""

    def __init__(self) -> None:
        super().__init__()

    def _process_errors(self, errors: list[GraphQLError]) -> list[GraphQLError]:
        return [_coded(error) for error in errors]


def _coded(error: GraphQLError) -> GraphQLError:
    original = error.original_error
    if isinstance(original, GraphQLError):  # a scalar refused a value
        original = original.original_error
    if isinstance(original, psycopg.OperationalError):
        original = DatabaseUnavailable("the database does not answer now; try again later")
    if isinstance(original, Refusal):
        code, message = original.code, str(original) or original.code
    elif error.extensions and "code" in error.extensions:
        return error
    elif original is None or (error.path is None and isinstance(original, ValueError | TypeError)):
        code, message = _WRONG_REQUEST, error.message
    else:
        log.error("resolver failed", path=error.path, exc_info=original)
        code, message = "internal_error", "The village failed; look for the correlation id in the log."
    return GraphQLError(
        message,
        nodes=error.nodes,
        source=error.source,
        positions=error.positions,
        path=error.path,
        extensions={"code": code},
    )


class _WebSocketHandler(BaseGraphQLTransportWSHandler[GraphQLContext, None]):
    """As the protocol has it, a document that does not parse is answered by `error`, not by closing the socket."""

    async def handle(self) -> None:
        try:
            await super().handle()
        finally:
            if self.context.given is not None:
                _gate_of(self.context).leave_socket(self.context.given)

    @staticmethod
    def _get_pre_execution_close_reason(error: GraphQLError) -> str | None:
        return None

    async def handle_subscribe(self, message: SubscribeMessage) -> None:
        """An operation on a socket counts as a request, and needs a proof that still holds."""
        if self.connection_acknowledged:
            try:
                _admit(self.context)
            except Refusal as refusal:
                error = {"message": str(refusal), "extensions": {"code": refusal.code}}
                await self.send_message({"id": message["id"], "type": "error", "payload": [cast(Any, error)]})
                return
        await super().handle_subscribe(message)


def _admit(context: GraphQLContext) -> None:
    principal = context.principal
    if principal.expires_at is not None and principal.expires_at <= datetime.now(UTC):
        raise TokenExpired("the session of this socket has ended; connect again")
    _gate_of(context).limiter.hit(principal.role, principal.subject)


def _gate_of(context: GraphQLContext) -> Gate:
    return cast(Gate, cast(WebSocket, context.request).app.state.gate)


class GraphQLRoute(GatedRoute):
    """Any principal may ask; what it sees is decided row by row."""

    default_access = Access(roles=frozenset(ROLES), body_bytes=BODY_BYTES)


class VillageGraphQL(GraphQLRouter[GraphQLContext, None]):
    """POST and WebSocket at /graphql."""

    graphql_transport_ws_handler_class = _WebSocketHandler

    def decode_json(self, data: str | bytes) -> object:
        return loads(data)

    def encode_json(self, data: object) -> str:
        return orjson.dumps(data, option=orjson.OPT_UTC_Z).decode()  # text: bytes would make binary frames

    def parse_json(self, data: str | bytes) -> Any:
        decoded = super().parse_json(data)
        if not isinstance(decoded, dict):
            raise HTTPException(400, "the body is not a JSON object")
        return decoded

    async def run(self, request: Any, context: Any = UNSET, root_value: Any = UNSET) -> Any:
        try:
            return await super().run(request, context=context, root_value=root_value)
        except HTTPException as error:
            raise GraphqlRequestInvalid(error.reason) from error

    async def execute_single(self, request: Any, request_adapter: Any, *given: Any, **named: Any) -> ExecutionResult:
        """Plain HTTP answers once, so it runs queries only."""
        data = cast(GraphQLRequestData, named["request_data"])
        try:
            return await self.schema.execute(
                data.query,
                variable_values=data.variables,
                context_value=named["context"],
                operation_name=data.operation_name,
                allowed_operation_types={OperationType.QUERY},
            )
        except InvalidOperationTypeError as error:
            raise HTTPException(400, "a subscription needs Accept: text/event-stream, or a WebSocket") from error
        except (CannotGetOperationTypeError, MissingQueryError) as error:
            raise HTTPException(400, "no GraphQL query found in the request") from error

    def create_response(self, response_data: Any, sub_response: Response) -> Response:
        request: Request | None = getattr(sub_response, "request", None)
        if request is None or MEDIA_TYPE not in request.headers.get("accept", ""):
            return super().create_response(response_data, sub_response)
        failed = response_data.get("data") is None and "errors" in response_data
        if failed and not any("path" in error for error in response_data["errors"]):
            response_data = {key: value for key, value in response_data.items() if key != "data"}
            return Response(self.encode_json(response_data), 400, media_type=MEDIA_TYPE)
        return Response(self.encode_json(response_data), media_type=MEDIA_TYPE)

    async def get_sub_response(self, request: Request) -> Response:
        response = await super().get_sub_response(request)
        cast(Any, response).request = request
        return response

    async def on_ws_connect(self, context: GraphQLContext) -> Any:
        """Admit a socket by the token in `connection_init`, or by the cookie of a page of this origin."""
        socket = cast(WebSocket, context.request)
        gate = _gate_of(context)
        parameters = context.connection_params or {}
        try:
            given = _token_of(parameters)
            principal = gate.bearer(f"Bearer {given}") if given else gate.session(socket.cookies.get(COOKIE))
            if principal is not None:
                gate.join_socket(principal)
                context.given = principal
        except (Unauthenticated, RateLimited) as refusal:
            log.info("socket refused", code=refusal.code)
        if context.given is None:
            raise ConnectionRejectionError()
        return UNSET


def _token_of(parameters: Mapping[str, object]) -> str | None:
    given = parameters.get("token") or parameters.get("authorization") or parameters.get("Authorization")
    return given.removeprefix("Bearer ") if isinstance(given, str) else None


class VillageSchema(Schema):
    """A schema that leaves the log to CodedErrors: what clients get wrong is no error of ours."""

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        return None


def schema_of(query: type, subscription: type) -> Schema:
    """The schema, with the bounds and error rules of this edge."""
    extensions: list[type[SchemaExtension] | Callable[[], SchemaExtension]] = [CodedErrors, Documents]
    config = StrawberryConfig(disable_field_suggestions=True, scalar_map=SCALARS)
    schema = VillageSchema(
        query=query,
        subscription=subscription,
        extensions=extensions,
        execution_context_class=Executor,
        config=config,
    )
    prepare(schema._schema)
    return schema


def router(ctx: ApiContext, feed: Feed, schema: Schema) -> VillageGraphQL:
    """The router of /graphql: POST (JSON, or SSE for subscriptions) and WebSocket; no GET, no page, no uploads."""

    async def context(connection: HTTPConnection) -> GraphQLContext:
        principal = connection.state.principal if connection.scope["type"] == "http" else None
        return GraphQLContext(ctx, feed, principal)

    routes = VillageGraphQL(
        schema,
        path="/graphql",
        graphql_ide=None,
        allow_queries_via_get=False,
        context_getter=context,
        subscription_protocols=(GRAPHQL_TRANSPORT_WS_PROTOCOL, GRAPHQL_SSE_PROTOCOL),
        connection_init_wait_timeout=INIT_TIMEOUT,
        max_subscriptions_per_connection=MAX_SUBSCRIPTIONS,
        route_class=GraphQLRoute,
    )
    routes.routes[:] = [route for route in routes.routes if "GET" not in (getattr(route, "methods", None) or ())]
    return routes
