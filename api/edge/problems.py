"""Problem details (RFC 9457): every error of the REST edge is answered by its stable code, never with a trace."""

import http
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from domain.kernel.errors import Forbidden, Refusal
from infrastructure.http_signatures import ContentDigestMismatch as DigestDiffers
from infrastructure.http_signatures import SignatureExpired as Expired
from infrastructure.http_signatures import SignatureInvalid as Invalid
from infrastructure.http_signatures import SignatureMissing as Missing

from .encoding import dumps

MEDIA_TYPE = "application/problem+json"
_MAX_FIELD_ERRORS = 20
_MAX_TEXT = 300

log = structlog.get_logger("api")


class Unauthenticated(Refusal):
    """The request does not prove who sends it."""

    status = 401


class CredentialsMissing(Unauthenticated):
    """This needs a bearer token, a session cookie or a device signature."""


class TokenInvalid(Unauthenticated):
    """The token is not one this village has signed."""


class TokenExpired(Unauthenticated):
    """The token has expired."""


class SignatureMissing(Unauthenticated):
    """A device signs method, path, query and body digest of every request."""


class SignatureInvalid(Unauthenticated):
    """The signature does not belong to this request and device."""


class SignatureExpired(Unauthenticated):
    """A signature is valid for 60 seconds around the time it was made."""


class SignatureReplayed(Unauthenticated):
    """A signature is accepted once."""


class ContentDigestMismatch(Unauthenticated):
    """A signed body has a Content-Digest, and it is the digest of that body."""


class UnknownDevice(Unauthenticated):
    """Only enrolled devices sign requests."""


class LoginCodeInvalid(Unauthenticated):
    """A login link works once and not for long."""


class CrossOrigin(Forbidden):
    """A session cookie is honoured only for pages of this village."""


class IdempotencyKeyRequired(Refusal):
    """A command that moves money or starts work names itself by an Idempotency-Key header."""

    status = 400


class IdempotencyKeyInvalid(Refusal):
    """An Idempotency-Key is 1 to 128 printable ASCII characters."""

    status = 400


class CorrelationIdInvalid(Refusal):
    """A Correlation-Id is a UUID."""

    status = 400


class OwnerMissing(Refusal):
    """A command about an owner's things names the owner."""


class JsonMalformed(Refusal):
    """The body is JSON (RFC 8259) in UTF-8, without NaN and without NUL in its texts."""

    status = 400


class RequestInvalid(Refusal):
    """A field of the request is missing, unknown, of the wrong type or out of bounds."""

    status = 422


class BodyTooLarge(Refusal):
    """The body is larger than this route accepts."""

    status = 413


class RateLimited(Refusal):
    """Too many requests from this principal or address; wait as long as Retry-After says."""

    status = 429
    retry_after_s: int = 1


class ValueOutOfReach(Refusal):
    """A value of a query is one the database can hold."""


class QueryTooSlow(Refusal):
    """A query is answered within 5 seconds or stopped."""

    status = 503


class DatabaseUnavailable(Refusal):
    """The database does not answer now; try again later."""

    status = 503


_FROM_SIGNATURES: dict[type[Exception], type[Unauthenticated]] = {
    Missing: SignatureMissing,
    Invalid: SignatureInvalid,
    Expired: SignatureExpired,
    DigestDiffers: ContentDigestMismatch,
}
SIGNATURE_ERRORS = tuple(_FROM_SIGNATURES)


def of_signature(error: Exception) -> Unauthenticated:
    """The refusal that an error of infrastructure/http_signatures stands for."""
    return _FROM_SIGNATURES[type(error)](str(error))


def title_of(refusal: type[Refusal]) -> str:
    """The rule that was broken: the first line of the class's docstring."""
    return (refusal.__doc__ or refusal.code).strip().splitlines()[0]


def problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    errors: Sequence[Mapping[str, str]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """One problem+json answer."""
    body: dict[str, Any] = {
        "type": f"urn:village:problem:{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
    }
    if errors is not None:
        body["errors"] = list(errors)
    return Response(dumps(body), status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def refused(refusal: Refusal) -> Response:
    """The answer to a refusal."""
    headers = {}
    if isinstance(refusal, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="village"'
    if refusal.status in (429, 503):
        headers["Retry-After"] = str(getattr(refusal, "retry_after_s", 1))
    title = title_of(type(refusal))
    return problem(refusal.status, refusal.code, title, str(refusal) or title, headers=headers)


def invalid(error: RequestValidationError) -> Response:
    """The answer to a request that does not fit its model: names the fields, repeats no values."""
    found = error.errors()
    if found[0]["type"] == "json_invalid":
        return refused(JsonMalformed(f"{found[0]['ctx']['error']} at character {found[0]['loc'][-1]}"))
    fields = [
        {"field": ".".join(str(part) for part in item["loc"][1:]) or str(item["loc"][0]), "message": item["msg"]}
        for item in found[:_MAX_FIELD_ERRORS]
    ]
    detail = "; ".join(f"{field['field']}: {field['message']}" for field in fields)[:_MAX_TEXT]
    return problem(RequestInvalid.status, RequestInvalid.code, title_of(RequestInvalid), detail, errors=fields)


def of_status(error: HTTPException) -> Response:
    """The answer to what the framework refuses by itself: unknown path, wrong method."""
    phrase = http.HTTPStatus(error.status_code).phrase
    code = phrase.lower().replace(" ", "_").replace("-", "_").replace("'", "")
    return problem(error.status_code, code, phrase, str(error.detail)[:_MAX_TEXT], headers=error.headers)


def unexpected(correlation_id: str) -> Response:
    """The answer to our own mistake: says where to look it up, and nothing else."""
    return problem(500, "internal_error", "The village failed.", f"look for correlation id {correlation_id} in the log")


def install(app: FastAPI) -> None:
    """Make the app answer its errors as problems."""

    async def on_refusal(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return refused(error)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return invalid(error)

    async def on_status(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return of_status(error)

    async def on_outage(request: Request, error: Exception) -> Response:
        log.error("the database does not answer", error=type(error).__name__)
        return refused(DatabaseUnavailable())

    app.add_exception_handler(Refusal, on_refusal)
    app.add_exception_handler(psycopg.OperationalError, on_outage)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_status)
