"""Principals: who asks. Operators and members prove it by a token, devices by a signature."""

import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, Protocol, cast, get_args
from uuid import UUID

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from psycopg_pool import PoolTimeout

from domain.kernel.errors import Refusal
from infrastructure import http_signatures as signatures
from infrastructure.database import Database, Pool
from infrastructure.database import Role as DatabaseRole
from infrastructure.keys import Keys

from .problems import (
    SIGNATURE_ERRORS,
    SignatureMissing,
    SignatureReplayed,
    TokenExpired,
    TokenInvalid,
    UnknownDevice,
    of_signature,
)

Role = Literal["operator", "member", "device"]
ROLES: tuple[Role, ...] = get_args(Role)

MAX_TOKEN_LIFE = timedelta(days=366)
_ISSUER = "village"
_ALGORITHM = "Ed25519"  # RFC 9864: the fully specified name of what EdDSA meant here
_MAX_TOKEN_CHARACTERS = 4_096
_CACHED_TOKENS = 1_024
_SPEND = "INSERT INTO edge.nonces (device_id, nonce, expires_at) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
_OPERATOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `subject` is an operator's name, a member's owner id or a device's id.

    `owner` is whom a member or a device belongs to; None for operators. `expires_at` is when the proof ends.
    `key_number` says how often a device had changed the key it has signed with.
    """

    role: Role
    subject: str
    owner: UUID | None = None
    expires_at: datetime | None = None
    key_number: int = 0

    @property
    def actor(self) -> str:
        """The name that goes into the envelope of every event this principal causes."""
        return f"{self.role}:{self.subject}"

    @property
    def device_id(self) -> UUID:
        """The id of the device that asks. Asking anyone else is our mistake."""
        assert self.role == "device", f"{self.actor} is not a device"
        return UUID(self.subject)


@dataclass(frozen=True, slots=True)
class EnrolledDevice:
    """What the edge must know of a device: its public key, its owner, how its requests are refused, if they are, and
    how often it has changed its key."""

    public_key: Ed25519PublicKey
    owner_id: UUID
    refusal: type[Refusal] | None = None
    key_number: int = 0


class DeviceDirectory(Protocol):
    """The port that answers who devices are. Called in threads."""

    def __call__(self, device_id: UUID, /) -> EnrolledDevice | None:
        """The device as it was a moment ago, None when it is not enrolled."""

    def look_again(self, device_id: UUID, /) -> EnrolledDevice | None:
        """The device as it is now."""


class InvalidSubject(ValueError):
    """An operator is named by 1 to 64 of `A-Z a-z 0-9 . _ @ -`; a member by the UUID of the owner."""


def checked_subject(role: str, subject: str) -> str:
    """The subject in its canonical form. Raises InvalidSubject."""
    if role == "operator" and _OPERATOR.fullmatch(subject):
        return subject
    if role == "member":
        with suppress(ValueError):
            return str(UUID(subject))
    raise InvalidSubject(InvalidSubject.__doc__)


class Tokens:
    """Signs and checks the JWTs (RFC 7519, Ed25519) of operators and members with the village's own key."""

    def __init__(self, keys: Keys) -> None:
        self._key = OKPKey.import_key(cast(Any, keys.token_signing), {"use": "sig", "alg": _ALGORITHM})
        self._checked = lru_cache(_CACHED_TOKENS)(self._check)

    def issue(self, *, role: str, subject: str, expires_in: timedelta, now: datetime | None = None) -> str:
        """A token for an operator or a member, valid for `expires_in` (at most MAX_TOKEN_LIFE).

        Raises:
            InvalidSubject: the subject does not fit the role. ValueError: `expires_in` is out of bounds.
        """
        if not timedelta() < expires_in <= MAX_TOKEN_LIFE:
            raise ValueError(f"a token lives for at most {MAX_TOKEN_LIFE.days} days")
        now = now or datetime.now(UTC)
        claims = {
            "iss": _ISSUER,
            "sub": checked_subject(role, subject),
            "role": role,
            "iat": int(now.timestamp()),
            "exp": int((now + expires_in).timestamp()),
            "jti": secrets.token_urlsafe(12),
        }
        return jwt.encode({"alg": _ALGORITHM, "typ": "JWT"}, claims, self._key, algorithms=[_ALGORITHM])

    def principal(self, token: str, now: datetime | None = None) -> Principal:
        """Whom a token speaks for. Raises TokenInvalid or TokenExpired."""
        if len(token) > _MAX_TOKEN_CHARACTERS:
            raise TokenInvalid("the token is too long")
        principal, expires_at = self._checked(token)
        if expires_at <= (now or datetime.now(UTC)):
            raise TokenExpired(f"expired at {expires_at.isoformat()}")
        return principal

    def _check(self, token: str) -> tuple[Principal, datetime]:
        """Whom a token speaks for, and until when: what never changes of it. Raises TokenInvalid."""
        try:
            claims = jwt.decode(token, self._key, algorithms=[_ALGORITHM]).claims
        except (JoseError, ValueError) as error:
            raise TokenInvalid("the token is not signed by this village") from error
        role, subject, expires = claims.get("role"), claims.get("sub"), claims.get("exp")
        if claims.get("iss") != _ISSUER or not isinstance(subject, str) or type(expires) is not int:
            raise TokenInvalid("the token lacks a claim this village writes")
        try:
            subject = checked_subject(str(role), subject)
        except InvalidSubject as error:
            raise TokenInvalid(str(error)) from error
        expires_at = datetime.fromtimestamp(expires, UTC)
        owner = UUID(subject) if role == "member" else None
        return Principal(cast(Role, role), subject, owner, expires_at), expires_at


class Nonces:
    """The nonces devices have used: a table, so that a replay is refused by every process and after every restart."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def _pool(self) -> Pool:
        return self._database.pool(DatabaseRole.WRITER, autocommit=True)

    def spend(self, device_id: UUID, nonce: str, expires_at: datetime) -> None:
        """Record the use of a nonce.

        Raises:
            SignatureReplayed: it was used before. psycopg.OperationalError: the database does not answer, or nobody
            knows whose use is recorded, since the answer to the first try was lost.
        """
        lost: psycopg.OperationalError | None = None
        for _ in range(2):
            try:
                with self._pool.connection() as connection:
                    spent = connection.execute(_SPEND, (device_id, nonce, expires_at), prepare=True)
            except PoolTimeout:
                raise
            except psycopg.OperationalError as error:
                if lost is not None:
                    raise
                lost = error
                self._pool.check()  # the server may be a new one, and every connection lost
            else:
                if spent.rowcount == 0:
                    raise lost or SignatureReplayed("this nonce was used before")
                return

    def purge(self, now: datetime, most: int = 10_000) -> int:
        """Forget at most `most` nonces that no signature can use any more; answers how many."""
        with self._pool.connection() as connection:
            purged: int = connection.execute(
                "DELETE FROM edge.nonces WHERE ctid = ANY (ARRAY("
                "SELECT ctid FROM edge.nonces WHERE expires_at < %s LIMIT %s))",
                (now, most),
            ).rowcount
        return purged


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """The parts of a request a device signs. `body` is None when it is streamed to where it is hashed."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None
    streamed_sha256: str | None = None


class Devices:
    """Checks the signatures of devices. All methods block: call them in a thread."""

    def __init__(self, directory: DeviceDirectory, nonces: Nonces) -> None:
        self._directory = directory
        self._nonces = nonces

    def principal(self, request: SignedRequest, now: datetime) -> tuple[Principal, signatures.Claimed]:
        """The device that signed this request.

        Raises:
            One of the signature refusals, or the refusal of a device that takes no part.
        """
        try:
            claim = signatures.claimed(request.headers)
            signatures.check_time(claim, now)
            device = self._signer(request, claim.device_id)
            if request.body:
                signatures.check_digest(request.headers, request.body)
            elif request.streamed_sha256 is not None:
                signatures.check_digest_is(request.headers, request.streamed_sha256)
        except SIGNATURE_ERRORS as error:
            raise of_signature(error) from error
        if device.refusal is not None:
            raise device.refusal(f"device {claim.device_id}")
        expires_at = now + signatures.MAX_SKEW
        principal = Principal("device", str(claim.device_id), device.owner_id, expires_at, device.key_number)
        return principal, claim

    def _signer(self, request: SignedRequest, device_id: UUID) -> EnrolledDevice:
        """The device whose signature is under the request; it may have a new key that this process has not heard of."""
        device = self._directory(device_id)
        if device is not None:
            with suppress(signatures.SignatureInvalid):
                _check(request, device)
                return device
        device = self._directory.look_again(device_id)
        if device is None:
            raise UnknownDevice(f"no enrolled device {device_id}")
        _check(request, device)
        return device

    def spend(self, claim: signatures.Claimed) -> None:
        """Use up the signature's nonce. Raises SignatureMissing when it has none, SignatureReplayed when it is used."""
        if claim.nonce is None:
            raise SignatureMissing("the signature has no nonce")
        self._nonces.spend(claim.device_id, claim.nonce, claim.created + 2 * signatures.MAX_SKEW)


def _check(request: SignedRequest, device: EnrolledDevice) -> None:
    has_body = request.body is None or bool(request.body)
    signatures.check_signature(request.method, request.url, request.headers, device.public_key, has_body=has_body)
