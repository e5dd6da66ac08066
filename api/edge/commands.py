"""Commands over REST: one helper that runs a service method in a thread under the request's command scope."""

import hmac
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import Request, Response
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationInfo

from domain.kernel.errors import Forbidden, Refusal
from domain.kernel.scope import CommandScope, within
from domain.kernel.tokens import MAX_GRAINS, AmountNotPositive, AmountTooLarge
from domain.kernel.write import Receipt
from infrastructure import traces

from .context import ApiContext
from .encoding import dumps
from .gate import principal_of
from .principals import Principal
from .problems import IdempotencyKeyInvalid, IdempotencyKeyRequired, OwnerMissing

_KEY = re.compile(r"[\x21-\x7e]{1,128}")
_DIGITS = len(str(MAX_GRAINS))
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)


class Body(BaseModel):
    """Base of every request body: unknown fields are refused; numbers, strings and lists are bounded by their types."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_strip_whitespace=False)


class AmountFractional(Refusal):
    """An amount of tokens is whole grains; a grain has no parts."""


def _grains(value: object, field: ValidationInfo) -> int:
    """Raises AmountFractional, AmountNotPositive, AmountTooLarge: for numbers that are no amount."""
    if isinstance(value, str) and (number := _NUMBER.fullmatch(value)):
        if number[1]:
            raise AmountFractional(f"{field.field_name} is {value[:40]}")
        if value.startswith("-"):
            raise AmountNotPositive(f"{field.field_name} is {value[:40]}")
        if len(value.lstrip("0")) > _DIGITS or int(value) > MAX_GRAINS:
            raise AmountTooLarge(f"{field.field_name} is {value[:40]}")
        return int(value)
    raise ValueError('money is a decimal string of grains, for example "150000000"')


Grains = Annotated[int, BeforeValidator(_grains), Field(ge=0, le=MAX_GRAINS, json_schema_extra={"type": "string"})]
"""An amount of money: a decimal string in JSON (2^53 is not enough for all of it), an int of grains in Python."""

PositiveGrains = Annotated[Grains, Field(gt=0)]
Milliseconds = Annotated[int, Field(ge=0, le=366 * 86_400_000)]
ShortText = Annotated[str, Field(min_length=1, max_length=128)]
LongText = Annotated[str, Field(max_length=1_000)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.:-]{0,127}$")]
"""What a program calls something. It is recorded in the clear, so a person's own words do not fit."""

Reason = Annotated[str, Field(min_length=1, max_length=500)]
"""Why an operator does something; it is recorded."""

MAX_POSITION = 2**53 - 1
"""Positions are JSON numbers."""

Sha256Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
At = Annotated[AwareDatetime, PlainSerializer(lambda at: at.astimezone(UTC))]
"""An instant with its offset, RFC 3339."""


def own_or_named(caller: Principal, named: UUID | None) -> UUID:
    """Whose wallet, device or session a command is about: members act for themselves, operators for whom they name.

    Raises:
        Forbidden: a member named somebody else. OwnerMissing: an operator named nobody.
    """
    if caller.role == "operator":
        if named is None:
            raise OwnerMissing("an operator says for whom: owner_id")
        return named
    assert caller.owner is not None, f"{caller.actor} has no owner"
    if named is not None and named != caller.owner:
        raise Forbidden("owner_id is somebody else")
    return caller.owner


def correlation_id_of(request: Request) -> UUID:
    """The correlation id of this request: the caller's header, or a new one."""
    correlation_id: UUID = request.state.correlation_id
    return correlation_id


async def command_scope(ctx: ApiContext, request: Request, *, actor: str, key_required: bool) -> CommandScope:
    """The scope of the command this request asks for.

    Its `body_hash` is keyed: from the log alone nobody confirms a guess of what somebody wrote.

    Raises:
        IdempotencyKeyRequired: the command needs a key and none came. IdempotencyKeyInvalid: it is malformed.
    """
    key = request.headers.get("idempotency-key")
    if key is None and key_required:
        raise IdempotencyKeyRequired()
    if key is not None and not _KEY.fullmatch(key):
        raise IdempotencyKeyInvalid()
    body = await request.body()
    return CommandScope(
        actor=actor,
        now=datetime.now(UTC),
        command_id=uuid4(),
        correlation_id=correlation_id_of(request),
        idempotency_key=key,
        body_hash=hmac.digest(ctx.keys.request, request.url.path.encode() + b"\n" + body, "sha256") if key else b"",
    )


async def run_command(
    ctx: ApiContext,
    request: Request,
    command: Callable[..., Receipt],
    *,
    key_required: bool = False,
    actor: str | None = None,
    **arguments: Any,
) -> Response:
    """Run a service's command for this request and answer its receipt: `{"position", "id", ...}`.

    The command runs in a thread, inside the command scope: actor and correlation id go into the envelope of its
    events, and the Idempotency-Key makes a repeated request get the first answer. `key_required` is for commands
    that move money or start work. `actor` names who acts on an open route.
    """
    scope = await command_scope(ctx, request, actor=actor or principal_of(request).actor, key_required=key_required)

    above = traces.parse(request.headers.get("traceparent"))
    parent = above[1] if above is not None and above[0] == scope.correlation_id else None

    def decide() -> Receipt:
        with within(scope), traces.span(command.__name__, scope.correlation_id, scope.command_id, parent):
            return command(**arguments)

    receipt = await ctx.in_command_thread(decide)
    return answer(receipt.answer())


def answer(value: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(dumps(value), status, media_type="application/json")
