"""HTTP message signatures (RFC 9421, Ed25519) of devices: signing for agents, checking for the API."""

import base64
import hashlib
import secrets
from collections.abc import AsyncGenerator, Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import http_sf
import httpx2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, HTTPSignatureKeyResolver, algorithms
from http_message_signatures.digests import ContentDigest
from http_message_signatures.exceptions import HTTPMessageSignaturesException

MAX_SKEW = timedelta(seconds=60)
"""How far `created` may lie from the checker's clock, either way."""

_NONCE_BYTES = 16
_MAX_NONCE_CHARACTERS = 64
_LABEL = "village"


class SignatureMissing(Exception):
    """The request carries no signature, or one that does not cover all it must."""


class SignatureInvalid(Exception):
    """The signature does not belong to this request and key."""


class SignatureExpired(Exception):
    """`created` is further than MAX_SKEW from now, or `expires` has passed."""


class ContentDigestMismatch(Exception):
    """Content-Digest is missing, malformed, or not the digest of this body."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a signature says of itself before it is checked: enough to look the key up."""

    device_id: UUID
    nonce: str | None
    created: datetime
    expires: datetime | None


@dataclass(slots=True)
class _Message:
    """The shape the library signs and checks."""

    method: str
    url: str
    headers: Any


class _PrivateKey(HTTPSignatureKeyResolver):
    def __init__(self, key: Ed25519PrivateKey) -> None:
        self.key = key

    def resolve_private_key(self, key_id: str) -> Ed25519PrivateKey:
        return self.key


class _PublicKey(HTTPSignatureKeyResolver):
    def __init__(self, key: Ed25519PublicKey) -> None:
        self.key = key

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey:
        return self.key


class _Verifier(HTTPMessageVerifier):
    """Time is judged by `check_time` against the caller's clock, with an error of its own."""

    def validate_created_and_expires(self, sig_input: Any, max_age: timedelta | None = None) -> None:
        return None


def content_digest(body: bytes) -> str:
    """The Content-Digest field (RFC 9530, SHA-256) of a body."""
    return content_digest_of_sha256(hashlib.sha256(body).hexdigest())


def content_digest_of_sha256(hexdigest: str) -> str:
    """The Content-Digest field for content whose SHA-256 is known already, so that an upload can be streamed."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(hexdigest)).decode()}:"


def required_components(url: str, *, has_body: bool) -> tuple[str, ...]:
    """What a signature must cover: method and path, the query if there is one, the digest if there is a body."""
    query = ("@query",) if "?" in url else ()
    digest = ("content-digest",) if has_body else ()
    return ("@method", "@path", *query, *digest)


def signature_headers(
    method: str,
    url: str,
    *,
    device_id: UUID,
    key: Ed25519PrivateKey,
    body: bytes = b"",
    digest: str | None = None,
    created: datetime | None = None,
    nonce: str | None = None,
) -> dict[str, str]:
    """The headers that sign one request.

    `url` is absolute, as it will be sent. `digest` is given instead of `body` when the body is streamed. `created`
    and `nonce` are now and 128 random bits unless given.
    """
    headers: dict[str, str] = {}
    if body or digest:
        headers["Content-Digest"] = digest or content_digest(body)
    signer = HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=_PrivateKey(key))
    signer.sign(
        _Message(method.upper(), url, headers),
        key_id=str(device_id),
        created=created or datetime.now(UTC),
        nonce=nonce or secrets.token_urlsafe(_NONCE_BYTES),
        label=_LABEL,
        covered_component_ids=required_components(url, has_body=bool(headers)),
        use_existing_digest=bool(headers),
    )
    return headers


class DeviceAuth(httpx2.Auth):
    """Signs every request of an httpx2 client as one device; use it as `auth=`.

    A request that already has a Content-Digest (see `content_digest_of_sha256`) is signed with it and its body is not
    read, so large uploads stream. A retry is signed anew, with a fresh nonce.
    """

    def __init__(self, device_id: UUID, key: Ed25519PrivateKey) -> None:
        self.device_id = device_id
        self._key = key

    def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        self._sign(request, b"" if "content-digest" in request.headers else request.read())
        yield request

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        self._sign(request, b"" if "content-digest" in request.headers else await request.aread())
        yield request

    def _sign(self, request: httpx2.Request, body: bytes) -> None:
        request.headers.update(
            signature_headers(
                request.method,
                str(request.url),
                device_id=self.device_id,
                key=self._key,
                body=body,
                digest=request.headers.get("content-digest"),
            )
        )


def is_signed(headers: Mapping[str, str]) -> bool:
    """Whether the request claims to be signed at all. `headers` has lower-case names."""
    return "signature-input" in headers or "signature" in headers


def claimed(headers: Mapping[str, str]) -> Claimed:
    """Read keyid, nonce and times of the one signature. Raises SignatureMissing or SignatureInvalid."""
    if "signature-input" not in headers or "signature" not in headers:
        raise SignatureMissing("both Signature and Signature-Input are needed")
    try:
        inputs: Any = http_sf.parse(headers["signature-input"].encode(), tltype="dictionary")
        ((_, parameters),) = inputs.values()
        device_id = UUID(parameters["keyid"])
        created = datetime.fromtimestamp(parameters["created"], UTC)
        expires = datetime.fromtimestamp(parameters["expires"], UTC) if "expires" in parameters else None
    except KeyError as error:
        raise SignatureMissing(f"the signature has no {error.args[0]}") from error
    except (ValueError, TypeError, AttributeError, OverflowError, OSError) as error:
        raise SignatureInvalid("Signature-Input is not one signature with a device id and a time") from error
    nonce = parameters.get("nonce")
    if nonce is not None and not (isinstance(nonce, str) and 0 < len(nonce) <= _MAX_NONCE_CHARACTERS):
        raise SignatureInvalid(f"a nonce is a string of 1 to {_MAX_NONCE_CHARACTERS} characters")
    return Claimed(device_id=device_id, nonce=nonce, created=created, expires=expires)


def check_time(claim: Claimed, now: datetime) -> None:
    """Raises SignatureExpired when the signature was not made within MAX_SKEW of now."""
    if abs(now - claim.created) > MAX_SKEW or (claim.expires is not None and claim.expires < now):
        raise SignatureExpired(f"made at {claim.created.isoformat()}, now {now.isoformat()}")


def check_signature(
    method: str, url: str, headers: Mapping[str, str], key: Ed25519PublicKey, *, has_body: bool
) -> None:
    """Check the one signature of a request over everything it must cover.

    Raises SignatureMissing when a required component is not covered, ContentDigestMismatch when a body has no digest,
    SignatureInvalid otherwise. The body itself is checked by `check_digest`.
    """
    required = required_components(url, has_body=has_body)
    if has_body and "content-digest" not in headers:
        raise ContentDigestMismatch("a signed request with a body needs a Content-Digest")
    verifier = _Verifier(signature_algorithm=algorithms.ED25519, key_resolver=_PublicKey(key))
    try:
        (result,) = verifier.verify(_Message(method, url, headers), max_age=None)
    except (HTTPMessageSignaturesException, ValueError) as error:
        raise SignatureInvalid("the signature does not verify with this device's key") from error
    missing = [name for name in required if f'"{name}"' not in result.covered_components]
    if missing:
        raise SignatureMissing(f"the signature does not cover {', '.join(missing)}")


def check_digest(headers: Mapping[str, str], body: bytes) -> None:
    """Raises ContentDigestMismatch unless Content-Digest is the digest of this body (SHA-256 or SHA-512)."""
    try:
        ContentDigest.verify(headers.get("content-digest", ""), body)
    except HTTPMessageSignaturesException as error:
        raise ContentDigestMismatch("Content-Digest is not the digest of the body") from error


def check_digest_is(headers: Mapping[str, str], sha256_hex: str) -> None:
    """Raises ContentDigestMismatch unless Content-Digest is exactly this SHA-256: for bodies hashed as they stream."""
    if headers.get("content-digest") != content_digest_of_sha256(sha256_hex):
        raise ContentDigestMismatch("Content-Digest is not the digest in the path")
